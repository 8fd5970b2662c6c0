"""What is kept, for how long, and what a person must look at."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from app.cli.console import FailedError, emit_json, emit_table
from app.cli.report.reading import AsJson

if TYPE_CHECKING:
    from app.store.alarms import Alarm
    from app.store.reports.removal import Tombstone
    from app.store.reports.reports import Report


def list_alarms(as_json: AsJson = False) -> None:
    """List what a person must look at, oldest first, and what to do about it.

    cordon report alarms
    """
    from app.store.alarms import ADVICE

    rows = []
    for each in asyncio.run(_alarms()):
        if as_json:
            emit_json(
                {"kind": each.kind.value, "subject": each.subject, "raised_at": each.raised_at.isoformat()}
            )
        rows.append((f"{each.raised_at:%Y-%m-%d %H:%M}", each.kind.value, each.subject, ADVICE[each.kind]))
    if not as_json:
        emit_table(("since (UTC)", "alarm", "of", "what to do"), rows)


def count_reports(as_json: AsJson = False) -> None:
    """Count the reports by year, kind and state, removed ones too, for the figures that a law may ask for.

    The year is that in which the medium was found (UTC), and the state of a removed report is how it ended.
    Numbers alone: nothing of any report is in them.

    cordon report count
    cordon report count --json
    """
    counted, unreadable = asyncio.run(_count())
    groups = sorted({group for group, _ in counted})
    rows = [(*group, counted[group, False] + counted[group, True], counted[group, True]) for group in groups]
    names = ("year", "bank_kind", "state", "reports", "removed")
    if as_json:
        for row in rows:
            emit_json(dict(zip(names, row, strict=True)))
    else:
        shown = ("year", "kind", "state", "reports", "of them removed")
        emit_table(shown, [tuple(map(str, row)) for row in rows])
    if unreadable:
        raise FailedError(
            f"{unreadable} reports cannot be read and are not counted: somebody changed the database. "
            "'cordon audit verify' says where, as far as the audit log tells"
        )


async def _count() -> "tuple[Counter[tuple[tuple[int, str, str], bool]], int]":
    """How many reports there are and were of each year, kind and state; and how many cannot be read."""
    from app.cli.state import open_state
    from app.store.reports import removal, reports

    counted: Counter[tuple[tuple[int, str, str], bool]] = Counter()
    async with open_state() as database, database.connect() as connection:
        gone = await removal.every(connection)
        ids = await reports.every_id(connection)
        unreadable = 0
        for at in range(0, len(ids), reports.MAX_LISTED):
            page = await reports.get_readable(connection, ids[at : at + reports.MAX_LISTED])
            unreadable += len(page.unreadable)
            counted.update((_group(each), False) for each in page.reports)
        counted.update((_group(each), True) for each in gone)
    return counted, unreadable


def _group(each: "Report | Tombstone") -> tuple[int, str, str]:
    return each.created_at.year, each.bank_kind.value, each.state.value


async def _alarms() -> "tuple[Alarm, ...]":
    from app.cli.state import open_state
    from app.store import alarms

    async with open_state() as database, database.connect() as connection:
        return await alarms.standing(connection)
