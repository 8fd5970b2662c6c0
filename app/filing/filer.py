"""The worker's filing: opened as the settings ask for it, and one turn after another.

Where the authority refuses Cordon itself, nothing is sent any more but ``/status``, now and then, until that
says that it knows these credentials: an alarm stands meanwhile.
"""

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from app import log
from app.custody.identity import Identity
from app.custody.roster import RosterFile, WorkerKeys
from app.errors import NotReadyError
from app.filing import receipts
from app.filing.automatic import AutomaticApproval, Terms
from app.filing.cybertip.answers import Call, Meaning, meaning
from app.filing.cybertip.client import open_client
from app.filing.cybertip.environment import check_reporter, endpoint
from app.filing.cybertip.reporter import Reporter
from app.filing.cybertip.schema import load
from app.filing.desk import Desk, NotPinnedError, warn_that_not_pinned, worker_identity
from app.filing.turn import Outcome, file_next, take_next
from app.settings import Settings, SettingsError
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import MemoryUnusableError, Witness
from app.store.reports import filings
from app.store.reports.filings import UnreadableReportError

logger = logging.getLogger(__name__)

ASK_AGAIN_SECONDS: Final = 600.0
"""How long the authority is left alone after it refused Cordon itself."""

_MOST_IN_A_TURN: Final = 500


class Lacking(StrEnum):
    """What a worker needs before it files anything, and only a person can mend."""

    MEMORY = "memory"
    KEY = "key"
    CUSTODIANS = "custodians"


class _PinsUnreadableError(Exception):
    """The file of the pinned cannot be read, or is none."""


@dataclass
class Filer:
    """Files what is due, turn by turn.

    Attributes:
        desk: what filing needs; None if it is off.
        alarm_after: how long after its approval an unfiled report raises an alarm.
        by_itself: what the worker approves by itself; None if nothing.
        passed_over: ids of reports that the last whole turn could not file: a row of theirs holds what no
            Cordon wrote.
        refused_until: by the monotonic clock; None while the authority takes reports.
        blocked: of why nothing is filed, what the log said last; None while it goes on.
    """

    database: Database
    desk: Desk | None
    alarm_after: timedelta
    by_itself: AutomaticApproval | None = None
    passed_over: frozenset[str] = frozenset()
    refused_until: float | None = None
    blocked: str | None = None
    _lacked: set[str] = field(default_factory=set)
    _goes_on: bool = False

    async def turn(self) -> None:
        """File all that is due, and say what is overdue, and what keeps it from filing anything.

        Raises:
            NotReadyError: the database failed, or the file of the pinned became none in the meantime.
        """
        await self.watch()
        if self.desk is None:
            await self._go_on()
            return
        if self.desk.authority.asks_to_wait or not await self._may_ask(self.desk):
            return
        try:
            await self._file(self.desk)
        except AuditBrokenError as error:
            # Its own alarm stands already.
            self._say_that_nothing_is_filed(str(error))
        except MemoryUnusableError as error:
            await self._block(Lacking.MEMORY, str(error))
        except NotPinnedError:
            if Lacking.KEY.value not in self._lacked:
                warn_that_not_pinned(self.desk.identity)
            await self._block(Lacking.KEY, "the worker's key is not the pinned one")
        except _PinsUnreadableError as error:
            await self._block(Lacking.CUSTODIANS, str(error))
        else:
            await self._go_on()

    async def watch(self) -> None:
        """Say what is overdue; also while a turn is under way, which many slow answers make long.

        That another authority refused Cordon is over: none but this worker's is asked any more.

        Raises:
            NotReadyError: the database failed.
        """
        now = self.desk.now() if self.desk is not None else datetime.now(UTC)
        async with self.database.begin() as connection:
            late = await filings.overdue(connection, now - self.alarm_after)
            await alarms.match_to(connection, AlarmKind.FILING_FAILING, late)
            mine = self.desk.environment.value if self.desk is not None else None
            for environment in await alarms.subjects_of(connection, AlarmKind.FILING_REFUSED):
                if environment != mine:
                    await alarms.clear_alarm(connection, AlarmKind.FILING_REFUSED, environment)

    async def file_one(self, desk: Desk, report_id: str) -> Outcome | None:
        """File one report now, as ``file_next``; the authority that takes it refuses Cordon no more."""
        outcome = await file_next(desk, report_id)
        if outcome in {Outcome.FILED, Outcome.DRY_RUN}:
            await self._taken(desk)
        return outcome

    async def seal_receipts(self) -> None:
        """Seal to every custodian what could not be when it came, if filing is on.

        Raises:
            NotReadyError: the database does not answer.
        """
        if self.desk is not None:
            await receipts.seal_waiting(self.database, self.desk.pins, self.desk.identity)

    async def _file(self, desk: Desk) -> None:
        await desk.witness.follow(desk.database)
        _check_pinned(desk)
        if self.by_itself is not None:
            await self.by_itself.turn()
        passed_over: set[str] = set()
        taken: set[str] = set()
        # Each report once: one that the database calls due again at once, whatever came of it, waits for the
        # next turn.
        while len(taken) < _MOST_IN_A_TURN and (next_one := await _take_next(desk, passed_over, taken)):
            report_id, outcome = next_one
            taken.add(report_id)
            if outcome is Outcome.STOPPED:
                await self._refused(desk)
                return
            if outcome in {Outcome.FILED, Outcome.DRY_RUN}:
                await self._taken(desk)
            if desk.authority.asks_to_wait:
                return
        await self._tell(frozenset(passed_over))

    async def _block(self, lacking: Lacking, reason: str) -> None:
        """Call a person: nothing is filed before somebody mends it, and no report would say so."""
        self._say_that_nothing_is_filed(reason)
        self._lacked.add(lacking.value)
        async with self.database.begin() as connection:
            await alarms.raise_alarm(connection, AlarmKind.WORKER_BLOCKED, lacking.value)

    def _say_that_nothing_is_filed(self, reason: str) -> None:
        """Say it in the log, once until it is another reason."""
        if self.blocked != reason:
            log.event(logger, logging.ERROR, "nothing_is_filed", detail=reason)
        self.blocked = reason

    async def _go_on(self) -> None:
        """End the alarms that this worker raised; at first, also those that one before it left standing.

        Another worker beside it ends its own.
        """
        self.blocked = None
        if self._goes_on and not self._lacked:
            return
        async with self.database.begin() as connection:
            for lacked in await alarms.subjects_of(connection, AlarmKind.WORKER_BLOCKED):
                if lacked in self._lacked or not self._goes_on:
                    await alarms.clear_alarm(connection, AlarmKind.WORKER_BLOCKED, lacked)
        self._lacked, self._goes_on = set(), True

    async def _tell(self, passed_over: frozenset[str]) -> None:
        """Call a person for each report that was passed over; the worker ends the alarms of the others."""
        new, self.passed_over = passed_over - self.passed_over, passed_over
        if new:
            async with self.database.begin() as connection:
                for report_id in sorted(new):
                    await alarms.raise_alarm(connection, AlarmKind.ROW_UNREADABLE, report_id)

    async def _may_ask(self, desk: Desk) -> bool:
        if self.refused_until is None:
            return True
        if time.monotonic() < self.refused_until:
            return False
        answer = await desk.authority.status()
        if meaning(Call.STATUS, answer) is not Meaning.DONE:
            self.refused_until = time.monotonic() + ASK_AGAIN_SECONDS
            return False
        self.refused_until = None
        return True

    async def _refused(self, desk: Desk) -> None:
        self.refused_until = time.monotonic() + ASK_AGAIN_SECONDS
        async with self.database.begin() as connection:
            await alarms.raise_alarm(connection, AlarmKind.FILING_REFUSED, desk.environment.value)

    async def _taken(self, desk: Desk) -> None:
        async with self.database.begin() as connection:
            await alarms.clear_alarm(connection, AlarmKind.FILING_REFUSED, desk.environment.value)


