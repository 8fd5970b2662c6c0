"""What is kept, for how long, and what a person must look at."""

import asyncio
from typing import TYPE_CHECKING

from app.cli.console import emit_json, emit_table
from app.cli.report.reading import AsJson

if TYPE_CHECKING:
    from app.store.alarms import Alarm


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


async def _alarms() -> "tuple[Alarm, ...]":
    from app.cli.state import open_state
    from app.store import alarms

    async with open_state() as database, database.connect() as connection:
        return await alarms.standing(connection)
