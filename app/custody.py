"""What custodians hold: an age key pair to open reports with, and an Ed25519 key pair to sign with.

Both private halves live in one file of mode 0600 that ``age -i`` accepts too: age skips comment lines, and
the signing key stands in one. No private key ever goes to the database or the web process.
"""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import IdentityError, RecipientError, x25519

from app.errors import ConflictError, InvalidRequestError, NotFoundError

ED25519_KEY_BYTES: Final = 32
MAX_IDENTITY_FILE_BYTES: Final = 64 * 1024

_SECRET_PREFIX: Final = "AGE-SECRET-KEY-1"  # noqa: S105 - how such a line begins, not a secret
_SIGNING_PREFIX: Final = "ed25519:"
_SIGNING_COMMENT: Final = "# signing key (private): "
_OTHERS: Final = 0o077


@dataclass(frozen=True)
class Identity:
    """The private half of a custodian.

    Attributes:
        public_key: the ``age1...`` recipient that reports are sealed to.
        secret_keys: the file's ``AGE-SECRET-KEY-1...`` lines.
        signing_seed: the 32 bytes of the Ed25519 private key; None if the file was made by ``age-keygen``.
    """

    public_key: str
    secret_keys: tuple[str, ...] = field(repr=False)
    signing_seed: bytes | None = field(default=None, repr=False)

    @property
    def signing_public_key(self) -> str | None:
        """The verification key as ``custodian add --signing-key`` takes it."""
        if self.signing_seed is None:
            return None
        public = Ed25519PrivateKey.from_private_bytes(self.signing_seed).public_key()
        return _SIGNING_PREFIX + base64.b64encode(public.public_bytes_raw()).decode()


def generate() -> Identity:
    """A new identity from the system's randomness."""
    secret = x25519.Identity.generate()
    seed = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    return Identity(str(secret.to_public()), (str(secret),), seed)


def write_identity(identity: Identity, path: Path) -> None:
    """Write an identity to a new file of mode 0600, durably.

    Raises:
        ConflictError: there is a file already; it may be somebody's only key.
        InvalidRequestError: the file cannot be written there.
    """
    lines = [f"# created: {datetime.now(UTC).isoformat(timespec='seconds')}"]
    lines.append(f"# public key: {identity.public_key}")
    if identity.signing_seed is not None:
        lines.append(f"# signing key (public): {identity.signing_public_key}")
        lines.append(_SIGNING_COMMENT + _SIGNING_PREFIX + base64.b64encode(identity.signing_seed).decode())
    lines += identity.secret_keys
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConflictError(f"{path} exists and is not overwritten; it may be somebody's only key.") from None
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            # The umask may have taken bits from the mode, never added any.
            os.fchmod(descriptor, 0o600)
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from None


def read_identity(path: Path) -> Identity:
    """Read an identity file, Cordon's or one of ``age-keygen``.

    Raises:
        NotFoundError: there is no such file.
        InvalidRequestError: others may read it, or it holds no identity.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            untrusted = file.read(MAX_IDENTITY_FILE_BYTES) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise InvalidRequestError(f"{path} is not a file.")
    if stat.S_IMODE(status.st_mode) & _OTHERS:
        raise InvalidRequestError(f"Others may read {path}; run 'chmod 600 {path}' first.")
    return _parse(untrusted, path)


def checked_public_key(untrusted: str) -> str:
    """An age recipient, as age writes it.

    Raises:
        InvalidRequestError: it is none. The value is not repeated: it may be a private key.
    """
    if untrusted.strip().upper().startswith("AGE-SECRET-KEY-"):
        raise InvalidRequestError("This is a private key. Give the public one, 'age1...'.")
    try:
        return str(x25519.Recipient.from_str(untrusted.strip()))
    except RecipientError:
        raise InvalidRequestError(
            "This is no age public key; that is 'age1' and 58 characters more."
        ) from None


def checked_signing_key(untrusted: str) -> str:
    """An Ed25519 verification key, ``ed25519:`` and base64.

    Raises:
        InvalidRequestError: it is none.
    """
    return _SIGNING_PREFIX + base64.b64encode(_ed25519_bytes(untrusted.strip())).decode()


def fingerprint(public_key: str) -> str:
    """A short name for a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key.encode()).hexdigest()[:16]


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe without a writer would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _parse(untrusted: bytes, path: Path) -> Identity:
    try:
        lines = [line.strip() for line in untrusted.decode("ascii").splitlines()]
        secrets = [x25519.Identity.from_str(line) for line in lines if line.startswith(_SECRET_PREFIX)]
    except (UnicodeDecodeError, IdentityError):
        raise InvalidRequestError(f"{path} is no identity file.") from None
    if not secrets:
        raise InvalidRequestError(f"{path} holds no identity; one is a line 'AGE-SECRET-KEY-1...'.")
    seeds = [line.removeprefix(_SIGNING_COMMENT) for line in lines if line.startswith(_SIGNING_COMMENT)]
    return Identity(
        str(secrets[0].to_public()),
        tuple(str(secret) for secret in secrets),
        _ed25519_bytes(seeds[0]) if seeds else None,
    )


def _ed25519_bytes(untrusted: str) -> bytes:
    try:
        raw = base64.b64decode(untrusted.removeprefix(_SIGNING_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not untrusted.startswith(_SIGNING_PREFIX) or len(raw) != ED25519_KEY_BYTES:
        raise InvalidRequestError("This is no signing key; it reads 'ed25519:' and 44 characters of base64.")
    return raw
