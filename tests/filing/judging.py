"""What a filer may not do on its way, however well it ends: watched on its line to the double, call by call.

How a report ended does not tell whether that was luck. So each ``/finish`` is held against the audit log when
it arrives there, and what a turn came to against the answer that it had.
"""

import json
import re
from typing import Final
from urllib.parse import parse_qs

import httpx
from sqlalchemy import func, select

from app.filing.turn import Outcome
from app.store.reports.filing_log import AFRESH_EVENT, FINISHING_EVENT, WITHDRAWN_EVENT
from app.store.schema import audit
from tests.filing.office import Office

FILED: Final = (0, 5102)
RETRIED: Final = (1000, 1100, 1300, 2000, 3000)
PARKING: Final = (1210, 4000, 4100, 5001, 5101, 9999)

_DECISIONS: Final = ("report.approved", "report.rejected", WITHDRAWN_EVENT)
_ATTEMPTS: Final = (FINISHING_EVENT, "report.retracted", AFRESH_EVENT)
"""That it is about to be finished, and what ends that."""
_WHOLE: Final = re.compile(
    rb"<\?xml [^>]*\?>\s*<(report(?:Done)?Response)><responseCode>(\d+)</responseCode>.{0,2000}</\1>\s{0,9}",
    re.DOTALL,
)


def call_of(request: httpx.Request) -> str:
    """The last part of its path."""
    return request.url.path.rpartition("/")[2]


def code_of(response: httpx.Response) -> int | None:
    """The code of an answer of which nothing was spoilt; None of any other."""
    assert isinstance(response.stream, httpx.ByteStream)
    whole = _WHOLE.fullmatch(b"".join(response.stream))
    return int(whole[2]) if whole and "content-encoding" not in response.headers else None


async def newest_entry(office: Office) -> int:
    """The number of the audit log's newest entry."""
    async with office.database.connect() as connection:
        return (await connection.execute(select(func.max(audit.c.seq)))).scalar_one_or_none() or 0


async def wrong_to_finish(office: Office, request: httpx.Request, begun: int) -> str | None:
    """Why a ``/finish`` that arrives may not be sent; None if it may.

    Args:
        office: whose log it is held against.
        request: the call.
        begun: number of the audit log's newest entry when the turn began.
    """
    named = parse_qs(request.content.decode())["id"][0]
    there = office.double.service.reports.get(named)
    if there is None or there.sender_id is None:
        return "the authority never gave the id that is finished"
    async with office.database.connect() as connection:
        rows = await connection.execute(
            select(audit.c.seq, audit.c.event, audit.c.details)
            .where(audit.c.subject == there.sender_id, audit.c.event.in_([*_DECISIONS, *_ATTEMPTS]))
            .order_by(audit.c.seq)
        )
        entries = [(row.seq, row.event, json.loads(row.details)) for row in rows]
    attempts = [
        (seq, said.get("authority_report_id") if event == FINISHING_EVENT else None)
        for seq, event, said in entries
        if event in _ATTEMPTS
    ]
    told = [number for number, (_, under) in enumerate(attempts) if under == named]
    if not told:
        return "finished, and the log did not tell before"
    before = [under for _, under in attempts[: told[0]]][-1:]
    if before not in ([], [None]):
        return "finished, and another id was to be finished before"
    looked = max(begun, attempts[told[-1]][0])
    decided = [event for seq, event, _ in entries if event in _DECISIONS and seq <= looked]
    return None if decided[-1] == "report.approved" else "finished, and it was rejected before"


def wrong_to_conclude(call: str, code: int, outcome: Outcome | None) -> str | None:
    """Why a turn may not come to this after such an answer to its last call; None if it may."""
    if call == "submit" and code == 0:
        return None
    if call == "finish" and code in FILED:
        may = {Outcome.FILED}
    elif code in RETRIED:
        may = {Outcome.POSTPONED, Outcome.STOPPED}
    else:
        may = {Outcome.PARKED}
    if outcome in {*may, Outcome.OVERTAKEN}:
        return None
    return f"{outcome} after /{call} was answered with {code}"
