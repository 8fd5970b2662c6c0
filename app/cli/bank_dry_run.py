"""What a bank would match of clear traffic, as told on a terminal."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator

from app.banks.dry_run import DryRun, dry_run
from app.banks.importing import ListFile
from app.cli.console import FailedError, UsageError, emit_json, emit_table, printable, say
from app.cli.importing import read_signals
from app.cli.state import open_state
from app.media import BankAction, SignalType, tier_of


def show(name: str, threshold: int | None, listed: ListFile | None, *, as_json: bool) -> None:
    """Try a bank and tell what it would match.

    Raises:
        UsageError: the list is bad, or holds nothing to try.
        FailedError: nothing was kept to try it on.
    """
    values = None
    if listed is not None:
        values = [each.value for each in read_signals(listed) if each.type is SignalType.PDQ]
        if not values:
            raise UsageError("the list holds no PDQ values, and nothing else can be tried")
    with _progress() as progress:
        tried = asyncio.run(_dry_run(name, threshold, values, progress))
    if not tried.media:
        raise FailedError(
            "no PDQ value of clear media is kept; set CORDON_KEEP_CLEAR_DAYS where gates run, and wait"
        )
    if as_json:
        emit_json(
            {
                "bank": tried.bank,
                "threshold": tried.threshold,
                "media": tried.media,
                "entries": tried.entries,
                "matched": tried.matched,
                "by_action": {action.value: tried.by_action.get(action, 0) for action in BankAction},
                "by_distance": list(tried.by_distance),
                "busiest": [{"entry_id": entry, "media": media} for entry, media in tried.busiest],
            }
        )
        return
    share = tried.matched / tried.media
    say(
        f"bank {printable(name)} with {tried.entries} PDQ entries, at {tried.threshold} bits, would match "
        f"{tried.matched} of {tried.media} clear media ({share:.3%})"
    )
    rows = [
        (str(distance), str(tier_of(SignalType.PDQ, distance) or ""), str(count))
        for distance, count in enumerate(tried.by_distance)
        if count
    ]
    emit_table(("distance", "tier", "media"), rows)
    if tried.busiest:
        emit_table(("entry", "media"), [(str(entry), str(media)) for entry, media in tried.busiest])


async def _dry_run(
    name: str,
    threshold: int | None,
    listed: list[bytes] | None,
    progress: Callable[[int, int], None],
) -> DryRun:
    async with open_state() as database:
        return await dry_run(database, name, threshold=threshold, listed=listed, progress=progress)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar that runs on a terminal while values are compared."""
    if not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
