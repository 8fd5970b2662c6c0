"""Notices over real sockets: signed webhooks, mail over STARTTLS, and what happens when nobody takes them."""

import asyncio
import base64
import contextlib
import json
import logging
import socketserver
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from sqlalchemy import func, select, update
from standardwebhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from app.filing import notify
from app.settings import NotifySettings, SettingsError, load
from app.store import alarms, notices
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.notices import ALARM_CLEARED, ALARM_RAISED, REPORT_CHANGED
from app.store.schema import notices as table

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
REPORT = "01J9ZK3V5T8QX2M4N6P8R0S1T2"


@dataclass
class Hook:
    """An HTTP server that keeps what it was sent and answers as it is told.

    Attributes:
        answers: statuses to give, the last one for good.
    """

    answers: list[int] = field(default_factory=lambda: [204])
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def _hook(*answers: int, trust: ssl.SSLContext | None = None) -> Iterator[Hook]:
    hook = Hook(list(answers or (204,)))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            hook.requests.append((self.path, dict(self.headers.items()), body))
            status = hook.answers.pop(0) if len(hook.answers) > 1 else hook.answers[0]
            self.send_response(status)
            if status == 307:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if trust is not None:
        server.socket = trust.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hook.url = f"{'https' if trust else 'http'}://127.0.0.1:{server.server_port}/hook?token=canary-token"
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Mailbox:
    """What a mail server took, and how.

    Attributes:
        refused: an address that it does not know.
        farewell: what it says to QUIT.
    """

    def __init__(self) -> None:
        self.taken: list[tuple[Envelope, bool]] = []
        self.refused = ""
        self.farewell = "221 bye"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address == self.refused:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return self.farewell

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.taken.append((envelope, session.ssl is not None))
        return "250 taken"


@contextlib.asynccontextmanager
async def _mail_server(trust: ssl.SSLContext | None) -> AsyncIterator[tuple[Mailbox, int]]:
    """A mail server in the test's own loop; with a certificate it insists on STARTTLS and a login."""

    def authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        # RFC 4616: in UTF-8.
        known = (b"cordon", "canary-paß".encode())
        good = isinstance(data, LoginPassword) and (data.login, data.password) == known
        return AuthResult(success=good, handled=False)

    box = Mailbox()
    options: dict[str, Any] = {}
    if trust is not None:
        options = {
            "tls_context": trust, "require_starttls": True,
            "authenticator": authenticate, "auth_required": True,
        }  # fmt: skip
    sessions: list[SMTP] = []

    def answer() -> SMTP:
        sessions.append(SMTP(box, hostname="mail.example", enable_SMTPUTF8=False, **options))
        return sessions[-1]

    server = await asyncio.get_running_loop().create_server(answer, "127.0.0.1", 0)
    try:
        yield box, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        for session in sessions:
            if session.transport is not None:
                session.transport.close()
        await asyncio.sleep(0)


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A PEM file of an authority, and what a server with a certificate of it shows."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    return tmp_path / "ca.pem", context


def _webhook(url: str, **more: Any) -> tuple[notify.Channel, ...]:
    return notify.channels(NotifySettings(notify_webhook_url=url, notify_webhook_secret=KEY, **more))


BOTH = ("ada@lab.example", "grace@lab.example")


def _email(port: int, *to: str, **more: Any) -> tuple[notify.Channel, ...]:
    given = {
        "notify_smtp_host": "127.0.0.1", "notify_smtp_port": port, "notify_email_from": "cordon@gate.example",
        "notify_email_to": to or BOTH[:1],
    }  # fmt: skip
    return notify.channels(NotifySettings.model_validate(given | more))


async def _post(database: Database, event: str = REPORT_CHANGED, state: str = "queued") -> None:
    async with database.begin() as connection:
        await notices.post(connection, event, REPORT, state)


async def _shift(database: Database, by: timedelta) -> None:
    """Let time pass for all notices."""
    async with database.begin() as connection:
        rows = (await connection.execute(select(table.c.id, table.c.created_at))).all()
        for row in rows:
            await connection.execute(
                update(table)
                .where(table.c.id == row.id)
                .values(created_at=row.created_at - by, next_attempt_at=datetime.now(UTC))
            )


async def _left(database: Database) -> int:
    async with database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def _alarms(database: Database) -> list[tuple[AlarmKind, str]]:
    async with database.connect() as connection:
        return [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]


