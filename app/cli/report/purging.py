"""``cordon report purge``: reports whose time is over go, from the files of the database too."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import FailedError, UsageError, emit_json, emit_table, say
from app.cli.report.reading import AsJson

if TYPE_CHECKING:
    from app.retention.purge import Planned

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed, and when.")]
On = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="With --dry-run: as it will be on that day, like 2027-03-01 (UTC)."),
]


def purge(dry_run: DryRun = False, on: On = None, as_json: AsJson = False) -> None:
    """Remove the reports whose time is over, and erase them from the database's files.

    The worker does the same once a day. CORDON_JURISDICTION says whose law counts; a hold stands over it.
    What was removed leaves its id, its times and how it ended, and the entries of the audit log. The
    database's files are written anew, which takes about as long as copying them. Backups, replicas and the
    cells of flash disks are yours to clear: docs/retention.md says how.

        cordon report purge --dry-run
        cordon report purge --dry-run --on 2027-03-01
        cordon report purge
    """
    if on is not None and not dry_run:
        raise UsageError("--on goes with --dry-run: nothing is removed before its time")
    if dry_run:
        _show(asyncio.run(_plan()), _moment(on), as_json=as_json)
        return
    removed, erased = asyncio.run(_purge())
    if as_json:
        for report_id in removed:
            emit_json({"id": report_id})
    say(f"removed: {len(removed)} reports")
    if not erased:
        raise FailedError(
            "what was removed may still stand in the database's files: something else is reading them. Run "
            "this again; the worker tries again every minute"
        )
    if removed:
        say("nothing of them is left in the database's files; backups and replicas are yours to clear")


def _show(planned: "tuple[Planned, ...]", now: datetime, *, as_json: bool) -> None:
    rows = []
    for each in planned:
        ends = each.due.at
        if as_json:
            emit_json(
                {
                    "id": each.report.id,
                    "state": each.report.state,
                    "removed_at": ends.isoformat() if ends is not None else None,
                    "why": each.due.why,
                    "due": each.is_over(now),
                }
            )
        until = f"{ends:%Y-%m-%d %H:%M}" if ends is not None else "-"
        gone = "removed" if each.is_over(now) else "kept"
        rows.append((each.report.id, each.report.state, until, each.due.why, gone))
    if not as_json:
        emit_table(("id", "state", "kept until (UTC)", "because", f"on {now:%Y-%m-%d}"), rows)
    due = sum(each.is_over(now) for each in planned)
    say(f"{due} of {len(planned)} reports would be removed; nothing was")


def _moment(on: str | None) -> datetime:
    if on is None:
        return datetime.now(UTC)
    try:
        day = datetime.strptime(on, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError("--on is a date like 2027-03-01") from None
    return day.replace(hour=23, minute=59, second=59)


async def _plan() -> "tuple[Planned, ...]":
    from app.cli.state import open_state, read_settings
    from app.retention import purge as purging

    settings = read_settings()
    async with open_state(settings) as database:
        return await purging.plan(database, settings.retention)


async def _purge() -> tuple[tuple[str, ...], bool]:
    from app.cli.state import BY, open_state, read_settings
    from app.retention import purge as purging

    settings = read_settings()
    async with open_state(settings) as database:
        removed = await purging.purge(database, settings.retention, datetime.now(UTC), by=BY)
        return removed, await purging.erase(database)
