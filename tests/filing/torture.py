"""Filing under torture: schedules of kills, faults, races and jumping clocks, drawn from a seed.

    python -m tests.filing.torture --schedules 2000

In each schedule a few approved reports are filed by two workers with a clock each, while one of them is
killed at some await, the database fails before or after a commit, the double spoils answers or refuses,
clocks jump, and a lease ends in the middle of a call while the other worker takes over. Then all is well
again for long enough, and each report must be finished exactly once at the double, with the very bytes that
were approved, or be parked; never twice, never lost, and parked only where the authority gave a reason.

What goes wrong follows from the seed. How the threads of database drivers interleave within that does not.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiosqlite
import httpx
from sqlalchemy import event

from app.errors import NotReadyError
from app.filing.cybertip.client import open_client
from app.filing.cybertip.environment import DOUBLE_PASSWORD, DOUBLE_USER, Endpoint, Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.cybertip_double.service import State as There
from app.filing.filer import Desk, Outcome, file_next
from app.settings import StoreSettings
from app.store.audit import verify_chain
from app.store.database import Database
from app.store.filings import LEASE, LONGEST_PAUSE
from app.store.report_states import State
from tests.filing.office import URL, Clock, Line, Office, document, open_office

AWAITS: Final = 150
"""More than a turn has."""

HARMLESS: Final = sorted(set(Fault) - {Fault.SLOW, Fault.NO_REPORT_ID, Fault.REDIRECT})
RETRIED: Final = (1000, 1100, 1300, 2000, 3000)
PARKING: Final = (1210, 4000, 4100, 5001, 5101, 9999)


class KilledError(BaseException):
    """The process is gone: nothing that it would have done after this await is done."""


class Killable:
    """Runs a coroutine and ends it at its n-th await, whatever is going on then.

    The awaited thing itself goes on, as a statement does that a dead client sent.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], at: int | None) -> None:
        self.work = work
        self.at = at
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        sent: Any = None
        error: BaseException | None = None
        steps = self.work.__await__()
        while True:
            try:
                waited = steps.throw(error) if error is not None else steps.send(sent)
            except StopIteration as done:
                return done.value
            self.awaits += 1
            if self.awaits == self.at:
                error = KilledError()
                continue
            error = None
            try:
                sent = yield waited
            except BaseException as thrown:  # noqa: BLE001 - it is handed on
                error = thrown


