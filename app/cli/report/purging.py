"""``cordon report purge``: reports whose time is over go, from the files of the database too."""

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.console import FailedError, UsageError, emit_json, emit_table, say
from app.cli.report.opening import read_key
from app.cli.report.reading import AsJson

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.custody.roster import Roster
    from app.retention.purge import Planned
    from app.store.database import Database

_LEFT: Final = "nothing of them is left in the database's files; backups and replicas are yours to clear"
_LEFT_ON_POSTGRESQL: Final = (
    "nothing of them is left in the database's tables; PostgreSQL's write-ahead log holds it until that is "
    "recycled (docs/retention.md), and backups and replicas are yours to clear"
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed, and when.")]
On = Annotated[
    str | None,
    typer.Option(metavar="DATE", help="With --dry-run: as it will be on that day, like 2027-03-01 (UTC)."),
]

Signer = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        dir_okay=False,
        help="Whose key signs the removals: a custodian's. By default the worker's, if it can be read here.",
        show_default=False,
    ),
]


def purge(dry_run: DryRun = False, on: On = None, identity: Signer = None, as_json: AsJson = False) -> None:
    """Remove the reports whose time is over, and erase them from the database's files.

    The worker does the same once a day. CORDON_JURISDICTION says whose law counts; a hold stands over it.
    Each removal is signed, with the worker's key or a custodian's, so that 'cordon audit verify' tells it
    from a report that somebody deleted.
    What was removed leaves its id, its times and how it ended, and the entries of the audit log. The
    database's files are written anew, which takes about as long as copying them. Backups, replicas and the
    cells of flash disks are yours to clear: docs/retention.md says how.

        cordon report purge --dry-run
        cordon report purge --dry-run --on 2027-03-01
        cordon report purge
        cordon report purge --identity ada.key
    """
    if on is not None and not dry_run:
        raise UsageError("--on goes with --dry-run: nothing is removed before its time")
    if dry_run:
        _show(asyncio.run(_plan()), _moment(on), as_json=as_json)
        return
    done = asyncio.run(_purge(read_key(identity) if identity is not None else None))
    if as_json:
        for report_id in done.removed:
            emit_json({"id": report_id})
    say(f"removed: {len(done.removed)} reports")
    if done.altered:
        say(
            f"warning: {done.altered} reports are not as the audit log has them, or nobody signed how they "
            "ended or that they were removed; Cordon removed none of these: 'cordon audit verify' names them"
        )
    if done.unsigned:
        raise FailedError(
            "the time of others is over, and nobody signs their removal here: run this as the worker's user, "
            "with its key pinned, or with --identity and a custodian's key"
        )
    if not done.erased:
        raise FailedError(
            "what was removed may still stand in the database's files: something else is reading them. Run "
            "this again; the worker tries again every minute"
        )
    if done.removed:
        say(_LEFT if done.in_place else _LEFT_ON_POSTGRESQL)


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


@dataclass(frozen=True)
class _Done:
    """What a purge came to.

    Attributes:
        removed: their ids.
        altered: of how many the alarm stands that they are not as the log has them.
        unsigned: whether nobody signs the removal of others.
        erased: whether the database's files hold nothing of them.
        in_place: whether these are all files that the database has.
    """

    removed: tuple[str, ...]
    altered: int
    unsigned: bool
    erased: bool
    in_place: bool


async def _purge(identity: "Identity | None") -> _Done:
    from app.cli.state import BY, open_custody, read_settings
    from app.retention import purge as purging
    from app.store import alarms
    from app.store.alarms import AlarmKind
    from app.store.record.witness import Witness

    settings = read_settings()
    signer, witness = identity, None
    if signer is None and (signer := _of_worker(settings.worker_key_path)) is not None:
        # The worker's key signs no more by command than the worker would by itself.
        witness = Witness(settings.worker_memory_path)
    async with open_custody() as (database, pins):
        roster = pins.read_if_there()
        await _check_log(database, roster)
        removed = await purging.purge(
            database,
            settings.retention,
            roster,
            datetime.now(UTC),
            by=BY,
            identity=signer,
            witness=witness,
        )
        erased = await purging.erase(database)
        async with database.connect() as connection:
            stand = await alarms.count_standing(connection)
        unsigned = stand[AlarmKind.REMOVAL_UNSIGNED] > 0
        return _Done(removed, stand[AlarmKind.REPORT_ALTERED], unsigned, erased, in_place=database.is_sqlite)


def _of_worker(path: Path) -> "Identity | None":
    """The worker's identity, where this user can read it."""
    return read_key(path) if os.access(path, os.R_OK) else None


async def _check_log(database: "Database", roster: "Roster") -> None:
    """Return only if the audit log is whole, as far as can be told here."""
    from app.store.record import audit, checkpoints
    from app.store.record.audit import Head

    async with database.connect() as connection:
        known = (await checkpoints.stored(connection, roster))[0]
        examined = await audit.examine(connection, [Head(each.seq, each.digest) for each in known])
    if examined.finding is not None:
        raise FailedError(
            f"the audit log was changed: {checkpoints.told(examined.finding)}; nothing was removed by it"
        )
