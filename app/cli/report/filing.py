"""``cordon report file``: file one approved report now, without waiting for the worker or running one."""

import asyncio
from typing import TYPE_CHECKING

from app.cli.console import FailedError, emit, emit_json
from app.cli.report.reading import AsJson, ReportId

if TYPE_CHECKING:
    from app.filing.turn import Outcome
    from app.store.reports.reports import Report


def file_report(report_id: ReportId, as_json: AsJson = False) -> None:
    """File one approved report with the host that CORDON_CYBERTIP names, by the worker's own steps.

    It needs what the worker needs: the host's credentials, and the worker's key. A worker that runs meanwhile
    is no danger: only one of the two has the turn. The exit code is 0 only if the host has the report.

        cordon report file 01J9ZK3V5T8QX2M4N6P8R0S1T2
    """
    outcome, report = asyncio.run(_file(report_id))
    if as_json:
        emit_json({"id": report.id, "state": report.state.value, "parked_cause": report.cause})
    else:
        emit(f"report {report.id} is {report.state.value}")
    if outcome is None:
        raise FailedError(_why_not(report))
    if outcome.value in _WORDS:
        raise FailedError(f"the host does not have it: {_WORDS[outcome.value]}")


_WORDS = {
    "retracted": "a custodian rejected it meanwhile, and what was open there is withdrawn",
    "parked": "a person must look; 'cordon report show' has the cause, and docs/filing.md what to do",
    "postponed": "it did not answer as it should; the worker tries again, and so does 'cordon report retry'",
    "stopped": "it refuses Cordon itself; are the credentials right?",
    "overtaken": "somebody else has the turn, or decided otherwise meanwhile",
}


def _why_not(report: "Report") -> str:
    from app.media import BankKind
    from app.store.reports.filings import TO_FILE

    if report.state not in TO_FILE:
        return "only a report that was approved, and is not filed yet, can be filed"
    if report.bank_kind is not BankKind.CSAM:
        return "only reports of kind csam are filed with the CyberTipline; see 'cordon report export'"
    return "somebody has the turn at it, or it was put off; 'cordon report retry' makes it due at once"


async def _file(report_id: str) -> "tuple[Outcome | None, Report]":
    from app.cli.state import open_state, read_settings
    from app.filing.filer import open_filer
    from app.kernel import harden_this_process
    from app.store.reports import reports

    harden_this_process()
    settings = read_settings()
    async with open_state(settings) as database, open_filer(settings, database) as filer:
        if filer.desk is None:
            raise FailedError("filing is off; CORDON_CYBERTIP names where reports are filed")
        async with database.connect() as connection:
            await reports.get(connection, report_id)
        outcome = await filer.file_one(filer.desk, report_id)
        async with database.connect() as connection:
            return outcome, await reports.get(connection, report_id)
