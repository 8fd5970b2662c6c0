"""Tells custodians and other systems what happened: by signed webhook and by e-mail, ids and states alone.

Each turn takes from the outbox (``app.store.notices``) what is due, tells it, and forgets it only once the
receiver took it. What fails is tried again, ever more rarely, for a week; after a day an alarm stands. A
notice may come twice, under the same id.

Each address is a channel of its own: one that a mail server refuses has nobody else told again.

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
import ssl
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, Protocol

import aiosmtplib
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
"""How long the receiver of a webhook may take."""

MAIL_SECONDS: Final = 60.0
"""How long a mail server may take for all of one message, which some look through before they take it."""

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
    found += [Email(settings, number) for number in range(1, len(settings.notify_email_to) + 1)]
    return tuple(found)


async def tell(database: Database, to: Sequence[Channel]) -> None:
    """One turn: address what is new, tell what is due, and say what cannot be told.

    A channel that fails is left alone until the next turn, and none waits for another. Notices that cannot be
    read are forgotten: they stand before no other.

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
    turns = await asyncio.gather(*(_tell_due(database, channel) for channel in to), return_exceptions=True)
    names = [channel.name for channel in to]
    await _watch(database, names, {name for name, turn in zip(names, turns, strict=True) if turn is True})
    for failed in turns:
        if isinstance(failed, BaseException):
            raise failed


async def _tell_due(database: Database, channel: Channel) -> bool:
    """Tell all that is due, up to what fails; whether something was told."""
    told = False
    while await _tell_next(database, channel):
        told = True
    return told


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


async def _watch(database: Database, names: Sequence[str], told: Collection[str]) -> None:
    """Call a person for what waits too long; once given up, until something is told there again."""
    now = datetime.now(UTC)
    async with database.begin() as connection:
        stands = await alarms.subjects_of(connection, AlarmKind.NOTICES_FAILING)
        failing = (set(stands) & set(names)) - set(told)
        for name in names:
            since = await notices.oldest(connection, name)
            if since is not None and now - since > ALARM_AFTER:
                failing.add(name)
        await alarms.match_to(connection, AlarmKind.NOTICES_FAILING, failing)


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
    """New reports and alarms to one address, all that is due in one plain message."""

    at_once = _MOST_IN_A_MAIL

    def __init__(self, settings: NotifySettings, number: int = 1) -> None:
        """One of the addresses, by its number: whoever corrects it in the settings still gets what waits."""
        if settings.notify_smtp_host is None or settings.notify_email_from is None:
            raise ValueError("no mail server is set")
        self.name = "email" if number == 1 else f"email-{number}"
        self._host = settings.notify_smtp_host
        self._sender = settings.notify_email_from
        self._recipient = settings.notify_email_to[number - 1]
        self._settings = settings
        self._trust = _trusted(settings)

    def wants(self, notice: Notice) -> bool:
        """A custodian need not hear of what custodians did."""
        return notice.event != REPORT_CHANGED or notice.state == State.QUEUED

    async def tell(self, told: Sequence[Notice]) -> None:
        """Send one message; what comes after the server took it changes nothing."""
        settings = self._settings
        # The talk as a whole is limited, which a server that sends a byte now and then cannot prolong.
        server = aiosmtplib.SMTP(
            hostname=self._host,
            port=settings.notify_smtp_port,
            username=settings.notify_smtp_user,
            password=settings.notify_smtp_password,
            use_tls=settings.notify_smtp_tls == "implicit",
            start_tls=settings.notify_smtp_tls == "starttls",
            tls_context=self._trust,
            timeout=None,
        )
        taken = False
        try:
            async with asyncio.timeout(MAIL_SECONDS):
                await server.connect()
                await server.send_message(self._message(told))
                taken = True
                await server.quit()
        except (aiosmtplib.SMTPException, ValueError, OSError) as error:
            if not taken:
                raise NotToldError(_reason(error)) from None
        finally:
            server.close()

    def _message(self, told: Sequence[Notice]) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = _subject({notice.event for notice in told})
        message["From"] = self._sender
        message["To"] = self._recipient
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


def _subject(events: Collection[str]) -> str:
    if ALARM_RAISED in events:
        return "Cordon: an alarm"
    return (
        "Cordon: a report waits for a custodian" if REPORT_CHANGED in events else "Cordon: an alarm is over"
    )


def _reason(error: Exception) -> str:
    """What went wrong, with the code of a server that refused: its words may be anything."""
    codes: list[int] = []
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        codes = [refused.code for refused in error.recipients]
    elif isinstance(error, aiosmtplib.SMTPResponseException):
        codes = [error.code]
    return " ".join([type(error).__name__, *map(str, codes)])


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
