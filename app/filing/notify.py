"""Tells custodians and other systems what happened: by signed webhook and by e-mail, ids and states alone.

Each turn takes from the outbox (``app.store.notices``) what is due, tells it, and forgets it only once the
receiver took it. What fails is tried again, ever more rarely, for a week; after a day an alarm stands. A
notice may come twice, under the same id.

Webhooks are signed as Standard Webhooks (standardwebhooks.com) says: HMAC-SHA256 over id, time and body. No
redirect is followed, no answer is read. Nothing is told over a connection that others could read, unless it
ends on this machine.
"""

import asyncio
import base64
import hmac
import json
import logging
import re
import smtplib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, Protocol

import httpx

from app import log
from app.filing.trust import trusted
from app.settings import NotifySettings, SettingsError
from app.store import alarms, notices
from app.store.alarms import ADVICE, AlarmKind
from app.store.database import Database
from app.store.notices import ALARM_CLEARED, ALARM_RAISED, REPORT_CHANGED, Notice
from app.store.reports.report_states import State
from app.store.rows import UnreadableRowError

logger = logging.getLogger(__name__)

SECONDS: Final = 15.0
"""How long a receiver may take."""

LEASE: Final = timedelta(minutes=5)
"""How long a taken notice is nobody else's; far longer than a receiver may take."""

FIRST_PAUSE: Final = timedelta(seconds=10)
LONGEST_PAUSE: Final = timedelta(hours=6)
ALARM_AFTER: Final = timedelta(days=1)
GIVE_UP_AFTER: Final = timedelta(days=7)

_MOST_IN_A_MAIL: Final = 500

_NAME: Final = re.compile("[0-9A-Za-z_-]{1,64}")
_NO_NAME: Final = "(unreadable)"


class NotToldError(Exception):
    """The receiver did not take it; the message says why without naming it."""


class Channel(Protocol):
    """A way to tell somebody.

    Attributes:
        name: in the outbox, the log and the alarm.
        at_once: how many notices one message holds.
    """

    name: str
    at_once: int

    def wants(self, notice: Notice) -> bool:
        """Whether this event is told here."""

    async def tell(self, told: Sequence[Notice]) -> None:
        """Tell these, all or none.

        Raises:
            NotToldError: the receiver did not take them.
        """


def channels(settings: NotifySettings) -> tuple[Channel, ...]:
    """The channels that the settings name; none if none is set.

    Raises:
        SettingsError: ``CORDON_NOTIFY_CA_FILE`` cannot be read as certificates.
    """
    found: list[Channel] = []
    if settings.notify_webhook_url is not None:
        found.append(Webhook(settings))
    if settings.notify_smtp_host is not None:
        found.append(Email(settings))
    return tuple(found)


async def tell(database: Database, to: Sequence[Channel]) -> None:
    """One turn: address what is new, tell what is due, and say what cannot be told.

    A channel that fails is left alone until the next turn. Notices that cannot be read are forgotten: they
    stand before no other.

    Raises:
        NotReadyError: the database does not answer.
    """
    try:
        await _tell_all(database, to)
    except UnreadableRowError:
        async with database.begin() as connection:
            forgotten = await notices.forget_unreadable(connection)
        log.event(logger, logging.ERROR, "notices_unreadable", notices=forgotten)
        await _tell_all(database, to)


async def _tell_all(database: Database, to: Sequence[Channel]) -> None:
    more = True
    while more:
        async with database.begin() as connection:
            more = await notices.address(connection, {channel.name: channel.wants for channel in to})
    for channel in to:
        while await _tell_next(database, channel):
            pass
        await _watch(database, channel)


async def _tell_next(database: Database, channel: Channel) -> bool:
    """Tell what is due next; whether there was something and it was told."""
    async with database.begin() as connection:
        due = await notices.take_due(connection, channel.name, limit=channel.at_once, lease=LEASE)
    if not due:
        return False
    ids = [notice.id for notice in due]
    try:
        await channel.tell(due)
    except NotToldError as error:
        log.event(
            logger, logging.WARNING, "notice_not_told",
            channel=channel.name, notices=len(due), reason=str(error), attempts=due[0].attempts + 1,
        )  # fmt: skip
        now = datetime.now(UTC)
        too_old = [notice.id for notice in due if now - notice.created_at > GIVE_UP_AFTER]
        async with database.begin() as connection:
            await notices.postpone(connection, ids, now + _pause(due[0].attempts))
            await notices.told(connection, too_old)
        if too_old:
            log.event(logger, logging.ERROR, "notices_given_up", channel=channel.name, notices=len(too_old))
        return False
    async with database.begin() as connection:
        await notices.told(connection, ids)
    return True


async def _watch(database: Database, channel: Channel) -> None:
    async with database.begin() as connection:
        oldest = await notices.oldest(connection, channel.name)
        late = oldest is not None and datetime.now(UTC) - oldest > ALARM_AFTER
        change = alarms.raise_alarm if late else alarms.clear_alarm
        await change(connection, AlarmKind.NOTICES_FAILING, channel.name)


def _pause(attempts: int) -> timedelta:
    """10 s, 40 s, 160 s and so on, up to 6 hours."""
    longer: int = 4 ** min(max(attempts, 0), 8)
    return min(FIRST_PAUSE * longer, LONGEST_PAUSE)


