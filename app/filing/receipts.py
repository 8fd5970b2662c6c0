"""The authority's receipts: each kept verbatim, sealed to every custodian, however their plugins fare.

A receipt comes after what cannot be undone, so it is never thrown away. While a custodian cannot be sealed
to, it is sealed to the others and to the worker, and an alarm says so. The worker seals it to all later.
"""

import logging

from app import log
from app.custody.identity import Identity, encrypt, encrypt_aside
from app.custody.recipients import programs_of
from app.custody.roster import RosterFile
from app.errors import ConflictError, InvalidRequestError, NotReadyError
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.reports import filings

logger = logging.getLogger(__name__)


async def seal(receipt: bytes, pins: RosterFile, worker: Identity) -> tuple[bytes, bool]:
    """The sealed receipt, and whether it is sealed to every pinned custodian.

    Args:
        receipt: the authority's answer, verbatim.
        pins: whom it is for.
        worker: who keeps it for those who cannot be sealed to now.
    """
    public_keys: tuple[str, ...] = ()
    try:
        public_keys = pins.read().public_keys
        return await encrypt_aside(receipt, public_keys), True
    except (InvalidRequestError, NotReadyError) as error:
        log.event(logger, logging.WARNING, "receipt_not_sealed_to_all", detail=str(error))
    able = [key for key in public_keys if not programs_of([key])]
    return encrypt(receipt, (worker.public_key, *able)), False


async def seal_waiting(database: Database, pins: RosterFile, worker: Identity) -> None:
    """Seal to every custodian the receipts that could not be when they came, and end their alarms.

    Raises:
        NotReadyError: the database does not answer.
    """
    async with database.connect() as connection:
        waiting = [
            alarm.subject
            for alarm in await alarms.standing(connection)
            if alarm.kind is AlarmKind.RECEIPT_NOT_SEALED
        ]
    for report_id in waiting:
        try:
            async with database.connect() as connection:
                kept = await filings.receipt_as_recorded(connection, report_id)
            receipt = worker.decrypt(kept) if kept is not None else None
        except (ConflictError, InvalidRequestError) as error:
            # Changed by somebody, or sealed to an earlier worker: the alarm stands.
            log.failure(logger, "receipt_not_sealed_anew", error, report=report_id)
            continue
        sealed, to_all = await seal(receipt, pins, worker) if receipt is not None else (b"", True)
        if not to_all:
            return
        async with database.begin() as connection:
            await alarms.clear_alarm(connection, AlarmKind.RECEIPT_NOT_SEALED, report_id)
            if kept is not None:
                await filings.replace_receipt(connection, report_id, kept, sealed)
