"""Banks and their entries. Every change takes the next generation in its own transaction.

A change of the banks first takes the row of ``index_state``, so changes commit in the order of their
generations, and whoever reads generation G finds all that is of G or before.

A large import would hold up all other writers of SQLite, reports among them. It is staged instead: its
entries come in many short transactions, under a change that has no generation yet and that nobody reads;
the last transaction gives it one, and all of it is there at once. What a crash leaves of an import is never
read, and is swept away later.

Values of entries appear in no error, log or audit entry.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import UNSUPPRESSING, Bank, NewSignal, Origin, is_plain_text
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.media import PDQ_MINIMUM_QUALITY, BankAction, BankKind, SignalType, Tier
from app.store import audit, bank_changes, bank_entries, bank_opinions, entry_days, entry_marks
from app.store.database import Database, spans
from app.store.rows import UnreadableRowError, readable
from app.store.schema import banks, changes, entries, index_state
from app.store.schema import entry_marks as table_of_marks

SMALL_CHANGE: Final = 10_000
"""A change of up to so many entries is in force within seconds; what is larger needs a new snapshot."""

STAGED_AT_ONCE: Final = 20_000
"""Entries of a large import in one transaction: about half a second of SQLite's only write lock."""

ABANDONED: Final = timedelta(days=1)
"""Since the beginning of an import: 10 million entries take minutes."""

LARGEST_THRESHOLDS: Final = {SignalType.PDQ: 64, SignalType.PHASH: 16}
"""In bits. Unrelated pictures are 128 and 32 bits apart on average; beyond these, anything may match."""

LARGEST_SUPPRESSION_THRESHOLDS: Final = {SignalType.PDQ: 31, SignalType.PHASH: 6}
"""In bits: as far as other banks match by default, and no farther."""

LARGEST_MINIMUM_QUALITY: Final = 100

NOT_SUPPRESSING: Final = (
    "A suppression bank takes sha256, pdq and phash: of md5 and sha1, two files of one value can be made."
)

MAX_REASON_CHARACTERS: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEPT_REMOVED: Final = timedelta(days=1)
"""How long a removed entry stays in the database, for processes that have not heard of its removal."""

_SWEPT_AT_ONCE: Final = 20_000


@dataclass(frozen=True)
class Changed:
    """What a change did.

    Attributes:
        generation: the one it took.
        changed: how many entries it added or removed.
        unchanged: how many signals were there already, or were not there to be removed.
        kept: how many entries one source withdrew and another stands by, so that they stay.
    """

    generation: int
    changed: int
    unchanged: int
    kept: int = 0


@dataclass(frozen=True)
class Staged:
    """A large import on its way.

    Attributes:
        change_id: the change that its entries come under.
        cleared: whether an earlier import into the bank was given up for this one.
        origin: where all of it comes from, and on what terms.
    """

    bank: Bank
    change_id: int
    cleared: bool
    origin: Origin | None = None


