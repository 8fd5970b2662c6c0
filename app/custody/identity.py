"""What custodians hold: a key to open reports with, and an Ed25519 key to sign decisions with.

Both private halves live in one file of mode 0600 that ``age -i`` accepts too: age skips comment lines, and
the signing key stands in one. The file may be protected by a passphrase, as age does it. An SSH key will do
as well, under a passphrase or not; one of Ed25519 signs with itself. An identity of an age plugin opens by
the plugin's program; it has a signing key beside it if a person put one there.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyrage
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import SSHPrivateKeyTypes

from app.custody import plugins
from app.custody.recipients import IDENTITY, programs_of, recipient
from app.errors import ConflictError, InvalidRequestError, NotFoundError

ED25519_KEY_BYTES: Final = 32
MAX_IDENTITY_FILE_BYTES: Final = 64 * 1024

_SECRET_PREFIX: Final = "AGE-SECRET-KEY-1"  # noqa: S105 - how such a line begins, not a secret
_SIGNING_PREFIX: Final = "ed25519:"
_SIGNING_COMMENT: Final = "# signing key (private): "
_PROTECTED: Final = (b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----")
_PEM: Final = b"-----BEGIN "
_SSH_ED25519: Final = "ssh-ed25519"
_SSH_RSA: Final = "ssh-rsa"
_PUBLIC: Final = (b"ssh-", b"ecdsa-", b"sk-", b"age1")
_OTHERS: Final = 0o077
# As the plugins that there are write it above an identity.
_RECIPIENT_COMMENT: Final = re.compile(r"#\s*(?:public key|recipient):\s*(age1\S+)", re.IGNORECASE)

Ask = Callable[[], str]
"""Asks the person for the passphrase of an identity file."""


@dataclass(frozen=True)
class Identity:
    """The private half of a custodian.

    Attributes:
        public_key: the recipient that reports are sealed to, ``age1...`` or ``ssh-...``.
        secret_keys: the file's ``AGE-SECRET-KEY-1...`` lines, else its ``AGE-PLUGIN-...`` lines; or the SSH
            key whole.
        signing_seed: the 32 bytes of the Ed25519 private key; None if the file holds none.
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

    @property
    def is_of_plugin(self) -> bool:
        """Whether it opens by a plugin's program, with a person at hand."""
        return any(secret.startswith(IDENTITY) for secret in self.secret_keys)

    def decrypt(self, untrusted_sealed: bytes) -> bytes:
        """What an age file holds. One of a plugin may ask on the terminal, and wait for the person there.

        Raises:
            InvalidRequestError: it is no age file, or not sealed to this identity.
        """
        if self.is_of_plugin:
            return plugins.unseal(untrusted_sealed, self.secret_keys)
        keys = [
            pyrage.x25519.Identity.from_str(secret)
            if secret.startswith(_SECRET_PREFIX)
            else pyrage.ssh.Identity.from_buffer(secret.encode())
            for secret in self.secret_keys
        ]
        try:
            opened: bytes = pyrage.decrypt(untrusted_sealed, keys)
        except pyrage.DecryptError:
            raise InvalidRequestError("This identity does not open it, or it is no sealed file.") from None
        return opened

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature (RFC 8032), 64 bytes.

        Raises:
            InvalidRequestError: the identity file holds no signing key.
        """
        if self.signing_seed is None:
            raise InvalidRequestError(
                "This identity file holds no signing key; 'cordon custodian keygen' makes one that does."
            )
        return Ed25519PrivateKey.from_private_bytes(self.signing_seed).sign(message)


def generate() -> Identity:
    """A new identity from the system's randomness."""
    secret = pyrage.x25519.Identity.generate()
    seed = Ed25519PrivateKey.generate().private_bytes_raw()
    return Identity(str(secret.to_public()), (str(secret),), seed)


