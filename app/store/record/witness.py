"""What a worker saw of the audit log: remembered where no gate and no database can write.

Whoever can write to the database can also write its log anew, to bring back an approval that was taken
back, or to hide that a report was filed. The worker has read the log by then. It keeps the newest entry in
a file of its own, whose digest covers all before it, and files nothing while the log does not follow on from
that. Of each report it remembers what the log said, so that an old entry that is changed in place is noticed,
and which attempts to finish it were told there: whether it may be filed is not asked of the database alone.
"""

import asyncio
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app import files
from app.errors import InvalidRequestError
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit, checkpoints
from app.store.record.audit import Entry, Head, Seen, TakenBackError
from app.store.reports import endings, filing_log
from app.store.reports.filing_log import Attempt

SUBJECT: Final = "worker"
"""Of the alarm: it is about what the worker saw."""

_MAX_FILE_BYTES: Final = 4096
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_NOTHING: Final = (0, bytes(32))


class MemoryUnusableError(InvalidRequestError):
    """The worker's memory cannot be read or written: what it does could not be remembered."""


class Witness:
    """Follows the log of one database."""

    def __init__(self, path: Path | None = None) -> None:
        """Remember nothing yet but what the file holds.

        Args:
            path: the file; it is made when there is something to remember. None remembers only for as long
                as this object lives.

        Raises:
            MemoryUnusableError: others may write the file, or it is none of ours.
        """
        self._path = path
        self._head = remembered(path) if path is not None else None
        # How far this object has read, and of each subject how many entries, and a digest over theirs.
        self._walked: Head | None = None
        self._seen: dict[str, tuple[int, bytes]] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._decided: dict[str, list[tuple[str, bytes]]] = {}
        self._alarm_may_stand = True
        self._turn = asyncio.Lock()

    async def follow(self, database: Database) -> None:
        """Read what came since the last time, all of the log at first, and remember it.

        Raises:
            AuditBrokenError: it does not follow on from what was seen; an alarm is raised too.
            MemoryUnusableError: the file cannot be read or written.
            NotReadyError: the database does not answer.
        """
        async with self._turn:
            self._learn()
            async with database.connect() as connection:
                known = [self._head] if self._head is not None else []
                finding = await audit.since(connection, self._walked, known=known, see=self._see)
            if finding is not None:
                # Once it is mended, all of it is read anew.
                self._walked, self._alarm_may_stand = None, True
                self._seen, self._attempts, self._decided = {}, {}, {}
                await checkpoints.refuse(database, finding, subject=SUBJECT)
            if self._alarm_may_stand:
                async with database.begin() as connection:
                    await alarms.clear_alarm(connection, AlarmKind.AUDIT_BROKEN, SUBJECT)
                self._alarm_may_stand = False
            if self._walked is not None and (self._head is None or self._walked.seq > self._head.seq):
                if self._path is not None:
                    _write(self._path, self._walked)
                self._head = self._walked

    async def check(self, connection: AsyncConnection, report_id: str) -> None:
        """Return only if the log says of a report all that it was seen to say; it may say more by now.

        Raises:
            TakenBackError: something was changed, put in or taken out.
        """
        count, digest = self._seen.get(report_id, _NOTHING)
        found = _NOTHING
        for each in (await audit.digests_of(connection, report_id))[:count]:
            found = _with(found, each)
        if found != (count, digest):
            raise TakenBackError(report_id)

    def _learn(self) -> None:
        """Take in what another process with the same file read: what it did must not be done again."""
        theirs = remembered(self._path) if self._path is not None else None
        if theirs is not None and (self._head is None or theirs.seq > self._head.seq):
            self._head = theirs

    def attempts(self, report_id: str) -> tuple[Attempt, ...]:
        """What was seen of attempts to finish a report, newest first."""
        return tuple(reversed(self._attempts.get(report_id, [])))

    def seen(self, report_id: str) -> Seen:
        """What was seen of how a report was decided and ended: what is read of that is held to it."""
        return tuple(self._decided.get(report_id, ()))

    def _see(self, entry: Entry) -> None:
        self._walked = Head(entry.seq, entry.digest)
        self._seen[entry.subject] = _with(self._seen.get(entry.subject, _NOTHING), entry.digest)
        if entry.event in endings.DECIDING_EVENTS:
            told = entry.event, audit.details_digest(entry.details)
            self._decided.setdefault(entry.subject, []).append(told)
        if entry.event in filing_log.OF_ATTEMPTS:
            seen = Attempt.of(entry.event, entry.details)
            self._attempts.setdefault(entry.subject, []).append(seen)


def _with(seen: tuple[int, bytes], digest: bytes) -> tuple[int, bytes]:
    return seen[0] + 1, hashlib.sha256(seen[1] + digest).digest()


def remembered(path: Path) -> Head | None:
    """The newest entry that a worker read, by the file that it keeps; None if there is no file.

    Raises:
        MemoryUnusableError: it cannot be read, others may write it, or it is none.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            untrusted = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MemoryUnusableError(f"The worker's memory {path} cannot be read: {error.strerror}.") from None
    if mode & _OTHERS_WRITE:
        raise MemoryUnusableError(f"Others may write the worker's memory {path}; run 'chmod 600 {path}'.")
    try:
        said = json.loads(untrusted)
        head = Head(int(said["seq"]), bytes.fromhex(said["digest"]))
    except (LookupError, ValueError, TypeError):
        raise MemoryUnusableError(
            f"{path} is no memory of a worker. Run 'cordon audit verify --checkpoint' with a copy that you "
            "kept, and remove it if all is well."
        ) from None
    return head


def _write(path: Path, head: Head) -> None:
    """Replace the file whole, durably."""
    content = json.dumps({"seq": head.seq, "digest": head.digest.hex()}) + "\n"
    try:
        files.replace(path, content.encode("ascii"))
    except OSError as error:
        raise MemoryUnusableError(
            f"The worker's memory {path} cannot be written: {error.strerror}. Name a file in "
            "CORDON_FILING_MEMORY that the worker alone can write."
        ) from None