@dataclass(frozen=True)
class Policy:
    """What a bank does; the fields are those of ``Bank``."""

    action: BankAction
    thresholds: Mapping[SignalType, int]
    tier_actions: Mapping[Tier, BankAction]
    minimum_quality: int
    no_report_reason: str | None

    def check(self, kind: BankKind) -> None:
        """Return only if a bank of a kind may have this policy.

        Raises:
            InvalidRequestError: naming what is wrong.
        """
        if self.action is BankAction.SUPPRESS:
            self._check_suppression(kind)
        self._check_tiers()
        actions = {self.action, *self.tier_actions.values()}
        if kind is BankKind.CSAM and BankAction.OBSERVE in actions:
            raise InvalidRequestError("A csam bank cannot only observe: use 'report' or 'block'.")
        needs_reason = kind is BankKind.CSAM and BankAction.BLOCK in actions
        if needs_reason and not (self.no_report_reason or "").strip():
            raise InvalidRequestError("A csam bank that only blocks needs a 'no_report_reason'.")
        if self.no_report_reason is not None and not needs_reason:
            raise InvalidRequestError("'no_report_reason' is for csam banks that only block.")
        reason = self.no_report_reason or ""
        if len(reason) > MAX_REASON_CHARACTERS or not is_plain_text(reason):
            raise InvalidRequestError(
                f"'no_report_reason': at most {MAX_REASON_CHARACTERS} characters, no control character."
            )
        _check_thresholds(self.thresholds, LARGEST_THRESHOLDS)
        if not PDQ_MINIMUM_QUALITY <= self.minimum_quality <= LARGEST_MINIMUM_QUALITY:
            raise InvalidRequestError(
                f"'minimum_quality': set {PDQ_MINIMUM_QUALITY} to {LARGEST_MINIMUM_QUALITY}."
            )

    def columns(self) -> dict[str, Any]:
        """As the table has it."""
        return {
            "action": self.action.value,
            "thresholds": {of.value: bits for of, bits in self.thresholds.items()},
            "tier_actions": {tier.value: action.value for tier, action in self.tier_actions.items()},
            "minimum_quality": self.minimum_quality,
            "no_report_reason": self.no_report_reason,
        }

    def told(self) -> dict[str, str | int | list[str]]:
        """As the audit tells it."""
        return {
            "action": self.action.value,
            "thresholds": [f"{of.value}={bits}" for of, bits in sorted(self.thresholds.items())],
            "tiers": [f"{tier.value}={action.value}" for tier, action in sorted(self.tier_actions.items())],
            "minimum_quality": self.minimum_quality,
        }

    def _check_suppression(self, kind: BankKind) -> None:
        if kind is not BankKind.OTHER:
            raise InvalidRequestError("A suppression bank lists what is harmless: its kind must be 'other'.")
        if self.tier_actions:
            raise InvalidRequestError("'tiers': a suppression bank has none.")
        _check_thresholds(self.thresholds, LARGEST_SUPPRESSION_THRESHOLDS)

    def _check_tiers(self) -> None:
        if BankAction.SUPPRESS in self.tier_actions.values():
            raise InvalidRequestError("'tiers': use 'report', 'block' or 'observe'.")
        by_closeness = [self.action, *(self.tier_actions.get(tier, self.action) for tier in Tier)]
        if by_closeness != sorted(by_closeness, key=list(BankAction).index):
            raise InvalidRequestError(
                "'tiers': a farther match may not do more than a closer one; name 'near' beside 'strong', "
                "and neither above the action."
            )