def write_identity(identity: Identity, path: Path, passphrase: str | None = None) -> None:
    """Write an age identity to a new file of mode 0600, durably.

    Args:
        identity: of an age key, as ``generate`` makes it, or of a plugin.
        path: a file that is not there yet.
        passphrase: what the file is encrypted with, as ``age -p`` does it; None leaves it readable.

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
    content = ("\n".join(lines) + "\n").encode("ascii")
    if passphrase is not None:
        content = pyrage.passphrase.encrypt(content, passphrase, armored=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConflictError(f"{path} exists and is not overwritten; it may be somebody's only key.") from None
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The umask may have taken bits from the mode, never added any.
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise InvalidRequestError(f"{path} cannot be written: {error.strerror}.") from None


def read_identity(path: Path, ask: Ask | None = None, *, attended: bool = False) -> Identity:
    """Read an identity file: Cordon's, one of ``age-keygen`` or a plugin, or an SSH key; each may be locked.

    Args:
        path: the file.
        ask: asks for the passphrase if the file has one; None refuses such a file.
        attended: whether a person is there, whom a plugin can ask; else an identity of one is refused.

    Raises:
        NotFoundError: there is no such file.
        InvalidRequestError: others may read it, it holds no identity, or the passphrase is wrong.
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
    if untrusted.startswith(_PUBLIC):
        raise InvalidRequestError(f"{path} is the public half of a key; name the file of the private one.")
    if stat.S_IMODE(status.st_mode) & _OTHERS:
        raise InvalidRequestError(f"Others may read {path}; run 'chmod 600 {path}' first.")
    if untrusted.startswith(_PROTECTED):
        untrusted = _unprotected(untrusted, path, ask)
    if untrusted.startswith(_PEM):
        return _parse_ssh(untrusted, path, ask)
    identity = _parse(untrusted, path)
    if identity.is_of_plugin and not attended:
        raise InvalidRequestError(
            f"{path} holds an identity of an age plugin, which takes a person at a terminal; one that works "
            "alone is made by 'cordon custodian keygen'."
        )
    return identity


def encrypt(document: bytes, public_keys: Sequence[str]) -> bytes:
    """Seal a document to each of the public keys, as an age file.

    Blocking, for ``plugins.SEAL_SECONDS`` at most if one of them is of a plugin.

    Raises:
        InvalidRequestError: there is no recipient, or one of them is none.
        NotReadyError: a plugin's program is missing, or did not seal.
    """
    if not public_keys:
        raise InvalidRequestError("There is no public key to seal to.")
    known = [_recipient(key) for key in public_keys]
    if programs_of(public_keys):
        return plugins.seal(document, public_keys)
    try:
        sealed: bytes = pyrage.encrypt(document, known)
    except pyrage.EncryptError:
        raise InvalidRequestError("Sealing to these public keys failed.") from None
    return sealed


async def encrypt_aside(document: bytes, public_keys: Sequence[str]) -> bytes:
    """The same for an event loop, which goes on while a plugin works.

    Raises:
        InvalidRequestError, NotReadyError: as ``encrypt`` does.
    """
    if not programs_of(public_keys):
        return encrypt(document, public_keys)
    return await asyncio.to_thread(encrypt, document, public_keys)


def checked_public_key(untrusted: str) -> str:
    """A recipient in the one form that is stored: of age, hardware or a plugin, or of SSH without comment.

    Raises:
        InvalidRequestError: it is none. The value is not repeated: it may be a private key.
    """
    given = untrusted.strip()
    if given.upper().startswith(("AGE-SECRET-KEY-", IDENTITY)) or given.encode().startswith(_PEM):
        raise InvalidRequestError("This is a private key. Give the public one, 'age1...'.")
    if given.startswith((f"{_SSH_ED25519} ", f"{_SSH_RSA} ")):
        given = " ".join(given.split()[:2])
    _recipient(given)
    return given


def checked_signing_key(untrusted: str) -> str:
    """An Ed25519 verification key, ``ed25519:`` and base64.

    Raises:
        InvalidRequestError: it is none.
    """
    return _SIGNING_PREFIX + base64.b64encode(signing_key_bytes(untrusted.strip())).decode()


def signing_key_of(public_key: str) -> str | None:
    """The verification key that a recipient brings itself: an SSH key of Ed25519 does, others do not."""
    if not public_key.startswith(f"{_SSH_ED25519} "):
        return None
    # RFC 8709: the key type and the key, each with its length before it.
    raw = base64.b64decode(public_key.split()[1])[-ED25519_KEY_BYTES:]
    return _SIGNING_PREFIX + base64.b64encode(raw).decode()


def signing_key_bytes(untrusted: str) -> bytes:
    """The 32 bytes of an Ed25519 key that was written as ``ed25519:`` and base64.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        raw = base64.b64decode(untrusted.removeprefix(_SIGNING_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not untrusted.startswith(_SIGNING_PREFIX) or len(raw) != ED25519_KEY_BYTES:
        raise InvalidRequestError("This is no signing key; it reads 'ed25519:' and 44 characters of base64.")
    return raw


def fingerprint(public_key: str) -> str:
    """A short name for a public key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(public_key.encode()).hexdigest()[:16]


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe without a writer would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _recipient(public_key: str) -> Any:  # noqa: ANN401 - pyrage has a class for each kind
    try:
        return recipient(public_key)
    except (pyrage.RecipientError, ValueError):
        raise InvalidRequestError(
            "This is no age public key that a gate can seal to: 'age1' and 58 characters more, 'age1tag1...' "
            "of a hardware key, 'age1NAME1...' of a plugin, 'ssh-ed25519 ...' or 'ssh-rsa ...'."
        ) from None


