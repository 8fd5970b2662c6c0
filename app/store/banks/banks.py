"""Banks and what they do. Every change takes the next generation in its own transaction.

A change of the banks first takes the row of ``index_state``, so changes commit in the order of their
generations, and whoever reads generation G finds all that is of G or before.

Values of entries appear in no error, log or audit entry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import Bank, is_plain_text
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.media import PDQ_MINIMUM_QUALITY, BankAction, BankKind, SignalType, Tier
from app.store.banks import bank_changes
from app.store.record import audit
from app.store.rows import UnreadableRowError, readable
from app.store.schema import banks, changes

LARGEST_THRESHOLDS: Final = {SignalType.PDQ: 64, SignalType.PHASH: 16}
"""In bits. Unrelated pictures are 128 and 32 bits apart on average; beyond these, anything may match."""

LARGEST_SUPPRESSION_THRESHOLDS: Final = {SignalType.PDQ: 31, SignalType.PHASH: 6}
"""In bits: as far as other banks match by default, and no farther."""

LARGEST_MINIMUM_QUALITY: Final = 100

MAX_REASON_CHARACTERS: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Policy:
    """What a bank does; the fields are those of ``Bank``.

    Attributes:
        action: ``observe`` is refused for csam; ``suppress`` makes a suppression bank, of kind ``other``.
        thresholds: in bits, where they differ from the defaults.
        tier_actions: where they differ from the action; a farther match never does more than a closer one.
        minimum_quality: PDQ matches of pictures below it do not count; 50 to 100.
        no_report_reason: needed for a csam bank that blocks some matches or all, and refused otherwise.
    """

    action: BankAction
    thresholds: Mapping[SignalType, int] = field(default_factory=dict)
    tier_actions: Mapping[Tier, BankAction] = field(default_factory=dict)
    minimum_quality: int = PDQ_MINIMUM_QUALITY
    no_report_reason: str | None = None

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


async def create(connection: AsyncConnection, name: str, kind: BankKind, policy: Policy, *, by: str) -> Bank:
    """Make an empty bank. It counts once its first import is in force.

    Args:
        connection: within ``Database.begin``.
        name: 1 to 64 letters, digits, dots, dashes and underscores.
        kind: fixed for good.
        policy: what it does.
        by: who does it: the id of a key, or ``cli``; for the audit.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "Name a bank with 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first."
        )
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
        action: as in ``Policy``.
        by: as in ``create``.
        thresholds: all of them: a type that is left out goes back to its default.
        tier_actions: all of them: a tier that is left out does what the action says.
        minimum_quality: as in ``Policy``.
        no_report_reason: as in ``Policy``.

    Raises:
        NotFoundError: there is no such bank.
        InvalidRequestError: the policy is wrong, or would make a suppression bank of another, or the reverse.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await get(connection, name)
    new_action = action or bank.action
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
    return await _give(connection, bank, policy, generation, by)


async def put(
    connection: AsyncConnection, name: str, kind: BankKind, policy: Policy, *, by: str
) -> tuple[Bank, bool]:
    """Make a bank, or give one that is there this policy and no part of its earlier one; whether it was made.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name and another kind.
    """
    policy.check(kind)
    await bank_changes.take_turn(connection)
    try:
        bank = await get(connection, name)
    except NotFoundError:
        return await create(connection, name, kind, policy, by=by), True
    if bank.kind is not kind:
        raise ConflictError("The kind of a bank is fixed; make another bank.")
    generation = await bank_changes.next_generation(connection)
    return await _give(connection, bank, policy, generation, by), False


async def _give(connection: AsyncConnection, bank: Bank, policy: Policy, generation: int, by: str) -> Bank:
    """Give a bank another policy, in the generation that was taken for it."""
    if (policy.action is BankAction.SUPPRESS) is not bank.suppresses:
        raise InvalidRequestError("'action': a suppression bank stays one, and no other becomes one.")
    policy.check(bank.kind)
    await connection.execute(update(banks).where(banks.c.id == bank.id).values(policy.columns()))
    await bank_changes.record(connection, generation, bank.id)
    await audit.append(
        connection,
        "bank.configured",
        bank.name,
        {"bank_id": bank.id, "generation": generation, "by": by, **policy.told()},
    )
    return await get(connection, bank.name)


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
