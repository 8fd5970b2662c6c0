"""What the double does with each call: the states of a report there, its checks, and its codes.

After "CyberTipline Reporting API Technical Documentation" (2025-06-11). A report is open, finished, retracted
or expired: an open one is deleted at the later of 24 hours after opening and one hour after the last upload.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from lxml import etree

from app.filing.cybertip import grammar, rules
from app.filing.cybertip.reading import UnreadableError, read
from app.filing.cybertip.schema import Schema

EXPIRES_AFTER_OPENING: Final = timedelta(hours=24)
EXPIRES_AFTER_UPLOAD: Final = timedelta(hours=1)

OK: Final = 0
NOT_FOUND: Final = 1210
UNAUTHENTICATED: Final = 2000
INVALID_REQUEST: Final = 4000
INVALID: Final = 4100
MALFORMED: Final = 4110
NO_REPORT: Final = 5001
NO_FILE: Final = 5002
RETRACTED: Final = 5101
FINISHED: Final = 5102

_XML_TYPES: Final = ("text/xml", "application/xml")
_SENDERS_ID: Final = re.compile(r"^Report of the sender: (\S+)$", re.MULTILINE)


class State(StrEnum):
    """What became of a report there."""

    OPEN = "open"
    FINISHED = "finished"
    RETRACTED = "retracted"
    EXPIRED = "expired"


@dataclass
class Filed:
    """A report that was opened.

    Attributes:
        sender_id: the sender's own id of it, as its text tells; None if it does not.
        document: the XML, verbatim.
        files: ids of uploaded files; their bytes are not kept.
    """

    id: str
    sender_id: str | None
    document: bytes = field(repr=False)
    opened_at: datetime
    state: State = State.OPEN
    uploaded_at: datetime | None = None
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    """A code, and what goes with it."""

    code: int
    description: str = "Success"
    report_id: str | None = None
    file_id: str | None = None
    md5: str | None = None
    files: tuple[str, ...] = ()
    done: bool = False


class Service:
    """All reports that were opened at this double, in memory.

    Args:
        schema: NCMEC's own; without it, only the checks of Cordon's own grammar are made.
        now: the time by the wall, before ``advance``.
    """

    def __init__(self, schema: Schema | None = None, now: Callable[[], datetime] | None = None) -> None:
        self.reports: dict[str, Filed] = {}
        self.schema = schema
        self._wall = now or (lambda: datetime.now(UTC))
        self._ahead = timedelta()

    @property
    def now(self) -> datetime:
        """The double's own time."""
        return self._wall() + self._ahead

    def advance(self, by: timedelta) -> None:
        """Set the double's clock forward, or back if negative.

        Raises:
            OverflowError: there is no such time.
        """
        ahead = self._ahead + by
        # What expires is reckoned from it.
        self._wall() + ahead + EXPIRES_AFTER_OPENING
        self._ahead = ahead

    def status(self, user: str) -> Reply:
        """Whether it is there."""
        return Reply(OK, f"Remote User : {user}, at a double: nothing is filed here")

    def submit(self, content_type: str, untrusted: bytes) -> Reply:
        """Open a report with its XML."""
        root = self._document(content_type, untrusted)
        if isinstance(root, Reply):
            return root
        refused = self._refused(root, grammar.problems(root, self.now))
        if refused is not None:
            return refused
        opened = Filed(self._new_id(), _sender_id(root), untrusted, self.now)
        self.reports[opened.id] = opened
        return Reply(OK, report_id=opened.id)

    def upload(self, report_id: str | None, file: bytes | None) -> Reply:
        """Take a file to an open report: its MD5 is told, its bytes are dropped."""
        report = self._open(report_id)
        if isinstance(report, Reply):
            return report
        if file is None:
            return Reply(INVALID_REQUEST, "the field 'file' is missing")
        report.files.append(secrets.token_hex(16))
        report.uploaded_at = self.now
        md5 = hashlib.md5(file, usedforsecurity=False).hexdigest()
        return Reply(OK, report_id=report.id, file_id=report.files[-1], md5=md5)

    def file_info(self, content_type: str, untrusted: bytes) -> Reply:
        """Take what is said of an uploaded file."""
        root = self._document(content_type, untrusted)
        if isinstance(root, Reply):
            return root
        refused = self._refused(root, grammar.file_problems(root, self.now))
        if refused is not None:
            return refused
        report = self._open(root.findtext("reportId"))
        if isinstance(report, Reply):
            return report
        if root.findtext("fileId") not in report.files:
            return Reply(NO_FILE, "the file does not exist")
        report.uploaded_at = self.now
        return Reply(OK, report_id=report.id)

    def finish(self, report_id: str | None) -> Reply:
        """File an open report."""
        report = self._open(report_id)
        if isinstance(report, Reply):
            return report
        report.state = State.FINISHED
        return Reply(OK, report_id=report.id, files=tuple(report.files), done=True)

    def retract(self, report_id: str | None) -> Reply:
        """Withdraw an open report."""
        report = self._open(report_id)
        if isinstance(report, Reply):
            return report
        report.state = State.RETRACTED
        return Reply(OK, report_id=report.id)

    def of_sender(self, sender_id: str) -> tuple[Filed, ...]:
        """Every report that was opened here for a report of the sender."""
        self._expire()
        return tuple(report for report in self.reports.values() if report.sender_id == sender_id)

    def _document(self, content_type: str, untrusted: bytes) -> etree._Element | Reply:
        if content_type.partition(";")[0].strip().lower() not in _XML_TYPES:
            return Reply(INVALID_REQUEST, "send XML as text/xml; charset=utf-8")
        try:
            return read(untrusted)
        except UnreadableError as error:
            return Reply(MALFORMED, f"the document cannot be read: {error}")

    def _refused(self, root: etree._Element, wrong: Sequence[grammar.Problem]) -> Reply | None:
        """What is answered to a document that is not good; None if it is."""
        if wrong:
            return Reply(INVALID, str(wrong[0]))
        by_schema = self.schema.problem(root) if self.schema is not None else None
        return Reply(INVALID, by_schema) if by_schema is not None else None

    def _open(self, report_id: str | None) -> Filed | Reply:
        """An open report, or why it is none."""
        if not report_id:
            return Reply(INVALID_REQUEST, "the field 'id' is missing")
        self._expire()
        report = self.reports.get(report_id)
        if report is None or report.state is State.EXPIRED:
            return Reply(NO_REPORT, "the report does not exist", report_id)
        if report.state is State.RETRACTED:
            return Reply(RETRACTED, "the report was retracted", report_id)
        if report.state is State.FINISHED:
            return Reply(FINISHED, "the report was finished", report_id)
        return report

    def _expire(self) -> None:
        for report in self.reports.values():
            ends = report.opened_at + EXPIRES_AFTER_OPENING
            if report.uploaded_at is not None:
                ends = max(ends, report.uploaded_at + EXPIRES_AFTER_UPLOAD)
            if report.state is State.OPEN and self.now >= ends:
                report.state = State.EXPIRED

    def _new_id(self) -> str:
        while True:
            # The schema has a number here; nothing tells that one follows from another.
            drawn = str(secrets.randbelow(9 * 10**11) + 10**11)
            if drawn not in self.reports:
                return drawn


def write(reply: Reply) -> bytes:
    """A reply as the API writes it; it says UTF-8, and holds something that is not ASCII."""
    root = etree.Element("reportDoneResponse" if reply.done else "reportResponse")
    _add(root, "responseCode", str(reply.code))
    if reply.done:
        _add(root, "reportId", reply.report_id)
        files = etree.SubElement(root, "files")
        for file in reply.files:
            _add(files, "fileId", file)
    else:
        _add(root, "responseDescription", f"{reply.description} \u2013 CyberTipline double")
        _add(root, "reportId", reply.report_id)
        _add(root, "fileId", reply.file_id)
        _add(root, "hash", reply.md5)
    written: bytes = etree.tostring(root, xml_declaration=True, encoding="UTF-8", standalone=True)
    return written


def _add(parent: etree._Element, name: str, text: str | None) -> None:
    if text is not None:
        etree.SubElement(parent, name).text = rules.clean(text)


def _sender_id(root: etree._Element) -> str | None:
    found = _SENDERS_ID.search(root.findtext("additionalInfo") or "")
    return found.group(1) if found else None
