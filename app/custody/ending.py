"""What became of a report at the authority, signed by the worker that was told: it was opened, or it ended.

What the worker writes to the audit log anybody can write who can write to the database. What it signed,
nobody else can say: time removes no report as filed, tried out or withdrawn without it, and none is finished
or withdrawn under an id without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from app.custody import envelope
from app.custody.identity import Identity
from app.custody.roster import Pinned, Roster, signer_of
from app.errors import SignatureRequiredError

VERSION: Final = 1
PREFIX: Final = b"cordon ending v1\n"
"""Goes before what is signed, so that no signature made for anything else is one of an ending."""


@dataclass(frozen=True)
class Ending:
    """What came of a report.

    Attributes:
        state: that it came to: ``submitted`` if it was opened, else that it ended in, ``filed``, ``dry_run``
            or ``retracted``.
        environment: where.
        authority_report_id: under which id.
        at: when the worker was told.
        worker: fingerprint of who signs.
    """

    report_id: str
    state: str
    environment: str
    authority_report_id: str
    at: datetime
    worker: str

    def to_json(self) -> str:
        """Canonical: keys sorted, no blanks, ASCII."""
        return envelope.canonical(
            {
                "version": VERSION,
                "report_id": self.report_id,
                "state": self.state,
                "environment": self.environment,
                "authority_report_id": self.authority_report_id,
                "at": envelope.time_text(self.at),
                "worker": self.worker,
            }
        )


def sign(ending: Ending, identity: Identity) -> str:
    """The signed document, one line of ASCII.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    return envelope.seal_text(PREFIX, ending.to_json(), identity).decode("ascii")


def verify(untrusted: str, roster: Roster) -> tuple[Ending, Pinned]:
    """Take a document for an ending only if the worker, pinned now or then, signed it; and which did.

    Raises:
        SignatureRequiredError: it is none, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, signed = envelope.open_text(untrusted.encode("ascii"))
        ending = envelope.read(signed, _ending)
    except ValueError:
        raise SignatureRequiredError("This is no ending that this Cordon can read.") from None
    signer = signer_of(roster.workers_named(ending.worker), PREFIX, signature, signed)
    if signer is None:
        raise SignatureRequiredError("No worker that is or was pinned signed this ending.")
    return ending, signer


def _ending(said: Mapping[str, Any]) -> Ending:
    return Ending(
        report_id=said["report_id"],
        state=said["state"],
        environment=said["environment"],
        authority_report_id=said["authority_report_id"],
        at=envelope.time_of(said["at"]),
        worker=envelope.fingerprint_of(said["worker"]),
    )
