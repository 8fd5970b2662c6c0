"""How what was signed travels and is stored: ``{"signature": base64, "signed": "<a text>"}``.

The signature is Ed25519 (RFC 8032) over a prefix of its own for each kind of document and the text's bytes.
No step on the way has to write the text again, so nothing depends on how somebody writes JSON.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from app.custody.identity import Identity, signing_key_bytes

MAX_BYTES: Final = 1024 * 1024

_FINGERPRINT: Final = re.compile("[0-9a-f]{16}")
_HEX_SHA256: Final = re.compile("[0-9a-f]{64}")


class Signable(Protocol):
    """What is signed: it has one canonical text."""

    def to_json(self) -> str:
        """Canonical: keys sorted, no blanks, ASCII."""


SignableT = TypeVar("SignableT", bound=Signable)


def seal_text(prefix: bytes, text: str, identity: Identity) -> bytes:
    """Sign an ASCII text.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    return written(identity.sign(prefix + text.encode("ascii")), text)


def open_text(untrusted: bytes) -> tuple[bytes, str]:
    """The signature and the text of a document, neither checked yet.

    Raises:
        ValueError: it is no such document.
    """
    try:
        if len(untrusted) > MAX_BYTES:
            raise TypeError  # noqa: TRY301 - one answer for all that is no such document
        document = json.loads(untrusted.decode("ascii"), object_pairs_hook=unique)
        if set(document) != {"signature", "signed"} or not isinstance(document["signed"], str):
            raise TypeError  # noqa: TRY301
        return base64.b64decode(document["signature"], validate=True), document["signed"]
    except (TypeError, AttributeError, RecursionError, binascii.Error):
        message = "no signed document"
        raise ValueError(message) from None


def read(text: str, of: Callable[[Mapping[str, Any]], SignableT]) -> SignableT:
    """What a text says, held to its one form: another writing of the same would be another document.

    That holds its members and its version too.

    Args:
        text: what was signed, not checked yet.
        of: makes the value of the members; it may raise what a missing or mistyped one raises.

    Raises:
        ValueError: it is not the canonical text of such a value.
    """
    try:
        value = of(json.loads(text, object_pairs_hook=unique))
        whole = value.to_json() == text
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        message = "not the canonical text"
        raise ValueError(message) from None
    return value


def is_signed_by(signing_key: str, prefix: bytes, signature: bytes, text: str) -> bool:
    """Whether the signature over prefix and text is good.

    Args:
        signing_key: ``ed25519:...``.
        prefix: of the kind of document.
        signature: 64 bytes, or it is not good.
        text: what was signed.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(signing_key_bytes(signing_key))
        key.verify(signature, prefix + text.encode())
    except InvalidSignature:
        return False
    return True


def written(signature: bytes, text: str) -> bytes:
    """The document in the one form that is stored."""
    return canonical({"signature": base64.b64encode(signature).decode(), "signed": text}).encode()


def canonical(value: Mapping[str, Any]) -> str:
    """JSON in one form: keys sorted, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for ``json.loads`` that refuses an object with the same key twice, as a ``ValueError``."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError
    return document


def fingerprint_of(untrusted: str) -> str:
    """A fingerprint.

    Raises:
        ValueError: it is none.
        TypeError: it is no text.
    """
    return _matching(_FINGERPRINT, untrusted)


def sha256_of(untrusted: str) -> str:
    """A SHA-256 as 64 hex digits.

    Raises:
        ValueError: it is none.
        TypeError: it is no text.
    """
    return _matching(_HEX_SHA256, untrusted)


def _matching(pattern: re.Pattern[str], untrusted: str) -> str:
    if not pattern.fullmatch(untrusted):
        message = "of another form"
        raise ValueError(message)
    return untrusted


def time_text(moment: datetime) -> str:
    """A time in the one form that is signed: UTC, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def time_of(untrusted: str) -> datetime:
    """A time, in UTC.

    Raises:
        ValueError: it is none with an offset, or none that can be told in UTC.
        TypeError: it is no text.
    """
    moment = datetime.fromisoformat(untrusted)
    if moment.tzinfo is None:
        message = "no offset"
        raise ValueError(message)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        message = "before the first year, or after the last"
        raise ValueError(message) from None