class Webhook:
    """Every event as one signed request: ``{"type", "timestamp", "data"}``."""

    name = "webhook"
    at_once = 1

    def __init__(self, settings: NotifySettings) -> None:
        if settings.notify_webhook_url is None or settings.notify_webhook_secret is None:
            raise ValueError("no webhook is set")
        self._url = settings.notify_webhook_url
        self._secret = settings.notify_webhook_secret
        self._trust = _trusted(settings)

    def wants(self, notice: Notice) -> bool:  # noqa: ARG002 - the other channel looks at it
        """All of them."""
        return True

    async def tell(self, told: Sequence[Notice]) -> None:
        """POST each; any 2xx means that it was taken."""
        async with httpx.AsyncClient(
            verify=self._trust, trust_env=False, follow_redirects=False, timeout=SECONDS
        ) as client:
            for notice in told:
                await self._post(client, notice)

    async def _post(self, client: httpx.AsyncClient, notice: Notice) -> None:
        body = _payload(notice)
        headers = {
            "content-type": "application/json",
            "user-agent": "Cordon",
            **signed(self._secret, notice.id, datetime.now(UTC), body),
        }
        try:
            async with (
                asyncio.timeout(SECONDS),
                client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                status, taken = answer.status_code, answer.is_success
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            # TimeoutError is an OSError, and a host that has no IDNA form is a ValueError.
            raise NotToldError(type(error).__name__) from None
        if not taken:
            raise NotToldError(f"HTTP {status}")


class Email:
    """New reports and alarms, all that is due in one plain message."""

    name = "email"
    at_once = _MOST_IN_A_MAIL

    def __init__(self, settings: NotifySettings) -> None:
        if settings.notify_smtp_host is None or settings.notify_email_from is None:
            raise ValueError("no mail server is set")
        self._host = settings.notify_smtp_host
        self._sender = settings.notify_email_from
        self._settings = settings
        self._trust = _trusted(settings)

    def wants(self, notice: Notice) -> bool:
        """A custodian need not hear of what custodians did."""
        return notice.event != REPORT_CHANGED or notice.state == State.QUEUED

    async def tell(self, told: Sequence[Notice]) -> None:
        """Send one message; the server must take it for every recipient."""
        try:
            await asyncio.to_thread(self._send, self._message(told))
        except (smtplib.SMTPException, ValueError, OSError) as error:
            raise NotToldError(type(error).__name__) from None

    def _send(self, message: EmailMessage) -> None:
        settings = self._settings
        server = (
            smtplib.SMTP_SSL(self._host, settings.notify_smtp_port, timeout=SECONDS, context=self._trust)
            if settings.notify_smtp_tls == "implicit"
            else smtplib.SMTP(self._host, settings.notify_smtp_port, timeout=SECONDS)
        )
        with server:
            if settings.notify_smtp_tls == "starttls":
                server.starttls(context=self._trust)
            if settings.notify_smtp_user is not None and settings.notify_smtp_password is not None:
                server.login(settings.notify_smtp_user, settings.notify_smtp_password)
            refused = server.send_message(message)
        if refused:
            raise smtplib.SMTPRecipientsRefused(refused)

    def _message(self, told: Sequence[Notice]) -> EmailMessage:
        message = EmailMessage()
        alarm = any(notice.event == ALARM_RAISED for notice in told)
        message["Subject"] = "Cordon: an alarm" if alarm else "Cordon: a report waits for a custodian"
        message["From"] = self._sender
        message["To"] = ", ".join(self._settings.notify_email_to)
        message["Date"] = format_datetime(datetime.now(UTC))
        domain = parseaddr(self._sender)[1].rpartition("@")[2]
        message["Message-ID"] = f"<{told[0].id}.{told[0].attempts}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n".join(_text(told)))
        return message


def signed(secret: bytes, notice_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks for a body."""
    moment = str(int(at.timestamp()))
    signature = hmac.digest(secret, f"{notice_id}.{moment}.".encode() + body, "sha256")
    return {
        "webhook-id": notice_id,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


def _payload(notice: Notice) -> bytes:
    subject, state = _plain(notice.subject), _plain(notice.state)
    data = (
        {"id": subject, "state": state}
        if notice.event == REPORT_CHANGED
        else {"kind": state, "subject": subject}
    )
    at = notice.created_at.isoformat().replace("+00:00", "Z")
    return json.dumps({"type": notice.event, "timestamp": at, "data": data}).encode()


def _plain(untrusted: str) -> str:
    """An id or a word of Cordon's: whoever can write to the database would have custodians told anything."""
    return untrusted if _NAME.fullmatch(untrusted) else _NO_NAME


def _text(told: Sequence[Notice]) -> list[str]:
    lines = []
    for notice in told:
        at = f"{notice.created_at:%Y-%m-%d %H:%M} UTC  "
        subject, state = _plain(notice.subject), _plain(notice.state)
        if notice.event == REPORT_CHANGED:
            lines.append(f"{at}report {subject} waits for a custodian")
        elif notice.event == ALARM_CLEARED:
            lines.append(f"{at}over: {state} of {subject}")
        else:
            lines.append(f"{at}alarm: {state} of {subject}")
            # A newer Cordon, or somebody else, may have written another kind.
            lines += [f"    {advice}" for kind, advice in ADVICE.items() if kind.value == notice.state]
    return [
        *lines,
        "",
        "This message holds ids and states, and nothing of any report. At the gate's machine:",
        "    cordon report list",
        "    cordon report alarms",
    ]


def _trusted(settings: NotifySettings) -> ssl.SSLContext:
    try:
        return trusted(settings.notify_ca_file)
    except OSError:
        raise SettingsError("CORDON_NOTIFY_CA_FILE: cannot be read as PEM certificates") from None