def _check_pinned(desk: Desk) -> None:
    """Return only if what the worker signs counts.

    Raises:
        NotPinnedError: its key is not the pinned one.
        _PinsUnreadableError: nobody can tell.
    """
    try:
        roster = desk.pins.read_if_there()
    except NotReadyError as error:
        raise _PinsUnreadableError(str(error)) from None
    if not desk.is_pinned(roster):
        raise NotPinnedError


async def _take_next(desk: Desk, passed_over: set[str], taken: set[str]) -> tuple[str, Outcome] | None:
    """Take a turn at the next report that can be read; others before it are named in ``passed_over``."""
    while True:
        try:
            return await take_next(desk, but_for=passed_over | taken)
        except UnreadableReportError as error:
            passed_over.add(error.report_id)


@contextlib.asynccontextmanager
async def open_filer(
    settings: Settings, database: Database, witness: Witness | None = None
) -> AsyncIterator[Filer]:
    """The filer that the settings ask for, until the block ends.

    Args:
        settings: what to file, and where.
        database: whose reports they are.
        witness: what was seen of the audit log; None reads what the worker remembers of it.

    Raises:
        SettingsError: something that filing needs is missing, or is not what it must be.
        NotFoundError, InvalidRequestError: the worker's identity, or its memory, cannot be used.
    """
    alarm_after = timedelta(hours=settings.filing.filing_alarm_hours)
    where = endpoint(settings)
    if where is None:
        yield Filer(database, None, alarm_after)
        return
    schema = load(settings.filing.cybertip_xsd) if settings.filing.cybertip_xsd is not None else None
    identity = worker_identity(settings)
    pins = RosterFile(settings.roster_path)
    terms = _terms(settings, identity, pins)
    async with open_client(where) as authority:
        desk = Desk(
            database,
            pins,
            identity,
            authority,
            where.environment,
            settings.custody.dual_control,
            schema,
            automatic=terms is not None,
            witness=witness or Witness(settings.worker_memory_path),
        )
        log.event(logger, logging.INFO, "filing_on", environment=where.environment.value)
        if terms is not None:
            log.event(logger, logging.INFO, "files_by_itself", distance=terms.distance)
        yield Filer(database, desk, alarm_after, AutomaticApproval(desk, terms) if terms else None)


def _terms(settings: Settings, identity: Identity, pins: RosterFile) -> Terms | None:
    """On which terms the worker files by itself; None if it does not.

    Raises:
        SettingsError: something is missing for it.
    """
    distance = settings.files_by_itself_within
    if distance is None:
        return None
    if settings.filing.filing_identity is None:
        raise SettingsError(
            "CORDON_AUTOFILE needs CORDON_FILING_IDENTITY: whoever has the worker's key reads what is sealed "
            "to it, so name a file that gates cannot read"
        )
    check_reporter(settings)
    keys = WorkerKeys.of(identity)
    if pins.read().worker != keys:
        raise SettingsError(
            "CORDON_AUTOFILE needs the worker's key to be pinned first; run "
            f"'{keys.pinned_by}', as whoever owns the custodians' file"
        )
    report = settings.report
    return Terms(distance, Reporter.of(settings.filing), report.reporter_role, report.preservation)