async def create(
    connection: AsyncConnection,
    *,
    name: str,
    kind: BankKind,
    action: BankAction,
    by: str,
    thresholds: Mapping[SignalType, int] | None = None,
    tier_actions: Mapping[Tier, BankAction] | None = None,
    minimum_quality: int = PDQ_MINIMUM_QUALITY,
    no_report_reason: str | None = None,
) -> Bank:
    """Make an empty bank. It counts once its first import is in force.

    Args:
        connection: within ``Database.begin``.
        name: 1 to 64 letters, digits, dots, dashes and underscores.
        kind: fixed for good.
        action: ``observe`` is refused for csam; ``suppress`` makes a suppression bank, of kind ``other``.
        by: who does it: the id of a key, or ``cli``; for the audit.
        thresholds: in bits, where they differ from the defaults.
        tier_actions: where they differ from the action; a farther match never does more than a closer one.
        minimum_quality: PDQ matches of pictures below it do not count; 50 to 100.
        no_report_reason: needed for a csam bank that blocks some matches or all, and refused otherwise.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "Name a bank with 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first."
        )
    policy = Policy(action, thresholds or {}, tier_actions or {}, minimum_quality, no_report_reason)
    policy.check(kind)
    generation = await bank_changes.next_generation(connection)
    try:
        bank_id = (
            await connection.execute(
                insert(banks)
                .values(name=name, kind=kind.value, created_at=datetime.now(UTC), **policy.columns())
                .returning(banks.c.id)
            )
        ).scalar_one()
    except IntegrityError:
        raise ConflictError("There is a bank of that name.") from None
    await bank_changes.record(connection, generation, bank_id)
    await audit.append(
        connection,
        "bank.created",
        name,
        {"bank_id": bank_id, "generation": generation, "by": by, "kind": kind.value, **policy.told()},
    )
    return await get(connection, name)


async def configure(
    connection: AsyncConnection,
    name: str,
    *,
    by: str,
    action: BankAction | None = None,
    thresholds: Mapping[SignalType, int] | None = None,
    tier_actions: Mapping[Tier, BankAction] | None = None,
    minimum_quality: int | None = None,
    no_report_reason: str | None = None,
) -> Bank:
    """Change a bank's policy; what is None stays, and a reason goes with the actions it was given for.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        action: as in ``create``.
        by: as in ``create``.
        thresholds: all of them: a type that is left out goes back to its default.
        tier_actions: all of them: a tier that is left out does what the action says.
        minimum_quality: as in ``create``.
        no_report_reason: as in ``create``.

    Raises:
        NotFoundError: there is no such bank.
        InvalidRequestError: the policy is wrong, or would make a suppression bank of another, or the reverse.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await get(connection, name)
    new_action = action or bank.action
    if (new_action is BankAction.SUPPRESS) is not bank.suppresses:
        raise InvalidRequestError("'action': a suppression bank stays one, and no other becomes one.")
    new_tiers = bank.tier_actions if tier_actions is None else tier_actions
    reason = no_report_reason
    if reason is None and (new_action, new_tiers) == (bank.action, bank.tier_actions):
        reason = bank.no_report_reason
    policy = Policy(
        new_action,
        bank.thresholds if thresholds is None else thresholds,
        new_tiers,
        bank.minimum_quality if minimum_quality is None else minimum_quality,
        reason,
    )
    policy.check(bank.kind)
    await connection.execute(update(banks).where(banks.c.id == bank.id).values(policy.columns()))
    await bank_changes.record(connection, generation, bank.id)
    await audit.append(
        connection,
        "bank.configured",
        name,
        {
            "bank_id": bank.id,
            "generation": generation,
            "by": by,
            **policy.told(),
        },
    )
    return await get(connection, name)


async def put(
    connection: AsyncConnection,
    *,
    name: str,
    kind: BankKind,
    action: BankAction,
    by: str,
    thresholds: Mapping[SignalType, int] | None = None,
    tier_actions: Mapping[Tier, BankAction] | None = None,
    minimum_quality: int = PDQ_MINIMUM_QUALITY,
    no_report_reason: str | None = None,
) -> tuple[Bank, bool]:
    """Make a bank, or give one that is there this policy; tells whether it was made.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name and another kind.
    """
    # All of it, so that no part of an earlier policy makes up for what this one lacks.
    Policy(action, thresholds or {}, tier_actions or {}, minimum_quality, no_report_reason).check(kind)
    await bank_changes.take_turn(connection)
    try:
        bank = await get(connection, name)
    except NotFoundError:
        bank = await create(
            connection,
            name=name,
            kind=kind,
            action=action,
            by=by,
            thresholds=thresholds,
            tier_actions=tier_actions,
            minimum_quality=minimum_quality,
            no_report_reason=no_report_reason,
        )
        return bank, True
    if bank.kind is not kind:
        raise ConflictError("The kind of a bank is fixed; make another bank.")
    bank = await configure(
        connection,
        name,
        by=by,
        action=action,
        thresholds=thresholds or {},
        tier_actions=tier_actions or {},
        minimum_quality=minimum_quality,
        no_report_reason=no_report_reason,
    )
    return bank, False


