"""The worker's signature under the audit log, once an hour."""

import logging
from pathlib import Path

from app import log
from app.custody.identity import read_identity
from app.custody.roster import RosterFile
from app.errors import InvalidRequestError, NotFoundError, RefusedError
from app.store.database import Database
from app.store.record import checkpoints
from app.store.record.witness import Witness

logger = logging.getLogger(__name__)


async def sign(database: Database, key: Path, pins: RosterFile, witness: Witness) -> None:
    """Sign the log's head if the worker has a key; why it cannot is logged, and tried again.

    Args:
        database: whose log it is.
        key: the worker's identity file.
        pins: where its public half stands.
        witness: what was seen of the log before, also where nobody signed it.

    Raises:
        NotReadyError: the database does not answer, or the file of the pinned is none.
    """
    try:
        identity = read_identity(key)
    except NotFoundError:
        return
    except InvalidRequestError as error:
        log.failure(logger, "no_audit_checkpoint", error, code=error.code)
        return
    try:
        await witness.follow(database)
        await checkpoints.take(database, identity, pins.read_if_there())
    except RefusedError as error:
        log.failure(logger, "no_audit_checkpoint", error, code=error.code)