async def test_a_webhook_is_signed_as_its_receiver_checks_with_the_standard_library(
    database: Database,
) -> None:
    """Verified by the package of Standard Webhooks; ids and states are all that it tells."""
    with _hook() as hook:
        await _post(database, state="filed")
        await _post(database, ALARM_RAISED, "report_waiting")
        await notify.tell(database, _webhook(hook.url))
    bodies = [Receiver(SECRET).verify(body, headers) for _, headers, body in hook.requests]
    for body in bodies:
        assert abs(datetime.fromisoformat(body.pop("timestamp")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert bodies == [
        {"type": "report.changed", "data": {"id": REPORT, "state": "filed"}},
        {"type": "alarm.raised", "data": {"kind": "report_waiting", "subject": REPORT}},
    ]
    path, headers, body = hook.requests[0]
    assert path == "/hook?token=canary-token"
    with pytest.raises(WebhookVerificationError):
        Receiver(SECRET).verify(body.replace(b"filed", b"queue"), headers)
    assert await _left(database) == 0


async def test_receivers_are_written_after_a_page_that_shows_what_comes(database: Database) -> None:
    """docs/custody.md has each event to the letter, but for its time."""
    page = (Path(__file__).parents[2] / "docs/custody.md").read_text()
    shown = [json.loads(line) for line in page.splitlines() if line.startswith('{"type": ')]
    with _hook() as hook:
        for event, state in (
            (REPORT_CHANGED, "queued"),
            (ALARM_RAISED, "report_waiting"),
            (ALARM_CLEARED, "report_waiting"),
        ):
            await _post(database, event, state)
        await notify.tell(database, _webhook(hook.url))
    sent = [json.loads(body) for _, _, body in hook.requests]
    for each in (*shown, *sent):
        assert each.pop("timestamp").endswith("Z")
    assert sent == shown


async def test_what_a_receiver_does_not_take_comes_again_under_the_same_id(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """After a pause; the log tells the status, not the address, and no secret."""
    with _hook(500, 307, 200) as hook, caplog.at_level(logging.DEBUG):
        channel = _webhook(hook.url)
        await _post(database)
        for tried in (1, 2, 3):
            await notify.tell(database, channel)
            await notify.tell(database, channel)  # it is not due yet
            assert len(hook.requests) == tried
            await _shift(database, timedelta(0))
    assert [path for path, _, _ in hook.requests] == ["/hook?token=canary-token"] * 3
    assert len({headers["webhook-id"] for _, headers, _ in hook.requests}) == 1
    assert await _left(database) == 0
    logged = [vars(record) for record in caplog.records if record.name.startswith("app")]
    assert [record["cordon_fields"]["reason"] for record in logged] == ["HTTP 500", "HTTP 307"]
    own = "".join(map(str, logged))
    assert not any(secret in own for secret in ("canary", hook.url, SECRET, "127.0.0.1"))


async def test_a_webhook_goes_to_nobody_whose_certificate_is_not_trusted(
    database: Database, authority: tuple[Path, ssl.SSLContext]
) -> None:
    """The same server takes it once its authority is named."""
    file, context = authority
    with _hook(trust=context) as hook:
        await _post(database)
        await notify.tell(database, _webhook(hook.url))
        assert (hook.requests, await _left(database)) == ([], 1)
        await _shift(database, timedelta(0))
        await notify.tell(database, _webhook(hook.url, notify_ca_file=file))
        assert (len(hook.requests), await _left(database)) == (1, 0)


async def test_custodians_get_one_mail_of_new_reports_and_alarms_over_starttls(
    database: Database, authority: tuple[Path, ssl.SSLContext]
) -> None:
    """What custodians did themselves is not in it, nor anything but ids, states and what to do."""
    file, context = authority
    await _post(database)
    await _post(database, state="approved")
    await _post(database, ALARM_RAISED, "report_parked")
    login = {"notify_smtp_user": "cordon", "notify_smtp_password": "canary-paß", "notify_ca_file": file}
    async with _mail_server(context) as (box, port):
        await notify.tell(database, _email(port, *BOTH, **login))
    assert sorted(envelope.rcpt_tos for envelope, _ in box.taken) == [[each] for each in BOTH]
    assert all(encrypted for _, encrypted in box.taken)
    envelope, _ = box.taken[0]
    assert isinstance(envelope.content, bytes)
    message = message_from_bytes(envelope.content)
    assert message["Subject"] == "Cordon: an alarm"
    text = message.get_payload(decode=True)
    assert isinstance(text, bytes)
    lines = text.decode().splitlines()
    assert [line.split("UTC  ")[1] for line in lines if "UTC" in line] == [
        f"report {REPORT} waits for a custodian",
        f"alarm: report_parked of {REPORT}",
    ]
    assert b"approved" not in envelope.content
    assert await _left(database) == 0


@pytest.mark.parametrize("case", ["no starttls", "untrusted", "wrong password"])
async def test_no_mail_goes_where_others_could_read_it(
    database: Database, authority: tuple[Path, ssl.SSLContext], case: str
) -> None:
    """A server without STARTTLS, with another's certificate, or that refuses us gets nothing."""
    file, context = authority
    more: dict[str, Any] = {"notify_smtp_user": "cordon", "notify_smtp_password": "wrong"}
    if case != "untrusted":
        more["notify_ca_file"] = file
    await _post(database)
    async with _mail_server(None if case == "no starttls" else context) as (box, port):
        await notify.tell(database, _email(port, **more))
    assert (box.taken, await _left(database)) == ([], 1)


async def test_a_mail_server_on_this_machine_may_be_reached_in_the_clear(database: Database) -> None:
    await _post(database)
    async with _mail_server(None) as (box, port):
        await notify.tell(database, _email(port, notify_smtp_tls="none"))
    assert len(box.taken) == 1


async def test_an_address_that_is_refused_has_nobody_else_told_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever was told is told once. Who was not is told at the right address; till then an alarm stands."""
    await _post(database)
    async with _mail_server(None) as (box, port):
        box.refused = "grace@lab.example"
        for _ in range(3):
            await notify.tell(database, _email(port, *BOTH, notify_smtp_tls="none"))
            await _shift(database, timedelta(hours=9))
        await notify.tell(database, _email(port, *BOTH, notify_smtp_tls="none"))
        assert [envelope.rcpt_tos for envelope, _ in box.taken] == [["ada@lab.example"]]
        assert await _alarms(database) == [(AlarmKind.NOTICES_FAILING, "email-2")]
        reasons = {vars(record)["cordon_fields"].get("reason") for record in caplog.records}
        assert "SMTPRecipientsRefused 550" in reasons
        await _shift(database, timedelta(0))
        await notify.tell(
            database, _email(port, "ada@lab.example", "grace@right.example", notify_smtp_tls="none")
        )
    (told,) = [envelope for envelope, _ in box.taken if envelope.rcpt_tos == ["grace@right.example"]]
    assert isinstance(told.content, bytes)
    assert f"report {REPORT} waits".encode() in told.content
    assert await _alarms(database) == []


@pytest.mark.parametrize("farewell", ["421 too busy", "250 what?"])
async def test_what_a_mail_server_took_is_not_told_again_whatever_it_says_in_parting(
    database: Database, farewell: str
) -> None:
    await _post(database)
    async with _mail_server(None) as (box, port):
        box.farewell = farewell
        await notify.tell(database, _email(port, notify_smtp_tls="none"))
    assert (len(box.taken), await _left(database)) == (1, 0)


@contextlib.contextmanager
def _dripping() -> Iterator[int]:
    """A mail server that never ends its greeting, and never pauses for long."""
    closing = threading.Event()

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while not closing.wait(0.05):
                    self.request.sendall(b"220-wait\r\n")

    # It waits for its talks when it is closed.
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            closing.set()
            server.shutdown()
            thread.join()


async def test_a_mail_server_that_never_ends_its_words_ends_neither_the_telling_nor_the_worker(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are told meanwhile, the alarm comes, and whoever stops the worker does not wait for it."""
    monkeypatch.setattr(notify, "MAIL_SECONDS", 0.5)
    await _post(database)
    with _dripping() as port:
        with _hook() as hook:
            both = (*_email(port, notify_smtp_tls="none"), *_webhook(hook.url))
            await notify.tell(database, both)
            assert (len(hook.requests), await _left(database)) == (1, 1)
            await _shift(database, timedelta(days=1, minutes=1))
            await notify.tell(database, both)
            assert await _alarms(database) == [(AlarmKind.NOTICES_FAILING, "email")]
        monkeypatch.setattr(notify, "MAIL_SECONDS", 600)
        await _shift(database, timedelta(0))
        telling = asyncio.create_task(notify.tell(database, both[:1]))
        await asyncio.sleep(0.5)
        telling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await telling


async def test_the_alarm_of_what_was_given_up_stands_until_somebody_takes_notices_again(
    database: Database,
) -> None:
    """And ends where the channel is set no more."""
    nobody = _webhook("http://127.0.0.1:9/")
    await _post(database)
    await notify.tell(database, nobody)
    await _shift(database, timedelta(days=1, minutes=1))
    await notify.tell(database, nobody)
    for _ in range(3):
        await _shift(database, timedelta(days=7, minutes=1))
        await notify.tell(database, nobody)
    assert await _left(database) == 0
    assert await _alarms(database) == [(AlarmKind.NOTICES_FAILING, "webhook")]
    await notify.tell(database, ())
    assert await _alarms(database) == []


async def test_a_mail_says_in_its_subject_that_an_alarm_is_over(database: Database) -> None:
    await _post(database, ALARM_CLEARED, "report_parked")
    async with _mail_server(None) as (box, port):
        await notify.tell(database, _email(port, notify_smtp_tls="none"))
    ((envelope, _),) = box.taken
    assert isinstance(envelope.content, bytes)
    assert message_from_bytes(envelope.content)["Subject"] == "Cordon: an alarm is over"


async def test_a_receiver_that_is_away_for_a_day_raises_an_alarm_and_after_a_week_it_is_given_up(
    database: Database,
) -> None:
    """The alarm ends when somebody takes notices again."""
    channel = _webhook("http://127.0.0.1:9/")
    await _post(database)
    await notify.tell(database, channel)
    assert await _alarms(database) == []
    await _shift(database, timedelta(days=1, minutes=1))
    await notify.tell(database, channel)
    assert await _alarms(database) == [(AlarmKind.NOTICES_FAILING, "webhook")]
    with _hook() as hook:
        await _shift(database, timedelta(0))
        await notify.tell(database, _webhook(hook.url))
    assert await _alarms(database) == []
    assert [json.loads(body)["type"] for _, _, body in hook.requests] == ["report.changed", "alarm.raised"]
    await _post(database)
    await notify.tell(database, channel)
    await _shift(database, timedelta(days=7, minutes=1))
    for _ in range(4):
        await notify.tell(database, channel)
        await _shift(database, timedelta(0))
    async with database.connect() as connection:
        assert list((await connection.execute(select(table.c.event))).scalars()).count(REPORT_CHANGED) == 0


async def test_a_webhook_that_cannot_be_dialled_at_all_raises_the_alarm_too_and_mail_goes_on(
    database: Database,
) -> None:
    """The host has no IDNA form, which no network error tells: one channel's trouble is never all silence."""
    await _post(database)
    async with _mail_server(None) as (box, port):
        broken = (*_webhook("https://xn--a.example/"), *_email(port, notify_smtp_tls="none"))
        await notify.tell(database, broken)
        assert (len(box.taken), await _left(database)) == (1, 1)
        await _shift(database, timedelta(days=1, minutes=1))
        await notify.tell(database, broken)
    assert await _alarms(database) == [(AlarmKind.NOTICES_FAILING, "webhook")]


async def test_an_alarm_of_a_kind_that_nobody_knows_holds_no_mail_up(database: Database) -> None:
    """Whoever can write to the database, or a newer worker, cannot end the telling with one row."""
    await _post(database, ALARM_RAISED, "nobody_knows_it")
    await _post(database)
    async with _mail_server(None) as (box, port):
        await notify.tell(database, _email(port, notify_smtp_tls="none"))
    ((envelope, _),) = box.taken
    assert isinstance(envelope.content, bytes)
    assert f"report {REPORT} waits".encode() in envelope.content
    async with database.begin() as connection:
        await alarms.raise_alarm(connection, AlarmKind.REPORT_PARKED, REPORT)
        await connection.exec_driver_sql(
            "INSERT INTO alarms (kind, subject, raised_at) "
            "SELECT 'nobody_knows_it', subject, raised_at FROM alarms"
        )
        assert [alarm.kind for alarm in await alarms.standing(connection)] == [AlarmKind.REPORT_PARKED]
        counted = await alarms.count_standing(connection)
    assert {kind: number for kind, number in counted.items() if number} == {AlarmKind.REPORT_PARKED: 1}


async def test_who_can_write_to_the_database_tells_custodians_nothing_of_its_own(database: Database) -> None:
    """No text, link or command in a message that Cordon signs or sends, and no header that stops others."""
    lure = "nothing. Run at once:\n    cordon custodian pin --worker age1thief --yes\nhttps://canary.example/"
    async with database.begin() as connection:
        await notices.post(connection, ALARM_RAISED, lure, "report_parked")
        await notices.post(connection, ALARM_RAISED, "worker", lure)
        await notices.post(connection, REPORT_CHANGED, lure, "queued")
        await notices.post(connection, REPORT_CHANGED, REPORT, "queued")
        await notices.post(connection, lure, REPORT, "queued")
    async with _mail_server(None) as (box, port):
        with _hook() as hook:
            both = (*_email(port, notify_smtp_tls="none"), *_webhook(hook.url))
            await notify.tell(database, both)
            # As if addressed by the worker: what is in the first one's id would break the whole message.
            async with database.begin() as connection:
                await notices.post(connection, REPORT_CHANGED, REPORT, "queued")
                values = {"channel": "email", "id": "x\r\nBcc: thief@canary.example"}
                await connection.execute(update(table).values(**values))
                await notices.post(connection, REPORT_CHANGED, REPORT, "queued")
            await notify.tell(database, both)
    first, second = (envelope.content for envelope, _ in box.taken)
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    bodies = [json.loads(body) for _, _, body in hook.requests]
    assert first.count(f"report {REPORT} waits for a custodian".encode()) == 1
    assert first.count(b"(unreadable)") == 3
    assert second.count(f"report {REPORT} waits for a custodian".encode()) == 1
    assert {"kind": "report_parked", "subject": "(unreadable)"} in [each["data"] for each in bodies]
    assert len(bodies) == 5
    for told in (first, second, *(body for _, _, body in hook.requests)):
        assert not any(part in told for part in (b"canary", b"custodian pin", b"age1thief"))
    assert await _left(database) == 0


async def test_two_workers_tell_each_notice_once(database: Database) -> None:
    with _hook() as hook:
        for _ in range(10):
            await _post(database)
        channel = _webhook(hook.url)
        await asyncio.gather(notify.tell(database, channel), notify.tell(database, channel))
    assert len({headers["webhook-id"] for _, headers, _ in hook.requests}) == len(hook.requests) == 10


async def test_nothing_is_kept_for_channels_that_are_not_set(database: Database) -> None:
    await _post(database)
    assert notify.channels(NotifySettings()) == ()
    await notify.tell(database, ())
    assert await _left(database) == 0


HOOK = {"CORDON_NOTIFY_WEBHOOK_URL": "https://hook.example/x", "CORDON_NOTIFY_WEBHOOK_SECRET": SECRET}
MAIL = {
    "CORDON_NOTIFY_SMTP_HOST": "mail.example",
    "CORDON_NOTIFY_EMAIL_FROM": "cordon@gate.example",
    "CORDON_NOTIFY_EMAIL_TO": "ada@lab.example, grace@lab.example",
}


def test_whole_settings_are_taken() -> None:
    """And show no secret."""
    given = load(HOOK | MAIL).notify
    assert given.notify_webhook_secret == KEY
    assert given.notify_email_to == ("ada@lab.example", "grace@lab.example")
    assert not any(secret in repr(given) for secret in (repr(KEY), SECRET, "hook.example", "ada"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (HOOK | {"CORDON_NOTIFY_WEBHOOK_URL": "http://hook.example/x"}, "must be https"),
        (HOOK | {"CORDON_NOTIFY_WEBHOOK_URL": "https://u:canary@hook.example/x"}, "without a user"),
        (HOOK | {"CORDON_NOTIFY_WEBHOOK_URL": "ftp://127.0.0.1/x"}, "must be https"),
        (HOOK | {"CORDON_NOTIFY_WEBHOOK_SECRET": "whsec_Y2FuYXJ5"}, "24 to 64 random bytes"),
        (HOOK | {"CORDON_NOTIFY_WEBHOOK_SECRET": base64.b64encode(KEY).decode()}, "write 'whsec_'"),
        ({"CORDON_NOTIFY_WEBHOOK_URL": "https://hook.example/x"}, "set both"),
        ({"CORDON_NOTIFY_SMTP_HOST": "mail.example"}, "CORDON_NOTIFY_EMAIL_TO"),
        (MAIL | {"CORDON_NOTIFY_SMTP_USER": "canary"}, "CORDON_NOTIFY_SMTP_PASSWORD"),
        (MAIL | {"CORDON_NOTIFY_SMTP_TLS": "none"}, "on this machine"),
        (MAIL | {"CORDON_NOTIFY_EMAIL_TO": "ada@lab.example\r\nBcc: eve@canary.example"}, "name@host"),
    ],
)
def test_settings_that_would_tell_others_or_nobody_are_refused(given: dict[str, str], told: str) -> None:
    """The mend is named, no value is."""
    with pytest.raises(SettingsError) as refused:
        load(given)
    assert told in str(refused.value)
    assert "canary" not in str(refused.value)
