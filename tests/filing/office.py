"""A filing office for tests: a database with a custodian and a worker, and a double within the process.

The double here is the very application that ``cordon dev cybertip-double`` serves; ``Line`` carries requests
to it as a network would, and breaks where it says so.
"""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import select

from app.custody import ending
from app.custody.decision import Action
from app.custody.ending import Ending
from app.custody.identity import Identity, fingerprint, generate
from app.custody.roster import RosterFile, WorkerKeys
from app.filing.cybertip.client import CyberTipline, open_client
from app.filing.cybertip.document import Said, build
from app.filing.cybertip.environment import DOUBLE_PASSWORD, DOUBLE_USER, Endpoint, Environment
from app.filing.cybertip.reporter import Reporter
from app.filing.cybertip_double.application import Application
from app.filing.cybertip_double.service import Service
from app.filing.desk import Desk
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports import accepting, endings, filings, inspection, reports
from app.store.reports.filings import Filing, Turn
from app.store.reports.inspection import Discrepancy
from app.store.reports.report_states import State
from app.store.reports.reports import Report
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit
from tests.chain import verify_chain
from tests.deciding import approving, deciding, seen
from tests.pins import add_custodian, pins_of
from tests.stubs import stub

REPORTER = Reporter("Ada", "Lovelace", "ada@analytical.org", "Analytical Society")
REPORTING = {
    "reporter_first_name": "Ada",
    "reporter_last_name": "Lovelace",
    "reporter_email": "ada@analytical.org",
    "reporter_company": "Analytical Society",
    "reporter_role": "voluntary",
}
"""Settings of a worker that files by itself."""
URL = "http://127.0.0.1:8091/ispws"


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Line(httpx.AsyncBaseTransport):
    """Carries requests to the double's application; an answer cut short is a broken connection.

    Attributes:
        meanwhile: happens while each of them is on its way.
    """

    application: Application
    meanwhile: Callable[[], None] = lambda: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.meanwhile()
        body = await request.aread()
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            messages.append(message)

        headers = [(name.lower(), value) for name, value in request.headers.raw]
        scope = {
            "type": "http",
            "path": request.url.path,
            "method": request.method,
            "headers": headers,
        }
        await self.application(scope, receive, send)
        start, content = messages
        told = dict(start["headers"])
        if int(told[b"content-length"]) > len(content["body"]):
            raise httpx.ReadError("the connection broke")
        return httpx.Response(
            start["status"], headers=start["headers"], stream=httpx.ByteStream(content["body"])
        )


@dataclass
class Office:
    """Where reports are approved and filed."""

    database: Database
    pins: RosterFile
    ada: Identity
    worker: Identity
    outbox: SealedOutbox
    double: Application
    authority: CyberTipline
    environment: Environment = Environment.DOUBLE
    clock: Clock = field(default_factory=Clock)

    @property
    def desk(self) -> Desk:
        """What the worker has."""
        return Desk(
            database=self.database,
            pins=self.pins,
            identity=self.worker,
            authority=self.authority,
            environment=self.environment,
            dual_control=False,
            now=self.clock,
        )

    async def queued(self, medium: str = "a") -> str:
        """The id of a report that waits for a decision."""
        return (await self.outbox.commit(replace(stub(medium), place=()))).id

    async def approved(self, medium: str = "a", **changed: Any) -> str:
        """The id of a report that a custodian approved."""
        report_id = await self.queued(medium)
        await self.approve(report_id, **changed)
        return report_id

    async def approve(self, report_id: str, xml: bytes | None = None, **changed: Any) -> None:
        """Approve the document of a report, or another one."""
        await self.decide(
            Action.APPROVE,
            report_id,
            approving(
                report_id,
                await seen(self.database, report_id, self.pins.read()),
                self.ada,
                xml=xml or document(report_id),
                xml_to=(self.worker.public_key,),
                **changed,
            ),
        )

    async def reject(self, report_id: str) -> None:
        """Reject a report."""
        sealed = await seen(self.database, report_id, self.pins.read())
        await self.decide(Action.REJECT, report_id, deciding(Action.REJECT, report_id, sealed, self.ada))

    async def decide(self, action: Action, report_id: str, signed: bytes) -> None:
        """Hand a decision in."""
        async with self.database.begin() as connection:
            await accepting.take(
                connection, signed, self.pins.read(), report_id=report_id, actions=(action,), by="cli"
            )

    async def keep_opened(self, turn: Turn, authority_report_id: str) -> bool:
        """Keep the id that the authority gave, and sign it, as the filer does."""
        where = {"environment": self.environment.value, "authority_report_id": authority_report_id}
        said = Ending(
            report_id=turn.report_id,
            state=State.SUBMITTED.value,
            at=self.clock(),
            worker=fingerprint(self.worker.public_key),
            **where,
        )
        async with self.database.begin() as connection:
            return await filings.opened(
                connection,
                turn,
                authority_report_id,
                request_id=None,
                now=self.clock(),
                details=where,
                signed={endings.MEMBER: ending.sign(said, self.worker)},
            )

    async def report(self, report_id: str) -> Report:
        """The report as it stands."""
        async with self.database.connect() as connection:
            return await reports.get(connection, report_id)

    async def doubts(self, report_id: str) -> tuple[Discrepancy, ...]:
        """What an auditor finds wrong with it: also that it ended as it says is to be proven."""
        async with self.database.connect() as connection:
            return await inspection.of_report(connection, report_id, self.pins.read())

    async def filing(self, report_id: str) -> Filing:
        """How far it has come."""
        async with self.database.connect() as connection:
            found = await filings.get(connection, report_id)
        assert found is not None
        return found

    async def events(self, report_id: str) -> list[tuple[str, dict[str, Any]]]:
        """What the audit log says of it, in order; its chain holds."""
        async with self.database.connect() as connection:
            assert await verify_chain(connection) is None
            rows = await connection.execute(
                select(audit.c.event, audit.c.details)
                .where(audit.c.subject == report_id)
                .order_by(audit.c.seq)
            )
            return [(row.event, json.loads(row.details)) for row in rows]


def document(report_id: str, reporter: Reporter = REPORTER) -> bytes:
    """The XML of a report as its custodian builds it."""
    opened = json.loads(stub().to_json(report_id))
    return build([opened], reporter, Said(), role="voluntary", preservation=None, now=datetime.now(UTC))


@contextlib.asynccontextmanager
async def open_office(
    database: Database, store: StoreSettings, *, environment: Environment = Environment.DOUBLE
) -> AsyncIterator[Office]:
    """An office on a database, filing with a double of its own whatever its environment is called."""
    pins = pins_of(store)
    ada, worker = await add_custodian(database, pins), generate()
    pins.write(replace(pins.read(), worker=WorkerKeys.of(worker)))
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    double = Application(Service(), DOUBLE_USER, DOUBLE_PASSWORD)
    where = Endpoint(Environment.DOUBLE, URL, DOUBLE_USER, DOUBLE_PASSWORD)
    async with open_client(where, Line(double)) as authority:
        yield Office(database, pins, ada, worker, outbox, double, authority, environment)