async def delete_bank(connection: AsyncConnection, name: str, *, by: str) -> int:
    """Take a bank away with all its entries, and tell the generation; call ``sweep`` after the commit.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await get(connection, name)
    await connection.execute(delete(banks).where(banks.c.id == bank.id))
    await connection.execute(
        delete(changes).where(changes.c.bank_id == bank.id, changes.c.generation.is_(None))
    )
    await bank_changes.record(connection, generation, bank.id)
    await audit.append(
        connection, "bank.deleted", name, {"bank_id": bank.id, "generation": generation, "by": by}
    )
    return generation


async def get(connection: AsyncConnection, name: str) -> Bank:
    """The bank of that name.

    Raises:
        NotFoundError: there is none.
    """
    with readable():
        row = (await connection.execute(select(banks).where(banks.c.name == name))).one_or_none()
        if row is None:
            raise NotFoundError("There is no such bank.")
        return _bank(row)


async def every(connection: AsyncConnection) -> tuple[Bank, ...]:
    """All banks, by name.

    Raises:
        UnreadableRowError: a row holds what no Cordon wrote.
    """
    with readable():
        return tuple(_bank(row) for row in await connection.execute(select(banks).order_by(banks.c.name)))


async def counts(connection: AsyncConnection) -> Mapping[tuple[int, SignalType], int]:
    """How many entries there are, by id of bank and type. Reads all of them."""
    wanted = (
        select(entries.c.bank_id, entries.c.type, func.count())
        .where(entries.c.removed_generation.is_(None), bank_entries.visible())
        .group_by(entries.c.bank_id, entries.c.type)
    )
    with readable():
        rows = (await connection.execute(wanted)).all()
        return {(bank_id, SignalType(of)): count for bank_id, of, count in rows}


async def disabled(connection: AsyncConnection) -> Mapping[int, int]:
    """How many entries are disabled, by id of bank."""
    rows = await connection.execute(
        select(entries.c.bank_id, func.count().label("disabled"))
        .join(table_of_marks, table_of_marks.c.entry_id == entries.c.id)
        .where(
            table_of_marks.c.disabled_at.is_not(None),
            entries.c.removed_generation.is_(None),
            bank_entries.visible(),
        )
        .group_by(entries.c.bank_id)
    )
    return {row.bank_id: row.disabled for row in rows}


async def add(
    connection: AsyncConnection,
    name: str,
    signals: Sequence[NewSignal],
    *,
    by: str,
    origin: Origin | None = None,
) -> Changed:
    """Add signals to a bank, all or none; those it holds already stay as they are.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        signals: for thousands; millions are to be staged.
        by: as in ``create``.
        origin: where all of them come from, and on what terms.

    Raises:
        NotFoundError: there is no such bank.
        InvalidRequestError: a digest for a suppression bank that cannot cancel.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await get(connection, name)
    _check_suppressing(bank, signals)
    change_id = await bank_changes.record(connection, generation, bank.id, origin)
    await bank_opinions.keep_of_unfinished(connection, bank.id, signals)
    added = await bank_entries.insert_new(connection, bank.id, change_id, signals)
    await bank_opinions.record(connection, bank.id, change_id, signals, origin, all_new=added == len(signals))
    await connection.execute(update(changes).where(changes.c.id == change_id).values(added=added))
    await _imported(connection, bank, generation, imported=bool(signals))
    known = len(signals) - added
    told = {"known": known}
    await _audit_change(connection, "bank.signals_added", bank, generation, changed=added, by=by, told=told)
    return Changed(generation, added, known)


