"""Checkpoints of the audit log: its head at some moment, signed by the worker or a custodian.

A copy that is kept elsewhere shows later what was cut off from the log, or written anew, before that moment.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from app.custody import envelope
from app.custody.identity import Identity, fingerprint
from app.custody.roster import Roster
from app.errors import InvalidRequestError

VERSION: Final = 1
PREFIX: Final = b"cordon checkpoint v1\n"
"""Goes before what is signed, so that no signature made for anything else is one of a checkpoint."""

_HEX_SHA256: Final = re.compile("[0-9a-f]{64}")
_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Checkpoint:
    """What the audit log's head was.

    Attributes:
        seq: number of the newest entry.
        digest: its digest, 32 bytes, which covers all before it.
        signer: fingerprint of who signed.
        document: as it is stored and travels; one line of ASCII.
    """

    seq: int
    digest: bytes = field(repr=False)
    at: datetime
    signer: str
    document: bytes = field(repr=False)


def sign(seq: int, digest: bytes, identity: Identity) -> Checkpoint:
    """A checkpoint of a head.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    at, signer = datetime.now(UTC), fingerprint(identity.public_key)
    document = envelope.seal_text(PREFIX, _text(seq, digest, at, signer), identity)
    return Checkpoint(seq, digest, at, signer, document)


def verify(untrusted: bytes, roster: Roster) -> Checkpoint:
    """Take a document for a checkpoint only if the worker or a custodian, pinned now or then, signed it.

    Raises:
        InvalidRequestError: it is none, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, text = envelope.open_text(untrusted.strip())
        said = json.loads(text, object_pairs_hook=envelope.unique)
        seq, at, signer = said["seq"], envelope.time_of(said["at"]), said["signer"]
        digest = bytes.fromhex(said["digest"]) if _HEX_SHA256.fullmatch(said["digest"]) else b""
        # Before anybody is told who it says that its signer is: no terminal takes such words for commands.
        known = type(seq) is int and seq > 0 and _FINGERPRINT.fullmatch(signer) is not None
        whole = known and _text(seq, digest, at, signer) == text
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise InvalidRequestError("This is no checkpoint of an audit log that this Cordon can read.")
    key = _signing_key(signer, roster)
    if key is None:
        raise InvalidRequestError(f"The signer of this checkpoint, {signer}, is not pinned and never was.")
    if roster.counts(signer, seq) is False:
        raise InvalidRequestError(f"The signer of this checkpoint, {signer}, was a custodian no more then.")
    if not envelope.is_signed_by(key, PREFIX, signature, text):
        raise InvalidRequestError("The signature of this checkpoint is not good.")
    return Checkpoint(seq, digest, at, signer, envelope.written(signature, text))


def _signing_key(signer: str, roster: Roster) -> str | None:
    if roster.worker is not None and roster.worker.fingerprint == signer:
        return roster.worker.signing_key
    custodian = roster.signer(signer)
    return custodian.signing_key if custodian is not None else None


def _text(seq: int, digest: bytes, at: datetime, signer: str) -> str:
    return envelope.canonical(
        {
            "version": VERSION,
            "seq": seq,
            "digest": digest.hex(),
            "at": envelope.time_text(at),
            "signer": signer,
        }
    )
