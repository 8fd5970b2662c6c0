"""Reports brought to where they end, with all that Cordon signs and records on the way there."""

from dataclasses import replace
from datetime import UTC, datetime

from app.custody import ending
from app.custody.decision import Action
from app.custody.ending import Ending
from app.custody.identity import Identity, fingerprint, generate
from app.custody.roster import RosterFile, WorkerKeys
from app.store.database import Database
from app.store.reports import accepting, endings, reports
from app.store.reports.report_states import State
from tests.deciding import approving, deciding, seen


def pin_worker(pins: RosterFile) -> Identity:
    """Pin a new worker; its identity."""
    worker = generate()
    pins.write(replace(pins.read(), worker=WorkerKeys.of(worker)))
    return worker


async def bring_to(
    database: Database, pins: RosterFile, report_id: str, state: State, *, ada: Identity, worker: Identity
) -> None:
    """Bring a queued report to a state by decisions of a custodian, and the word of the worker."""

    async def decide(action: Action) -> None:
        files = await seen(database, report_id, pins.read())
        document = (
            approving(report_id, files, ada)
            if action is Action.APPROVE
            else deciding(action, report_id, files, ada)
        )
        async with database.begin() as connection:
            await accepting.take(
                connection, document, pins.read(), report_id=report_id, actions=(action,), by="cli"
            )

    if state is State.PARKED:
        async with database.begin() as connection:
            await reports.move(connection, report_id, to=state, cause="finish_unknown")
    for action in _DECIDED.get(state, ()):
        await decide(action)
    if state in {State.FILED, State.DRY_RUN, State.RETRACTED}:
        async with database.begin() as connection:
            await reports.move(
                connection,
                report_id,
                to=state,
                receipt_at=datetime.now(UTC) if state is State.FILED else None,
                details={endings.MEMBER: word_of(worker, report_id, state)},
            )


def word_of(worker: Identity, report_id: str, state: State) -> str:
    """What a worker signs of the end of a report."""
    said = Ending(
        report_id, state.value, "production", "4711", datetime.now(UTC), fingerprint(worker.public_key)
    )
    return ending.sign(said, worker)


_DECIDED = {
    State.APPROVED: (Action.APPROVE,),
    State.FILED: (Action.APPROVE,),
    State.DRY_RUN: (Action.APPROVE,),
    State.REJECTED: (Action.REJECT,),
    State.RETRACTED: (Action.APPROVE, Action.REJECT),
    State.FILED_MANUALLY: (Action.FILED,),
}