class Brittle:
    """Makes a database fail once, before or after its n-th commit, or at its n-th statement."""

    def __init__(self, database: Database) -> None:
        self._dialect = database.engine.sync_engine.dialect
        self._commit = self._dialect.do_commit
        self._execute = self._dialect.do_execute

    def fail(self, kind: str, at: int) -> None:
        """Set what fails next."""
        left = [at]

        def commit(connection: Any) -> None:
            left[0] -= 1
            if left[0] == 0 and kind == "before_commit":
                raise OSError(5, "the database is gone")
            self._commit(connection)
            if left[0] == 0:
                raise OSError(5, "the database is gone")

        def execute(*arguments: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(5, "the database is gone")
            self._execute(*arguments)

        if kind == "statement":
            self._dialect.do_execute = execute  # type: ignore[assignment, method-assign]
        else:
            self._dialect.do_commit = commit  # type: ignore[assignment, method-assign]

    def mend(self) -> None:
        """All is well again."""
        self._dialect.do_commit = self._commit  # type: ignore[method-assign]
        self._dialect.do_execute = self._execute  # type: ignore[method-assign]


class Connections:
    """All connections of a database, to cut them as the kernel does when a process dies."""

    def __init__(self, database: Database) -> None:
        self._made: list[Any] = []
        event.listen(database.engine.sync_engine, "connect", self._keep)

    def _keep(self, connection: Any, _record: object) -> None:
        self._made.append(connection.driver_connection)

    async def cut(self) -> None:
        """Cut all: what was not committed never was."""
        for connection in self._made:
            if isinstance(connection, aiosqlite.Connection):
                with contextlib.suppress(ValueError, sqlite3.Error):
                    await connection.close()
            else:
                connection.terminate()
        self._made.clear()
        # SQLite keeps a closed connection's locks as long as there is a cursor of it.
        gc.collect()


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """The line to the double; something may happen while a call is under way."""

    line: Line
    meanwhile: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for happening in [self.meanwhile.pop()] if self.meanwhile else []:
            await happening()
        await asyncio.sleep(0)
        return await self.line.handle_async_request(request)


@dataclass
class Worker:
    """A worker that can be killed and started again."""

    office: Office
    store: StoreSettings
    clock: Clock
    wire: Wire
    desk: Desk
    brittle: Brittle
    connections: Connections

    async def turn(self, kill_at: int | None = None) -> Outcome | None:
        """One turn; a killed one is followed by a new process."""
        try:
            outcome: Outcome | None = await Killable(file_next(self.desk), kill_at)
        except NotReadyError:
            return Outcome.POSTPONED
        except KilledError:
            pass
        else:
            return outcome
        # Outside of the handler: its traceback holds frames, and those hold cursors.
        await self.start_again()
        return Outcome.POSTPONED

    async def start_again(self) -> None:
        """A new process: new connections, and nothing remembered."""
        await self.connections.cut()
        await self.desk.database.close()
        database = Database.open(self.store)
        self.desk = replace(self.desk, database=database)
        self.brittle = Brittle(database)
        self.connections = Connections(database)


@contextlib.asynccontextmanager
async def workers(office: Office, store: StoreSettings) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers on one database and one double."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            database = Database.open(store)
            wire, clock = Wire(Line(office.double)), Clock()
            where = Endpoint(Environment.DOUBLE, URL, DOUBLE_USER, DOUBLE_PASSWORD)
            authority = await stack.enter_async_context(open_client(where, wire))
            desk = replace(office.desk, database=database, authority=authority, now=clock)
            opened.append(Worker(office, store, clock, wire, desk, Brittle(database), Connections(database)))
        try:
            yield opened[0], opened[1]
        finally:
            for worker in opened:
                await worker.desk.database.close()


async def torture(
    office: Office, pair: tuple[Worker, Worker], seed: int, *, kill_at: int | None = None
) -> Counter[str]:
    """Run one schedule and check what is left behind; how often the reports ended in which way.

    Args:
        office: where reports are approved.
        pair: who files them.
        seed: of all that goes wrong.
        kill_at: kill the first turn at this await, and let nothing else go wrong.
    """
    drawn = random.Random(seed)
    reports = [
        await office.queued(f"{seed}-{number}")
        for number in range(1 if kill_at else drawn.choice((1, 1, 2, 3)))
    ]
    documents = {report: document(report) for report in reports}
    for report, xml in documents.items():
        await office.approve(report, xml)
    reasons = False
    if kill_at is not None:
        await pair[0].turn(kill_at)
    else:
        for _ in range(drawn.randint(1, 5)):
            reasons |= await _go_wrong(office, pair, drawn)
    await _all_is_well(office, pair)
    ends: Counter[str] = Counter()
    for report, xml in documents.items():
        ends[await _check(office, report, xml, reasons=reasons)] += 1
    return ends


async def _go_wrong(office: Office, pair: tuple[Worker, Worker], drawn: random.Random) -> bool:
    """One or two turns with something wrong; whether it is a reason to park."""
    worker, other = drawn.sample(pair, 2)
    call = drawn.choice(("submit", "finish"))
    kill_at = drawn.randint(1, AWAITS) if drawn.random() < 0.5 else None
    reasons = False
    match drawn.choice(
        ("nothing", "fault", "fault", "code", "parking", "database", "jump", "lease", "race", "expiry")
    ):
        case "fault":
            office.double.plan.append(Planned(call, drawn.choice(HARMLESS)))
        case "code":
            office.double.plan.append(
                Planned(call, code=drawn.choice(RETRIED), status=drawn.choice((200, 400)))
            )
        case "parking":
            reasons = True
            office.double.plan.append(Planned(call, code=drawn.choice(PARKING)))
        case "database":
            kind = drawn.choice(("before_commit", "after_commit", "statement"))
            worker.brittle.fail(kind, drawn.randint(1, 40 if kind == "statement" else 5))
        case "jump":
            worker.clock.ahead += timedelta(hours=drawn.choice((-1000, -25, -1, 1, 25, 1000)))
        case "lease":
            # The call takes longer than the lease, and the other worker takes over in the middle of it.
            async def take_over() -> None:
                other.clock.ahead = worker.clock.ahead + LEASE * 2
                worker.clock.ahead += LEASE * 2
                await other.turn()

            worker.wire.meanwhile.append(take_over)
            if drawn.random() < 0.5:
                # In the second call, not the first.
                worker.wire.meanwhile.append(_nothing)
        case "race":
            other.clock.ahead = worker.clock.ahead
            await asyncio.gather(worker.turn(kill_at), other.turn(drawn.choice((None, kill_at))))
        case "expiry":
            reasons = True
            office.double.service.advance(timedelta(hours=25))
    await worker.turn(kill_at)
    if drawn.random() < 0.5:
        worker.clock.ahead += drawn.choice((timedelta(minutes=1), LEASE, timedelta(hours=2)))
    worker.brittle.mend()
    worker.wire.meanwhile.clear()
    return reasons


async def _nothing() -> None:
    """Nothing happens."""


async def _all_is_well(office: Office, pair: tuple[Worker, Worker]) -> None:
    """Nothing goes wrong any more, and time goes by, until nothing is left to be done."""
    office.double.plan.clear()
    latest = max(timedelta(), *(worker.clock.ahead for worker in pair))
    idle = 0
    for round_ in range(40):
        for worker in pair:
            worker.clock.ahead = latest + timedelta(hours=13) * round_
        idle = idle + 1 if await pair[round_ % 2].turn() is None else 0
        if idle * timedelta(hours=13) > LONGEST_PAUSE:
            # Longer than a wrong clock can have put anything off.
            break
    else:
        message = "there is no end to it"
        raise AssertionError(message)
    for worker in pair:
        worker.clock.ahead = timedelta()


async def _check(office: Office, report_id: str, xml: bytes, *, reasons: bool) -> str:
    """How a report ended.

    Raises:
        AssertionError: it was filed twice, lost, changed, or parked without a reason.
    """
    report, there = await office.report(report_id), office.double.service.of_sender(report_id)
    finished = [each for each in there if each.state is There.FINISHED]
    assert len(finished) <= 1, f"filed {len(finished)} times"
    assert report.state in {State.DRY_RUN, State.PARKED}, f"lost: {report.state}"
    assert all(each.document == xml for each in there), "other bytes than the approved"
    if report.state is State.DRY_RUN:
        assert len(finished) == 1, "said to be filed, and is not"
        filing = await office.filing(report_id)
        assert filing.authority_report_id == finished[0].id, "filed under another id"
        assert filing.receipt is not None, "no receipt"
        return "filed exactly once"
    assert report.cause is not None, "parked without a cause"
    assert reasons, f"parked for nothing: {report.cause}"
    return f"parked ({'filed once' if finished else 'not filed'}): {report.cause}"


async def run(
    store: StoreSettings, seeds: Sequence[int], tell: Callable[[int], None] | None = None
) -> Counter[str]:
    """Run a range of schedules on a migrated database; the first ones kill at each await in turn."""
    ends: Counter[str] = Counter()
    database = Database.open(store)
    try:
        async with open_office(database, store) as office, workers(office, store) as pair:
            for seed in seeds:
                kill_at = seed + 1 if seed < AWAITS else None
                try:
                    ends += await torture(office, pair, seed, kill_at=kill_at)
                except AssertionError as error:
                    message = f"seed {seed}: {error}"
                    raise AssertionError(message) from error
                if tell is not None:
                    tell(seed)
            async with database.connect() as connection:
                assert await verify_chain(connection) is None, "the audit chain is broken"
    finally:
        await database.close()
    return ends


async def _main(schedules: int, first: int, database_url: str | None) -> None:
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="cordon-torture-") as folder:
        # A database has a hundred schedules behind it at most, so that reading it stays quick.
        for begin in range(first, first + schedules, 100):
            store = StoreSettings(state_dir=Path(folder) / str(begin), database_url=database_url)
            database = Database.open(store)
            await database.migrate_if_empty()
            await database.close()

            def tell(seed: int) -> None:
                done = seed - first + 1
                sys.stderr.write(f"\r{done} of {schedules} schedules, {time.monotonic() - began:.0f} s")

            ends += await run(store, range(begin, min(begin + 100, first + schedules)), tell)
    lines = [f"{count:6}  {end}" for end, count in ends.most_common()]
    lines.append(
        f"{schedules} schedules in {time.monotonic() - began:.0f} s: nothing is filed twice, nothing is lost"
    )
    sys.stdout.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="File under torture.")
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--database-url", help="an empty PostgreSQL database; SQLite by default")
    given = parser.parse_args()
    asyncio.run(_main(given.schedules, given.first, given.database_url))
