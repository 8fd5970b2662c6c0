"""What a custodian decided, signed where the custodian's key is: the only thing that moves a report on.

A decision is canonical JSON; what is signed with Ed25519 (RFC 8032) is a prefix of its own and those very
bytes (see ``app.custody.envelope``). Nothing in it tells the context of a match: words are sealed to the
custodians, the XML to the filing worker and the custodians.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from app.custody import envelope
from app.custody.identity import Identity
from app.custody.roster import Pinned, Roster, signer_of
from app.errors import SignatureRequiredError

VERSION: Final = 1
PREFIX: Final = b"cordon decision v1\n"
"""Goes before what is signed, so that no signature made for anything else is one of a decision."""

_LAST_ENTRY: Final = 2**63
_ULID: Final = re.compile("[0-9A-HJKMNP-TV-Z]{26}")


class Action(StrEnum):
    """What a custodian can decide, and the one thing that the worker can."""

    APPROVE = "approve"
    APPROVE_AUTOMATICALLY = "approve_automatically"
    """By the worker, and by nobody else: no person looked at it."""
    REJECT = "reject"
    ANNOTATE = "annotate"
    FILED = "filed"
    """It was filed by hand."""
    AFRESH = "afresh"
    """It is to be opened anew at the authority, though it may be filed under an earlier id."""
    DESTROY = "destroy"
    RESEAL = "reseal"
    HOLD = "hold"
    """It is kept until a custodian signs that it need not be."""
    UNHOLD = "unhold"


HOLDS: Final = frozenset({Action.HOLD, Action.UNHOLD})
APPROVALS: Final = frozenset({Action.APPROVE, Action.APPROVE_AUTOMATICALLY})


@dataclass(frozen=True)
class Decision:
    """A decision on one report.

    Attributes:
        sealed_sha256: of every sealed file of the report as its custodian saw it, hex: its own, then those
            of its later sightings, oldest first.
        custodian: fingerprint of who signs; the worker's with ``approve_automatically``.
        xml_sha256: of the XML that is to be filed, hex; with an approval.
        xml: that XML, an age file sealed to the filing worker and the custodians; with an approval.
        words: JSON of what the custodian said, an age file sealed to the custodians.
        resealed_sha256: of the files that take the place of the sealed ones, hex; with ``reseal``.
        disabled_entries: ids of the bank entries that match no more; with ``reject``.
    """

    action: Action
    report_id: str
    sealed_sha256: tuple[str, ...]
    decided_at: datetime
    custodian: str
    xml_sha256: str | None = None
    xml: bytes | None = field(default=None, repr=False)
    words: bytes | None = field(default=None, repr=False)
    resealed_sha256: tuple[str, ...] = ()
    disabled_entries: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Canonical: keys sorted, no blanks, ASCII."""
        return envelope.canonical(
            {
                "version": VERSION,
                "action": self.action.value,
                "report_id": self.report_id,
                "sealed_sha256": list(self.sealed_sha256),
                "decided_at": envelope.time_text(self.decided_at),
                "custodian": self.custodian,
                "xml_sha256": self.xml_sha256,
                "xml": _base64(self.xml),
                "words": _base64(self.words),
                "resealed_sha256": list(self.resealed_sha256),
                "disabled_entries": list(self.disabled_entries),
            }
        )


@dataclass(frozen=True)
class Signed:
    """A decision whose signature was found good.

    Attributes:
        document: the signed document, as it is stored and travels.
        signer: whose signature it is.
    """

    decision: Decision
    document: bytes = field(repr=False)
    signer: Pinned

    @property
    def sha256(self) -> str:
        """Of the document, 64 hex digits: what the audit log calls it by."""
        return hashlib.sha256(self.document).hexdigest()


