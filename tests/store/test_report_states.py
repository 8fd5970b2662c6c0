"""States: who may go where, what leaves with the queue, and one audit entry for each step."""

import json
from typing import Any

import pytest
from sqlalchemy import select, update

from app.errors import ConflictError, NotFoundError
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports import reports
from app.store.reports.report_states import DECIDED, TRANSITIONS, State
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit, idempotency, notices
from app.store.schema import reports as table
from tests.chain import verify_chain
from tests.pins import add_custodian, pins_of
from tests.stubs import stub


@pytest.fixture
async def outbox(database: Database, store: StoreSettings) -> SealedOutbox:
    pins = pins_of(store)
    await add_custodian(database, pins)
    return SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)


async def _rows(database: Database, wanted: Any) -> list[Any]:
    async with database.connect() as connection:
        return list((await connection.execute(wanted)).all())


async def _move(database: Database, report_id: str, to: State, **given: Any) -> reports.Report:
    cause = "asked" if to is State.PARKED else None
    async with database.begin() as connection:
        return await reports.move(connection, report_id, to=to, cause=cause, **given)


async def test_a_report_goes_where_the_table_says_and_nowhere_else(
    database: Database, outbox: SealedOutbox
) -> None:
    """All eighty-one steps; one that is refused leaves nothing behind."""
    report_id = (await outbox.commit(stub())).id
    for was in State:
        for to in State:
            async with database.begin() as connection:
                await connection.execute(update(table).values(state=was.value, decided_at=None))
            entries = len(await _rows(database, select(audit.c.seq)))
            if to in TRANSITIONS[was]:
                report = await _move(database, report_id, to)
                assert (report.state, report.cause) == (to, "asked" if to is State.PARKED else None)
                assert (report.decided_at is not None) == (to in DECIDED)
                assert report.changed_at is not None
                assert len(await _rows(database, select(audit.c.seq))) == entries + 1
            else:
                with pytest.raises(ConflictError, match=f"is {was.value}, and cannot become {to.value}"):
                    await _move(database, report_id, to)
                ((state,),) = await _rows(database, select(table.c.state))
                assert state == was.value
                assert len(await _rows(database, select(audit.c.seq))) == entries


async def test_what_is_filed_is_never_taken_for_unfiled() -> None:
    """Nothing leads out of it, and nothing but a queue leads to a decision by itself."""
    assert TRANSITIONS[State.FILED] == TRANSITIONS[State.FILED_MANUALLY] == frozenset()
    assert set(TRANSITIONS) == set(State)
    assert State.QUEUED not in TRANSITIONS[State.APPROVED] | TRANSITIONS[State.REJECTED]


async def test_who_leaves_the_queue_loses_the_keyed_hashes_of_medium_and_place(
    database: Database, outbox: SealedOutbox
) -> None:
    """Of that report alone: a thief can test no guess of it any more, and nothing joins it."""
    kept = await outbox.commit(stub("kept", idempotency_key="kept"))
    gone = await outbox.commit(stub("gone", idempotency_key="gone"))
    await _move(database, gone.id, State.REJECTED, details={"decision_sha256": "d" * 64})
    hashes = dict(tuple(row) for row in await _rows(database, select(table.c.id, table.c.place_hash)))
    assert (hashes[gone.id], hashes[kept.id] is None) == (None, False)
    assert await _rows(database, select(idempotency.c.report_id)) == [(kept.id,)]
    again = await outbox.commit(stub("gone", idempotency_key="gone"))
    assert (again.joined, again.id == gone.id) == (False, False)


async def test_each_step_is_told_and_recorded_with_where_it_came_from(
    database: Database, outbox: SealedOutbox
) -> None:
    report_id = (await outbox.commit(stub())).id
    await _move(database, report_id, State.APPROVED, details={"decision_sha256": "d" * 64})
    await _move(database, report_id, State.PARKED)
    entries = await _rows(
        database, select(audit.c.event, audit.c.details).where(audit.c.subject == report_id).order_by("seq")
    )
    assert [(row.event, json.loads(row.details)) for row in entries[1:]] == [
        ("report.approved", {"from": "queued", "decision_sha256": "d" * 64}),
        ("report.parked", {"from": "approved", "cause": "asked"}),
    ]
    told = await _rows(database, select(notices.c.state).order_by(notices.c.created_at))
    assert [row.state for row in told] == ["queued", "approved", "parked"]
    async with database.connect() as connection:
        assert await verify_chain(connection) is None


async def test_a_step_that_expects_another_state_is_refused(database: Database, outbox: SealedOutbox) -> None:
    """And one of a report that is not there; a cause goes with parked alone."""
    report_id = (await outbox.commit(stub())).id
    with pytest.raises(ConflictError):
        await _move(database, report_id, State.REJECTED, expect={State.PARKED})
    with pytest.raises(NotFoundError):
        await _move(database, "01J9ZK3V5T8QX2M4N6P8R0S1T2", State.REJECTED)
    for to, cause in ((State.PARKED, None), (State.REJECTED, "why")):
        async with database.begin() as connection:
            with pytest.raises(ValueError, match="a cause goes with parked"):
                await reports.move(connection, report_id, to=to, cause=cause)
