"""What a report on its way to the authority waits for, said where somebody would look for it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from app.cli.console import printable
from app.media import PARKED_WITH_ITS_ENTRY

_UNASKED: Final = (
    "rejected, and the authority may have it: {2}, or ask now: "
    "'cordon report file {0}'. Who has no access to its API any more asks it otherwise: 'cordon report filed "
    "{0}' if it has the report, and if not, 'cordon report reject {0}' once more, {1}"
)
_UNFILED: Final = "{1}, or file it now: 'cordon report file {0}'"
_NO_WORKER: Final = "no worker runs that {}; start one"
_FILING_OFF: Final = "filing is off in the worker that runs; set CORDON_CYBERTIP there and start it anew"
_REFUSED: Final = (
    "the authority refuses Cordon itself (alarm filing_refused, {0}): the worker sends no report before its "
    "/status is answered well, which it asks every ten minutes; check CORDON_CYBERTIP_USER and its password"
)

_BLOCKED: Final = (
    "a worker that files nothing before somebody mends its {0} (alarm worker_blocked): 'cordon report "
    "alarms' has what to do"
)
_LOG_BROKEN: Final = (
    "the audit log, which does not follow on from what the worker saw of it (alarm audit_broken): nothing is "
    "filed before somebody found out why; 'cordon report alarms' has what to do"
)

_PARKED: Final = "a person: 'Causes of parked' in docs/filing.md has what to do about {}"
_PARKED_WITH_ITS_ENTRY: Final = (
    "somebody to decide on the bank entry that matches very many media (alarm bank_entry_parked); "
    "docs/banks.md has the commands"
)

_SECOND: Final = "one custodian {0}, and a second one must: '{1}'"
_DONE: Final = {
    "approve": "approved it",
    "reject": "rejected it",
    "destroy": "ordered that it is destroyed",
    "afresh": "said that it is opened anew",
    "filed": "said that it was filed by hand",
}
_COMMANDS: Final = {
    "approve": "cordon report approve {} --identity THEIR.key",
    "reject": "cordon report reject {} --identity THEIR.key --reason -",
    "destroy": "cordon report destroy {} --identity THEIR.key --reason -",
    "afresh": "cordon report retry {} --afresh --identity THEIR.key --reason -",
    "filed": "cordon report filed {} --identity THEIR.key --reference -",
}
"""By what one of two custodians decided (``app.custody.decision.Action``)."""

if TYPE_CHECKING:
    from app.store.reports.filings import Transaction
    from app.store.reports.reports import Report


async def waits_for(connection: "Transaction", found: "Sequence[Report]") -> dict[str, str]:
    """Of each report, by id, what it waits for if nobody would guess; in words.

    A rejection of what the authority may have is no end before the authority said so, and whoever runs no
    worker has nobody who asks. Where one of two custodians decided, the state tells nothing of it.
    """
    from app.store.reports import first_words
    from app.store.reports.report_states import State

    parked = {each.id: _of_parked(each.cause) for each in found if each.state is State.PARKED}
    way = parked | await way_waits_for(connection, found)
    said = await first_words.standing(connection, [each.id for each in found])
    waiting = {report_id: [words] for report_id, words in way.items()}
    for report_id, actions in said.items():
        seconds = [_SECOND.format(_DONE[each], _COMMANDS[each].format(report_id)) for each in actions]
        waiting.setdefault(report_id, []).extend(seconds)
    return {report_id: "; ".join(words) for report_id, words in waiting.items()}


async def way_waits_for(connection: "Transaction", found: "Sequence[Report]") -> dict[str, str]:
    """What reports on their way to the authority wait for."""
    from app.store import processes
    from app.store.reports import filing_log, filing_orders, filings

    on_their_way = [each.id for each in found if each.state in filings.TO_FILE]
    if not on_their_way:
        return {}
    taken_back = await filing_log.taken_back(connection, on_their_way)
    roles = {each.role for each in await processes.live(connection)}
    if processes.WORKER in roles:
        told = dict.fromkeys(taken_back, "rejected: the worker asks the authority for it back")
        for stopped in await _stops_all(connection):
            told |= {each: f"{told[each]}; {stopped}" if each in told else stopped for each in on_their_way}
        return told
    nobody = _FILING_OFF if processes.UPKEEP in roles else _NO_WORKER
    return {
        each: _UNASKED.format(
            each, _when(taken_back[each] + filing_orders.ASKED_WITHIN), nobody.format("asks for it back")
        )
        if each in taken_back
        else _UNFILED.format(each, nobody.format("files it"))
        for each in on_their_way
    }


async def _stops_all(connection: "Transaction") -> list[str]:
    """Of what keeps the worker from filing anything, as the alarms tell it."""
    from app.store import alarms
    from app.store.record import witness

    stops = []
    if refusing := await alarms.subjects_of(connection, alarms.AlarmKind.FILING_REFUSED):
        stops.append(_REFUSED.format(", ".join(refusing)))
    if lacking := await alarms.subjects_of(connection, alarms.AlarmKind.WORKER_BLOCKED):
        stops.append(_BLOCKED.format(", ".join(lacking)))
    if witness.SUBJECT in await alarms.subjects_of(connection, alarms.AlarmKind.AUDIT_BROKEN):
        stops.append(_LOG_BROKEN)
    return stops


def _of_parked(untrusted_cause: str | None) -> str:
    if untrusted_cause == PARKED_WITH_ITS_ENTRY:
        return _PARKED_WITH_ITS_ENTRY
    return _PARKED.format(printable(untrusted_cause or "no cause that is told"))


def _when(last_word_at: datetime) -> str:
    """From when on another rejection is a person's last word."""
    return "now" if last_word_at <= datetime.now(UTC) else f"after {last_word_at:%Y-%m-%d %H:%M} UTC"
