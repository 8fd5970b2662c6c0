"""Workers that are killed, stopped, cut off from their database, and watched on their line to the double."""

import asyncio
import contextlib
import gc
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiosqlite
import httpx
from sqlalchemy import event

from app.errors import NotReadyError
from app.filing.automatic import AutomaticApproval, Terms
from app.filing.cybertip.client import open_client
from app.filing.cybertip.environment import DOUBLE_PASSWORD, DOUBLE_USER, Endpoint, Environment
from app.filing.desk import Desk
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record.witness import Witness
from app.store.reports.filings import Transaction
from tests.filing.judging import call_of, code_of, newest_entry, wrong_to_conclude, wrong_to_finish
from tests.filing.office import REPORTER, URL, Clock, Line, Office

AUTOMATIC_WITHIN: Final = 8
TERMS: Final = Terms(AUTOMATIC_WITHIN, REPORTER, "voluntary", None)


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
class Pause:
    """Stops a worker before its n-th transaction or call, until something has happened meanwhile."""

    left: int = 0
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def pass_by(self) -> None:
        """A transaction or a call is about to begin."""
        self.left -= 1
        if self.left == 0 and self.meanwhile is not None:
            await self.meanwhile()


class Pausing(Database):
    """A database whose worker can be stopped before each transaction."""

    pause: Pause

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Transaction]:
        await self.pause.pass_by()
        async with super().connect() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Transaction]:
        await self.pause.pass_by()
        async with super()._transaction() as connection:
            yield connection


def _open(store: StoreSettings, pause: Pause) -> Pausing:
    database = Pausing.open(store)
    database.pause = pause
    return database


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """The line to the double; something may happen while a call is under way.

    Attributes:
        begun: number of the audit log's newest entry when the turn began.
        heard: the last call of this turn that is not to withdraw, and its code, if nothing spoilt that.
        wrong: what was done that may not be.
    """

    line: Line
    office: Office
    pause: Pause
    meanwhile: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    begun: int = 0
    heard: tuple[str, int] | None = None
    wrong: list[str] = field(default_factory=list)

    def begin(self, newest: int) -> None:
        """A turn begins, when this is the audit log's newest entry."""
        self.begun, self.heard = newest, None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self.pause.pass_by()
        call = call_of(request)
        if call == "finish":
            await request.aread()
            wrong = await wrong_to_finish(self.office, request, self.begun)
            self.wrong += [wrong] if wrong is not None else []
        for happening in [self.meanwhile.pop()] if self.meanwhile else []:
            await happening()
        await asyncio.sleep(0)
        response = await self.line.handle_async_request(request)
        if call in {"submit", "finish"}:
            code = code_of(response)
            self.heard = (call, code) if code is not None else None
        return response


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
    by_itself: AutomaticApproval
    memory: Path

    async def turn(self, kill_at: int | None = None) -> Outcome | None:
        """One turn; a killed one is followed by a new process."""
        self.wire.begin(await newest_entry(self.office))
        try:
            outcome: Outcome | None = await Killable(self._turn(), kill_at)
        except NotReadyError:
            return Outcome.POSTPONED
        except KilledError:
            pass
        else:
            if self.wire.heard is not None:
                wrong = wrong_to_conclude(*self.wire.heard, outcome)
                self.wire.wrong += [wrong] if wrong is not None else []
            return outcome
        # Outside of the handler: its traceback holds frames, and those hold cursors.
        await self.start_again()
        return Outcome.POSTPONED

    async def turn_stopped(self, step: int, meanwhile: Callable[[], Awaitable[None]]) -> None:
        """One turn, which stops before its n-th transaction or call until something has happened."""
        self.wire.pause.left, self.wire.pause.meanwhile = step, meanwhile
        await self.turn()
        self.wire.pause.meanwhile = None

    async def _turn(self) -> Outcome | None:
        await self.by_itself.turn()
        return await file_next(self.desk)

    async def start_again(self) -> None:
        """A new process: new connections, and nothing remembered but what is in the file."""
        await self.connections.cut()
        await self.desk.database.close()
        database = _open(self.store, self.wire.pause)
        self.desk = replace(self.desk, database=database, witness=Witness(self.memory))
        self.brittle = Brittle(database)
        self.connections = Connections(database)
        self.by_itself = _by_itself(self.desk)


def _by_itself(desk: Desk) -> AutomaticApproval:
    """What the worker approves; its decisions bear the time that the database's side looks at."""
    return AutomaticApproval(replace(desk, now=lambda: datetime.now(UTC)), TERMS)


@contextlib.asynccontextmanager
async def workers(office: Office, store: StoreSettings) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers on one database and one double."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for number in range(2):
            pause, memory = Pause(), store.state_dir / f"worker-{number}.seen"
            database, clock = _open(store, pause), Clock()
            wire = Wire(Line(office.double), office, pause)
            where = Endpoint(Environment.DOUBLE, URL, DOUBLE_USER, DOUBLE_PASSWORD)
            authority = await stack.enter_async_context(open_client(where, wire))
            desk = replace(
                office.desk,
                database=database,
                authority=authority,
                automatic=True,
                witness=Witness(memory),
                now=clock,
            )
            opened.append(
                Worker(
                    office,
                    store,
                    clock,
                    wire,
                    desk,
                    Brittle(database),
                    Connections(database),
                    _by_itself(desk),
                    memory,
                )
            )
        try:
            yield opened[0], opened[1]
        finally:
            for worker in opened:
                await worker.desk.database.close()
