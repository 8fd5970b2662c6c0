"""That the time of a report was over, signed by whoever removed it: the worker, or a custodian.

The report's row goes, and with it all that proved how it ended. What the entry of its removal says anybody
can write who can write to the database; this nobody else can. It names ids, digests and times, and nothing
that the report held sealed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.custody import envelope
from app.custody.identity import Identity, fingerprint
from app.custody.roster import Pinned, Roster, signer_of
from app.errors import SignatureRequiredError

VERSION: Final = 1
PREFIX: Final = b"cordon removal v1\n"
"""Goes before what is signed, so that no signature made for anything else is one of a removal."""


@dataclass(frozen=True)
class Removal:
    """A report whose time was over.

    Attributes:
        state: that it had ended in.
        sealed_sha256: of its sealed files as they stood, hex.
        due_at: when its time was over.
        why: by which rule.
        at: when it was removed.
        signer: fingerprint of who removes it and signs.
    """

    report_id: str
    state: str
    sealed_sha256: tuple[str, ...]
    due_at: datetime
    why: str
    at: datetime
    signer: str

    def to_json(self) -> str:
        """Canonical: keys sorted, no blanks, ASCII."""
        return envelope.canonical(
            {
                "version": VERSION,
                "report_id": self.report_id,
                "state": self.state,
                "sealed_sha256": list(self.sealed_sha256),
                "due_at": envelope.time_text(self.due_at),
                "why": self.why,
                "at": envelope.time_text(self.at),
                "signer": self.signer,
            }
        )


def can_sign(identity: Identity, roster: Roster) -> bool:
    """Whether what this identity signs is found good: it is that of the pinned worker, or custodian."""
    if identity.signing_public_key is None:
        return False
    named_by = fingerprint(identity.public_key)
    people = roster.workers_named(named_by, now=True) + roster.custodians_named(named_by, now=True)
    return identity.signing_public_key in {each.signing_key for each in people}


def sign(removal: Removal, identity: Identity) -> str:
    """The signed document, one line of ASCII.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    return envelope.seal_text(PREFIX, removal.to_json(), identity).decode("ascii")


def verify(untrusted: str, roster: Roster) -> tuple[Removal, Pinned]:
    """Take a document for a removal only if who is or was pinned signed it; and who did.

    Raises:
        SignatureRequiredError: it is none, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, signed = envelope.open_text(untrusted.encode("ascii"))
        removal = envelope.read(signed, _removal)
    except ValueError:
        raise SignatureRequiredError("This is no removal that this Cordon can read.") from None
    people = roster.workers_named(removal.signer) + roster.custodians_named(removal.signer)
    signer = signer_of(people, PREFIX, signature, signed)
    if signer is None:
        raise SignatureRequiredError("Nobody who is or was pinned signed this removal.")
    return removal, signer


def _removal(said: Mapping[str, Any]) -> Removal:
    return Removal(
        report_id=said["report_id"],
        state=said["state"],
        sealed_sha256=tuple(map(envelope.sha256_of, said["sealed_sha256"])),
        due_at=envelope.time_of(said["due_at"]),
        why=said["why"],
        at=envelope.time_of(said["at"]),
        signer=envelope.fingerprint_of(said["signer"]),
    )
