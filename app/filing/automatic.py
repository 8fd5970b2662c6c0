"""What the worker approves by itself, where that is on: what is certain enough that nobody has to look.

It opens what gates sealed to it, checks it against the audit log, asks the same rule as the gate once more,
and signs an approval under an action of its own. From there on it is filed as any other.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from app import log
from app.custody.decision import Action, Decision
from app.custody.identity import encrypt_aside
from app.custody.roster import Roster, WorkerKeys
from app.errors import ConflictError, InvalidRequestError, NotFoundError, NotReadyError
from app.filing.cybertip.document import Said, build, unguessable
from app.filing.cybertip.reading import read
from app.filing.cybertip.reporter import Reporter
from app.filing.cybertip.schema import refusals
from app.filing.desk import Desk
from app.report.automatic import may_file
from app.report.seal import open_report
from app.store.banks import bank_listing
from app.store.record import audit
from app.store.reports import accepting, decisions, reports, sealed
from app.store.rows import UnreadableRowError

logger = logging.getLogger(__name__)

BY: Final = "worker"

_IDS_BELOW: Final = 2**63

SAID: Final = Said(
    note="Filed automatically: no person of the reporter looked at this report before it was sent."
)
"""All that the worker says of a report: what only a person may judge is not in it."""


@dataclass(frozen=True)
class Terms:
    """What is filed with nobody looking, and in whose name.

    Attributes:
        distance: largest PDQ distance in bits.
        reporter: who is no placeholder.
        role: ``CORDON_REPORTER_ROLE``.
        preservation: ``CORDON_PRESERVATION``.
    """

    distance: int
    reporter: Reporter
    role: str | None
    preservation: str | None


@dataclass(frozen=True)
class _Opened:
    """A report with its later sightings.

    Attributes:
        doubted: ids of the entries that matched and that nobody files by, as they stand now.
    """

    sealed_sha256: tuple[str, ...]
    documents: tuple[dict[str, Any], ...] = field(repr=False)
    doubted: frozenset[int]


async def _sealed(xml: bytes, roster: Roster, keys: WorkerKeys) -> tuple[bytes, bytes]:
    """The XML as it is signed, and what the worker says with it."""
    words = json.dumps(dataclasses.asdict(SAID)).encode()
    try:
        sealed_xml = await encrypt_aside(xml, (keys.public_key, *roster.public_keys))
        return sealed_xml, await encrypt_aside(words, roster.public_keys)
    except NotReadyError as error:
        log.event(logger, logging.WARNING, "custodian_plugin_failed", detail=str(error))
        raise _LeftError("custodian_plugin_failed") from None


class _LeftError(Exception):
    """The report waits for a person."""


@dataclass
class AutomaticApproval:
    """Approves what may be, turn by turn.

    Attributes:
        left: ids of queued reports that were left to a person; they are looked at once.
    """

    desk: Desk
    terms: Terms
    left: set[str] = field(default_factory=set)

    async def turn(self) -> None:
        """Look at every report that was sealed to the worker and is still queued.

        Raises:
            NotReadyError: the database failed, or the file of the pinned is none.
        """
        roster, keys = self.desk.pins.read(), WorkerKeys.of(self.desk.identity)
        if roster.worker != keys:
            return
        async with self.desk.database.connect() as connection:
            waiting = await sealed.waiting_for_worker(connection, keys.fingerprint)
        self.left.intersection_update(waiting)
        for report_id in waiting:
            if report_id not in self.left:
                await self._look(report_id, roster, keys)

    async def _look(self, report_id: str, roster: Roster, keys: WorkerKeys) -> None:
        try:
            opened = await self._open(report_id, roster, keys)
            xml = self._xml(opened)
            sealed_xml, sealed_words = await _sealed(xml, roster, keys)
        except _LeftError as left:
            self.left.add(report_id)
            log.event(logger, logging.WARNING, "left_to_a_person", report=report_id, cause=str(left))
            return
        except UnreadableRowError:
            self.left.add(report_id)
            log.event(logger, logging.WARNING, "left_to_a_person", report=report_id, cause="tampered")
            return
        except NotFoundError:
            return
        decision = Decision(
            action=Action.APPROVE_AUTOMATICALLY,
            report_id=report_id,
            sealed_sha256=opened.sealed_sha256,
            decided_at=self.desk.now(),
            custodian=keys.fingerprint,
            xml_sha256=hashlib.sha256(xml).hexdigest(),
            xml=sealed_xml,
            words=sealed_words,
        )
        try:
            async with self.desk.database.begin() as connection:
                await accepting.approve_automatically(connection, decision, self.desk.identity, roster, by=BY)
        except (ConflictError, NotFoundError):
            # A person, another sighting or another worker was faster; what is left of it, the next turn sees.
            log.event(logger, logging.INFO, "overtaken", report=report_id)
            return
        log.event(logger, logging.INFO, "approved_automatically", report=report_id)

    async def _open(self, report_id: str, roster: Roster, keys: WorkerKeys) -> _Opened:
        """The report with its later sightings, each checked against the audit log; that is recorded."""
        async with self.desk.database.begin() as connection:
            await reports.lock(connection, report_id)
            try:
                await self.desk.witness.check(connection, report_id)
                files = await sealed.authentic(connection, report_id, roster)
                seen = self.desk.witness.seen(report_id)
                decided = await decisions.every(connection, report_id, roster, seen=seen)
            except ConflictError:
                raise _LeftError("tampered") from None
            if decided:
                raise _LeftError("decided")
            try:
                documents = tuple(
                    open_report(file, self.desk.identity, report_id=report_id) for file in files.values()
                )
            except InvalidRequestError:
                raise _LeftError("not_sealed_to_worker") from None
            except (ConflictError, RecursionError):
                raise _LeftError("unreadable") from None
            doubted = await bank_listing.doubted(connection, _matched(documents))
            told = {sealed.WORKER: keys.fingerprint, "by": BY}
            await audit.append(connection, sealed.OPENED_EVENT, report_id, told)
        return _Opened(tuple(sealed.digests(files).values()), documents, doubted)

    def _xml(self, opened: _Opened) -> bytes:
        """What is filed, if nobody has to look at any of them."""
        now = self.desk.now()
        try:
            if not all(
                each["automatic_filing"] is True
                and may_file(_without(each, opened.doubted), distance=self.terms.distance)
                for each in opened.documents
            ):
                raise _LeftError("not_certain")
            xml = build(
                opened.documents,
                self.terms.reporter,
                SAID,
                role=self.terms.role,
                preservation=self.terms.preservation,
                now=now,
            )
        except (InvalidRequestError, LookupError, TypeError, ValueError, AttributeError):
            # Anybody can seal to a public key: not every file was written by a gate.
            raise _LeftError("unreadable") from None
        if refusals(read(xml), now, self.desk.schema):
            raise _LeftError("invalid_document")
        return unguessable(xml)


def _matched(documents: Sequence[dict[str, Any]]) -> set[int]:
    """Ids of the entries that matched, as far as they can be read: anybody can seal to a public key."""
    lists = [each.get("matches") for each in documents]
    matches = [match for each in lists if isinstance(each, list) for match in each if isinstance(match, dict)]
    found = [match.get("entry_id") for match in matches]
    return {each for each in found if isinstance(each, int) and 0 <= each < _IDS_BELOW}


def _without(document: dict[str, Any], doubted: frozenset[int]) -> dict[str, Any]:
    """A document as if some entries had not matched."""
    matches = [match for match in document["matches"] if match["entry_id"] not in doubted]
    return document | {"matches": matches}