def sign(decision: Decision, identity: Identity) -> bytes:
    """The signed document.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    return envelope.seal_text(PREFIX, decision.to_json(), identity)


def verify(untrusted: bytes, roster: Roster, *, of_then_too: bool = False) -> Signed:
    """Take a document for a decision only if a pinned custodian signed these very bytes.

    What it says of its report, and whether that still stands as it was seen, is for the store to check.

    Args:
        untrusted: the document.
        roster: the pinned.
        of_then_too: also take what somebody signed who is a custodian no more, to read what was decided.

    Raises:
        SignatureRequiredError: it is no signed decision, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, signed = envelope.open_text(untrusted)
    except ValueError:
        raise SignatureRequiredError(
            "Send a custodian's signed decision, as 'cordon report' writes it with --out FILE: approve, "
            "reject, annotate, hold, unhold, filed, destroy or retry --afresh."
        ) from None
    try:
        decision = envelope.read(signed, _decision)
    except ValueError:
        raise SignatureRequiredError("What was signed is no decision that this Cordon can read.") from None
    named = (
        roster.workers_named if decision.action is Action.APPROVE_AUTOMATICALLY else roster.custodians_named
    )
    people = named(decision.custodian, now=not of_then_too)
    if not people:
        raise SignatureRequiredError("The signer of this decision is no pinned custodian.")
    if all(each.signing_key is None for each in people):
        raise SignatureRequiredError(f"No signing key is pinned for custodian '{people[0].name}'.")
    signer = signer_of(people, PREFIX, signature, signed)
    if signer is None:
        raise SignatureRequiredError("The signature of this decision is not good.")
    return Signed(decision, envelope.written(signature, signed), signer)


def standing(signed: Sequence[Signed]) -> list[Signed]:
    """The approvals of one and the same XML that no later decision took back."""
    found: list[Signed] = []
    for each in signed:
        decision = each.decision
        if decision.action is Action.REJECT:
            found = []
        elif decision.action in APPROVALS:
            same = found and found[-1].decision.xml_sha256 == decision.xml_sha256
            found = [*found, each] if same else [each]
    return found


def waiting(signed: Sequence[Signed], action: Action) -> list[Signed]:
    """The decisions of a kind that a second one of it, by another custodian, would put in force.

    An approval is overtaken by a rejection, and a rejection by an approval; an order to destroy, and that it
    was filed by hand, by nothing.
    """
    if action is Action.APPROVE:
        return standing(signed)
    found: list[Signed] = []
    for each in signed:
        if each.decision.action is action:
            found.append(each)
        elif action is Action.REJECT and each.decision.action in APPROVALS:
            found = []
    return found


def is_held(signed: Sequence[Signed]) -> bool:
    """Whether a custodian signed that a report is on hold, and none signed since that it is not."""
    newest = next((each for each in reversed(signed) if each.decision.action in HOLDS), None)
    return newest is not None and newest.decision.action is Action.HOLD


def _decision(said: Mapping[str, Any]) -> Decision:
    """What was signed, of which an action has all that it needs and nothing that it has no use for.

    Raises:
        ValueError: it is no decision; so do ``LookupError``, ``TypeError`` and ``AttributeError`` say.
    """
    decision = Decision(
        action=Action(said["action"]),
        report_id=_ulid(said["report_id"]),
        sealed_sha256=_digests(said["sealed_sha256"]),
        decided_at=envelope.time_of(said["decided_at"]),
        custodian=envelope.fingerprint_of(said["custodian"]),
        xml_sha256=None if said["xml_sha256"] is None else envelope.sha256_of(said["xml_sha256"]),
        xml=_bytes(said["xml"]),
        words=_bytes(said["words"]),
        resealed_sha256=_digests(said["resealed_sha256"]),
        disabled_entries=tuple(said["disabled_entries"]),
    )
    approves = decision.action in APPROVALS
    reseals = len(decision.sealed_sha256) if decision.action is Action.RESEAL else 0
    whole = (
        bool(decision.sealed_sha256)
        and approves == (decision.xml_sha256 is not None) == (decision.xml is not None)
        and len(decision.resealed_sha256) == reseals
        and all(type(entry) is int and 0 < entry < _LAST_ENTRY for entry in decision.disabled_entries)
        and (decision.action is Action.REJECT or not decision.disabled_entries)
    )
    if not whole:
        message = "not what its action needs"
        raise ValueError(message)
    return decision


def _ulid(untrusted: str) -> str:
    if not _ULID.fullmatch(untrusted):
        message = "no ULID"
        raise ValueError(message)
    return untrusted


def _digests(untrusted: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(envelope.sha256_of, untrusted))


def _bytes(untrusted: str | None) -> bytes | None:
    return None if untrusted is None else base64.b64decode(untrusted, validate=True)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
