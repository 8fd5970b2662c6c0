"""``cordon report purge``: reports whose time is over go, from the files of the database too."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import FailedError, UsageError, emit_json, emit_table, say
from app.cli.report.reading import AsJson

if TYPE_CHECKING:
    from app.custody.roster import Roster
    from app.retention.purge import Planned
    from app.store.database import Database

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
    removed, altered, erased = asyncio.run(_purge())
    if as_json:
        for report_id in removed:
            emit_json({"id": report_id})
    say(f"removed: {len(removed)} reports")
    if altered:
        say(
            f"warning: {altered} reports are not as the audit log has them, or nobody signed how they ended; "
            "none of these was removed: 'cordon audit verify' names them"
        )
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


async def _purge() -> tuple[tuple[str, ...], int, bool]:
    """What was removed, how many reports an alarm stands of, and whether all of it is erased."""
    from app.cli.state import BY, open_custody, read_settings
    from app.retention import purge as purging
    from app.store import alarms
    from app.store.alarms import AlarmKind

    settings = read_settings()
    async with open_custody() as (database, pins):
        roster = pins.read_if_there()
        await _check_log(database, roster)
        removed = await purging.purge(database, settings.retention, roster, datetime.now(UTC), by=BY)
        erased = await purging.erase(database)
        async with database.connect() as connection:
            return removed, (await alarms.count_standing(connection))[AlarmKind.REPORT_ALTERED], erased


async def _check_log(database: "Database", roster: "Roster") -> None:
    """Return only if the audit log is whole, as far as can be told here."""
    from app.store import audit, checkpoints
    from app.store.audit import Head

    async with database.connect() as connection:
        known = (await checkpoints.stored(connection, roster))[0]
        examined = await audit.examine(connection, [Head(each.seq, each.digest) for each in known])
    if examined.finding is not None:
        raise FailedError(
            f"the audit log was changed: {checkpoints.told(examined.finding)}; nothing was removed by it"
        )
