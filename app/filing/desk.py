"""What the worker files with: its key, the authority, the pinned, and what it saw of the audit log."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from app import log
from app.custody.identity import Identity, generate, read_identity, write_identity
from app.custody.roster import Roster, RosterFile, WorkerKeys
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.filing.cybertip.client import CyberTipline
from app.filing.cybertip.environment import Environment
from app.filing.cybertip.schema import Schema
from app.settings import Settings
from app.store.database import Database
from app.store.record.witness import Witness

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What filing needs.

    Attributes:
        identity: the worker's own; what custodians approve is sealed to it.
        schema: NCMEC's, where there is one.
        automatic: whether the worker's own approvals count.
        witness: what was seen of the audit log; nothing is filed that contradicts it.
        now: the clock, which may jump.
    """

    database: Database
    pins: RosterFile
    identity: Identity
    authority: CyberTipline
    environment: Environment
    dual_control: bool
    schema: Schema | None = None
    automatic: bool = False
    witness: Witness = field(default_factory=Witness)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def is_pinned(self, roster: Roster) -> bool:
        """Whether what this worker signs counts from here on."""
        return roster.worker == WorkerKeys.of(self.identity)


class NotPinnedError(InvalidRequestError):
    """The worker's key is not the pinned one: nothing would prove what it says of reports."""

    def __init__(self) -> None:
        super().__init__(
            "The worker's key is not the pinned one: nothing proves what it signs of the reports that it "
            "files. Start a worker with that key, or pin this one's with 'cordon custodian pin'."
        )


def worker_identity(settings: Settings) -> Identity:
    """The worker's own identity; where no setting names one, it is made when it is first needed.

    Raises:
        NotFoundError: the file that the setting names is not there.
        InvalidRequestError: it is no identity file of mode 0600, or has a passphrase.
    """
    path: Path = settings.worker_key_path
    try:
        return read_identity(path)
    except NotFoundError:
        if settings.filing.filing_identity is not None:
            raise
    # Another worker may be making it.
    with contextlib.suppress(ConflictError):
        write_identity(generate(), path)
    return read_identity(path)


def warn_that_not_pinned(identity: Identity) -> None:
    """Say how its keys are pinned: until they are, nothing can be approved for it, and it files nothing."""
    log.event(logger, logging.WARNING, "worker_key_not_pinned", run=WorkerKeys.of(identity).pinned_by)