def _unprotected(untrusted: bytes, path: Path, ask: Ask | None) -> bytes:
    if ask is None:
        raise InvalidRequestError(f"The identity {path} is protected by a passphrase.")
    try:
        opened: bytes = pyrage.passphrase.decrypt(untrusted, ask())
    except pyrage.DecryptError:
        raise InvalidRequestError(
            f"The passphrase does not open the identity {path}, or the file is damaged."
        ) from None
    return opened


def _parse(untrusted: bytes, path: Path) -> Identity:
    try:
        lines = [line.strip() for line in untrusted.decode("ascii").splitlines()]
        secrets = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(_SECRET_PREFIX)]
        of_plugins = [pyrage.plugin.Identity.from_str(line) for line in lines if line.startswith(IDENTITY)]
    except (UnicodeDecodeError, pyrage.IdentityError):
        raise InvalidRequestError(f"{path} is no identity file, or a damaged one.") from None
    seeds = [line.removeprefix(_SIGNING_COMMENT) for line in lines if line.startswith(_SIGNING_COMMENT)]
    try:
        seed = signing_key_bytes(seeds[0]) if seeds else None
    except InvalidRequestError:
        raise InvalidRequestError(f"The signing key in {path} is damaged; take a copy of the file.") from None
    if secrets:
        return Identity(str(secrets[0].to_public()), tuple(str(secret) for secret in secrets), seed)
    if not of_plugins:
        raise InvalidRequestError(
            f"{path} holds no identity; one is a line 'AGE-SECRET-KEY-1...', or 'AGE-PLUGIN-...' of a plugin."
        )
    return Identity(_public_key_of_plugin(lines, path), tuple(str(each) for each in of_plugins), seed)


def _public_key_of_plugin(lines: Sequence[str], path: Path) -> str:
    """The recipient as the file tells it: no plugin says which one its identity goes with."""
    told = [found[1] for line in lines if (found := _RECIPIENT_COMMENT.fullmatch(line))]
    if not told:
        raise InvalidRequestError(
            f"{path} holds an identity of an age plugin and does not say of which public key; write a line "
            "'# public key: age1...' into it."
        )
    return checked_public_key(told[0])


def _parse_ssh(untrusted: bytes, path: Path, ask: Ask | None) -> Identity:
    key, protected = _ssh_key(untrusted, path, ask)
    if not isinstance(key, Ed25519PrivateKey | RSAPrivateKey):
        raise InvalidRequestError(f"The SSH identity {path} must be of Ed25519 or RSA.")
    opened = untrusted
    if protected:
        # In memory alone: age's library opens no key that is under a passphrase.
        opened = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    try:
        pyrage.ssh.Identity.from_buffer(opened)
    except pyrage.IdentityError:
        raise _no_ssh_identity(path) from None
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return Identity(
        public.decode(),
        (opened.decode("ascii"),),
        key.private_bytes_raw() if isinstance(key, Ed25519PrivateKey) else None,
    )


def _ssh_key(untrusted: bytes, path: Path, ask: Ask | None) -> tuple[SSHPrivateKeyTypes, bool]:
    """The private key of a file of OpenSSH, and whether it is under a passphrase."""
    try:
        return serialization.load_ssh_private_key(untrusted, password=None), False
    except TypeError:
        # It is under a passphrase.
        pass
    except ValueError:
        raise _no_ssh_identity(path) from None
    except UnsupportedAlgorithm:
        raise InvalidRequestError(
            f"The SSH identity {path} is of a kind, or under a cipher, that is not known here: one is of "
            "Ed25519 or RSA, and 'ssh-keygen -p -Z aes256-ctr' encrypts it so that it is known."
        ) from None
    if ask is None:
        raise InvalidRequestError(f"The SSH identity {path} is protected by a passphrase.")
    try:
        return serialization.load_ssh_private_key(untrusted, password=ask().encode()), True
    except (ValueError, TypeError, InvalidTag):
        raise InvalidRequestError(
            f"The passphrase does not open the SSH identity {path}, or the file is damaged."
        ) from None


def _no_ssh_identity(path: Path) -> InvalidRequestError:
    return InvalidRequestError(
        f"{path} is no SSH identity that can be used: one is of Ed25519 or RSA, in OpenSSH's own form."
    )
