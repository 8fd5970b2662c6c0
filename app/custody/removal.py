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
from app.custody.roster import Roster
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
    return roster.signing_key(fingerprint(identity.public_key), now=True) == identity.signing_public_key


def sign(removal: Removal, identity: Identity) -> str:
    """The signed document, one line of ASCII.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    return envelope.seal_text(PREFIX, removal.to_json(), identity).decode("ascii")


def verify(untrusted: str, roster: Roster) -> Removal:
    """Take a document for a removal only if the worker or a custodian, pinned now or then, signed it.

    Raises:
        SignatureRequiredError: it is none, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, signed = envelope.open_text(untrusted.encode("ascii"))
        removal = envelope.read(signed, _removal)
    except ValueError:
        raise SignatureRequiredError("This is no removal that this Cordon can read.") from None
    key = roster.signing_key(removal.signer)
    if key is None or not envelope.is_signed_by(key, PREFIX, signature, signed):
        raise SignatureRequiredError("Nobody who is or was pinned signed this removal.")
    return removal


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