async def remove(
    connection: AsyncConnection,
    name: str,
    signals: Sequence[NewSignal],
    *,
    by: str,
    origin: Origin | None = None,
) -> Changed:
    """Remove signals from a bank, all or none; those it does not hold are no error.

    One that names a source is withdrawn by that source alone, and removed only if no other stands by it.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        signals: for thousands.
        by: as in ``create``.
        origin: who withdraws all of them, where a signal does not say it.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await get(connection, name)
    change_id = await bank_changes.record(connection, generation, bank.id)
    withdrawing = [each for each in signals if bank_opinions.source_of(each, origin) is not None]
    removing = [each for each in signals if bank_opinions.source_of(each, origin) is None]
    removed = await bank_entries.mark_removed(connection, bank.id, generation, removing)
    withdrawn = deserted = 0
    if withdrawing:
        withdrawn = await bank_opinions.withdraw(connection, bank.id, change_id, withdrawing, origin)
        deserted = await bank_opinions.remove_deserted(connection, change_id, generation)
    gone = removed + deserted
    await connection.execute(update(changes).where(changes.c.id == change_id).values(removed=gone))
    await _audit_change(
        connection,
        "bank.signals_withdrawn" if withdrawing else "bank.signals_removed",
        bank,
        generation,
        changed=gone,
        by=by,
        told={"kept": withdrawn - deserted} if withdrawing else {},
    )
    return Changed(generation, gone, len(signals) - removed - withdrawn, kept=withdrawn - deserted)


async def begin_import(database: Database, name: str, *, origin: Origin | None = None) -> Staged:
    """Begin a large import. One that was begun before and not finished is given up.

    Args:
        database: where the bank is.
        name: of the bank.
        origin: as in ``add``.

    Raises:
        NotFoundError: there is no such bank.
    """
    async with database.begin() as connection:
        bank = await get(connection, name)
        given_up = await connection.execute(
            delete(changes).where(changes.c.bank_id == bank.id, changes.c.generation.is_(None))
        )
        change_id = await bank_changes.record(connection, None, bank.id, origin)
    return Staged(bank, change_id, cleared=given_up.rowcount > 0, origin=origin)


async def stage(database: Database, staged: Staged, signals: Sequence[NewSignal]) -> int:
    """Bring in a part of a large import, in a transaction of its own; tells how many were new.

    Raises:
        ConflictError: the import was given up for another one, or its bank was deleted.
        InvalidRequestError: a digest for a suppression bank that cannot cancel.
    """
    _check_suppressing(staged.bank, signals)
    mine = changes.c.id == staged.change_id, changes.c.generation.is_(None)
    async with database.begin() as connection:
        # First, so that whoever takes over its entries meanwhile waits, and finds all of them.
        if (await connection.execute(select(changes.c.id).where(*mine).with_for_update())).first() is None:
            raise ConflictError("Another import into this bank has begun, or the bank is gone.")
        added = await bank_entries.insert_new(connection, staged.bank.id, staged.change_id, signals)
        await bank_opinions.record(
            connection,
            staged.bank.id,
            staged.change_id,
            signals,
            staged.origin,
            all_new=added == len(signals),
        )
        await connection.execute(update(changes).where(*mine).values(added=changes.c.added + added))
    await database.give_way()
    return added


async def finish_import(database: Database, staged: Staged, *, given: int, by: str) -> Changed:
    """Make all that was staged visible at once.

    Args:
        database: where the bank is.
        staged: the import.
        given: how many signals were staged, those that the bank held already among them.
        by: as in ``create``.

    Raises:
        ConflictError: as ``stage``.
    """
    async with database.begin() as connection:
        generation = await bank_changes.next_generation(connection)
        finished = (
            await connection.execute(
                update(changes)
                .where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
                .values(generation=generation, at=datetime.now(UTC))
                .returning(changes.c.added)
            )
        ).one_or_none()
        if finished is None:
            raise ConflictError("Another import into this bank has begun, or the bank is gone.")
        bank = await get(connection, staged.bank.name)
        await _imported(connection, bank, generation, imported=True)
        known = given - finished.added
        told = {"known": known}
        await _audit_change(
            connection, "bank.signals_added", bank, generation, changed=finished.added, by=by, told=told
        )
    return Changed(generation, finished.added, known)


async def give_up_import(database: Database, staged: Staged) -> None:
    """Drop a large import that cannot be finished, and sweep away what came of it."""
    async with database.begin() as connection:
        await connection.execute(
            delete(changes).where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
        )
    await sweep(database)


async def sweep(database: Database) -> int:
    """Delete what deleted banks and given-up imports left, in short transactions; tells how many entries.

    An import that has not finished within ``ABANDONED`` is given up: whatever ran it was killed.
    """
    async with database.begin() as connection:
        begun = datetime.now(UTC) - ABANDONED
        await connection.execute(delete(changes).where(changes.c.generation.is_(None), changes.c.at < begun))
    leftover = or_(
        entries.c.bank_id.not_in(select(banks.c.id)), entries.c.change_id.not_in(select(changes.c.id))
    )
    swept = 0
    async for first, last in spans(database, entries.c.id, _SWEPT_AT_ONCE):
        # By ranges of ids, which no planner can turn into a scan of all that there is.
        some = entries.c.id.between(first, last) & leftover
        async with database.connect() as connection:
            if not (await connection.execute(select(exists().where(some)))).scalar_one():
                continue
        async with database.begin() as connection:
            # Asked again: an entry may have been taken over by a new change in between.
            swept += (await connection.execute(delete(entries).where(some))).rowcount
        await database.give_way()
    await bank_opinions.sweep(database)
    await entry_marks.sweep(database)
    await entry_days.sweep(database)
    return swept


async def prune_old(database: Database, built: int) -> int:
    """Delete for good what was removed over a day ago; tells how many entries.

    Args:
        database: where the banks are.
        built: generation of the newest snapshot; what it still needs to be told of removals is kept.
    """
    pruned_already = select(index_state.c.pruned_generation).scalar_subquery()
    of_old = select(func.max(changes.c.generation)).where(
        changes.c.removed > 0,
        changes.c.at < datetime.now(UTC) - KEPT_REMOVED,
        changes.c.generation <= built,
        changes.c.generation > pruned_already,
    )
    async with database.connect() as connection:
        generation: int | None = await connection.scalar(of_old)
    return 0 if generation is None else await prune(database, generation)


async def prune(database: Database, generation: int) -> int:
    """Delete for good the entries that were removed up to a generation; tells how many.

    A process whose snapshot is older builds a new one.
    """
    removed = and_(entries.c.removed_generation <= generation, entries.c.removed_generation.is_not(None))
    async with database.begin() as connection:
        await connection.execute(
            update(index_state)
            .where(index_state.c.pruned_generation < generation)
            .values(pruned_generation=generation)
        )
    pruned = 0
    while True:
        async with database.begin() as connection:
            some = select(entries.c.id).where(removed).limit(_SWEPT_AT_ONCE)
            gone = await connection.execute(delete(entries).where(entries.c.id.in_(some)))
        pruned += gone.rowcount
        await database.give_way()
        if gone.rowcount < _SWEPT_AT_ONCE:
            return pruned


def _check_suppressing(bank: Bank, signals: Sequence[NewSignal]) -> None:
    if bank.suppresses and any(signal.type in UNSUPPRESSING for signal in signals):
        raise InvalidRequestError(NOT_SUPPRESSING)


def _check_thresholds(thresholds: Mapping[SignalType, int], largest: Mapping[SignalType, int]) -> None:
    for of, bits in thresholds.items():
        if not 0 <= bits <= largest.get(of, -1):
            known = ", ".join(f"{known.value} 0 to {most}" for known, most in largest.items())
            raise InvalidRequestError(f"'thresholds': set {known}.")


def _bank(row: Row[*tuple[Any, ...]]) -> Bank:
    numbers = [row.id, row.minimum_quality, *row.thresholds.values()]
    numbers += [each for each in (row.max_age_seconds, row.first_generation) if each is not None]
    if not (isinstance(row.name, str) and all(isinstance(each, int) for each in numbers)):
        raise UnreadableRowError
    return Bank(
        id=row.id,
        name=row.name,
        kind=BankKind(row.kind),
        action=BankAction(row.action),
        thresholds={SignalType(of): bits for of, bits in row.thresholds.items()},
        no_report_reason=row.no_report_reason,
        max_age_seconds=row.max_age_seconds,
        created_at=row.created_at,
        first_generation=row.first_generation,
        changed_at=row.changed_at,
        tier_actions={Tier(tier): BankAction(action) for tier, action in row.tier_actions.items()},
        minimum_quality=row.minimum_quality,
    )


async def _imported(connection: AsyncConnection, bank: Bank, generation: int, *, imported: bool) -> None:
    """Note that a bank was imported into; an empty import does not make it count."""
    if imported:
        await connection.execute(
            update(banks)
            .where(banks.c.id == bank.id)
            .values(changed_at=datetime.now(UTC), first_generation=bank.first_generation or generation)
        )


async def _audit_change(
    connection: AsyncConnection,
    event: str,
    bank: Bank,
    generation: int,
    *,
    changed: int,
    by: str,
    told: Mapping[str, int],
) -> None:
    await audit.append(
        connection,
        event,
        bank.name,
        {"bank_id": bank.id, "generation": generation, "entries": changed, "by": by, **told},
    )
