"""An age plugin for tests: the program that age and Cordon start, speaking C2SP's age-plugin protocol.

``install`` puts it into a directory as ``age-plugin-NAME``. It wraps file keys with X25519 for real; an
``Oddity`` makes it do what a bad plugin does, or what a plugin of a hardware key does.
"""

import base64
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_COLUMNS = 64


class Oddity(StrEnum):
    """What an installed plugin does instead of, or beside, its work."""

    NONE = "none"
    HANGS = "hangs"
    CRASHES = "crashes"
    BABBLES = "babbles"
    REFUSES = "refuses"
    CANNOT = "cannot"
    ASKS = "asks"
    IS_PRIVATE = "is private"
    WRITES = "writes"
    WAITS = "waits"
    """Says that it is there by an empty file ``.started`` beside it, and waits for one called ``.go``."""


@dataclass(frozen=True)
class Plugin:
    """An installed plugin with one key pair.

    Attributes:
        recipient: ``age1NAME1...``.
        identity: ``AGE-PLUGIN-NAME-1...``.
    """

    program: Path
    recipient: str
    identity: str = field(repr=False)

    def write_identity(self, path: Path) -> Path:
        """Write the identity as plugins do: a file that tells the recipient in a comment."""
        path.write_text(f"#   Recipient: {self.recipient}\n{self.identity}\n", encoding="ascii")
        path.chmod(0o600)
        return path

    @property
    def running(self) -> list[str]:
        """Processes of its program."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(self.program) in (process / "cmdline").read_bytes().split(b"\0"):
                    found.append(process.name)
        return found

    def become(self, oddity: Oddity) -> None:
        """Do this from the next run on."""
        name = self.program.name.removeprefix("age-plugin-")
        own = Path(__file__).read_text(encoding="utf-8")
        self.program.write_text(
            f"#!{sys.executable} -IB\n{own}\nmain({oddity.value!r}, {name!r})\n", encoding="utf-8"
        )
        self.program.chmod(0o755)


def install(directory: Path, name: str, oddity: Oddity = Oddity.NONE) -> Plugin:
    """Put the program into a directory, with a new key pair."""
    directory.mkdir(exist_ok=True)
    secret = X25519PrivateKey.generate()
    plugin = Plugin(
        directory / f"age-plugin-{name}",
        bech32(f"age1{name}", secret.public_key().public_bytes_raw()),
        bech32(f"age-plugin-{name}-", secret.private_bytes_raw()).upper(),
    )
    plugin.become(oddity)
    return plugin


def main(oddity: str, name: str) -> None:
    """One run of the program."""
    told = list(_phase())
    if oddity == Oddity.CRASHES:
        sys.exit(3)
    if oddity == Oddity.HANGS:
        # Beyond the end of what waits for it, and of its input.
        time.sleep(3600)
    if oddity == Oddity.BABBLES:
        sys.stdout.write("what is this\n")
        sys.exit()
    if oddity == Oddity.WAITS:
        Path(sys.argv[0]).with_suffix(".started").touch()
        while not Path(sys.argv[0]).with_suffix(".go").exists():
            time.sleep(0.01)
    if oddity == Oddity.WRITES:
        Path(sys.argv[0]).with_suffix(".written").write_text("a file key, perhaps")
    strangers = sorted(variable for variable in os.environ if variable.startswith(("CORDON_", "AGEDEBUG")))
    if oddity == Oddity.IS_PRIVATE and strangers:
        _ask("error", "internal", body=f"it was told {' '.join(strangers)}".encode())
    elif oddity == Oddity.REFUSES:
        _ask("error", "internal", body=b"the \x1b[31mkey\x1b[0m is not plugged in")
    elif oddity != Oddity.CANNOT:
        if oddity == Oddity.ASKS:
            _converse()
        _wrap(told, name) if sys.argv[1] == "--age-plugin=recipient-v1" else _unwrap(told, name)
    _send("done")


def _converse() -> None:
    """Ask all that a plugin can ask; go on if each was answered as the test does."""
    message = _ask("msg", body=b"Touch the \x1b[31mkey")
    confirmed = _ask("confirm", _encoded(b"Go on"), _encoded(b"Stop"), body=b"Use the key?")
    public = _ask("request-public", body=b"Slot")
    secret = _ask("request-secret", body=b"PIN")
    answers = (message[0], confirmed[0], confirmed[1], public[2], secret[2])
    if answers != ("ok", "ok", ["yes"], b"9a", b"123456"):
        _ask("error", "internal", body=b"nobody answered")
        _send("done")
        sys.exit()


def _wrap(told: list[tuple[str, list[str], bytes]], name: str) -> None:
    recipients = [arguments[0] for command, arguments, _ in told if command == "add-recipient"]
    (file_key,) = [body for command, _, body in told if command == "wrap-file-key"]
    for recipient in recipients:
        public = X25519PublicKey.from_public_bytes(_payload(recipient))
        once = X25519PrivateKey.generate()
        share = once.public_key().public_bytes_raw()
        wrapped = _cipher(once.exchange(public), share).encrypt(bytes(12), file_key, None)
        _ask("recipient-stanza", "0", name, _encoded(share), body=wrapped)


def _unwrap(told: list[tuple[str, list[str], bytes]], name: str) -> None:
    secrets = [
        X25519PrivateKey.from_private_bytes(_payload(arguments[0].lower()))
        for command, arguments, _ in told
        if command == "add-identity"
    ]
    for command, arguments, body in told:
        if command != "recipient-stanza" or arguments[1] != name:
            continue
        share = _decoded(arguments[2])
        for secret in secrets:
            shared = secret.exchange(X25519PublicKey.from_public_bytes(share))
            try:
                file_key = _cipher(shared, share).decrypt(bytes(12), body, None)
            except InvalidTag:
                continue
            _ask("file-key", arguments[0], body=file_key)
            return


def _cipher(shared: bytes, share: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(SHA256(), 32, share, b"a plugin of Cordon's tests").derive(shared))


def _phase() -> Iterator[tuple[str, list[str], bytes]]:
    """What age says, until it is done."""
    while (said := _receive())[0] != "done":
        yield said


def _ask(command: str, *arguments: str, body: bytes = b"") -> tuple[str, list[str], bytes]:
    _send(command, *arguments, body=body)
    return _receive()


def _send(command: str, *arguments: str, body: bytes = b"") -> None:
    text = _encoded(body)
    lines = [text[start : start + _COLUMNS] for start in range(0, len(text) + 1, _COLUMNS)]
    sys.stdout.write("\n".join([" ".join(["->", command, *arguments]), *lines, ""]))
    sys.stdout.flush()


def _receive() -> tuple[str, list[str], bytes]:
    """A stanza: what it asks or answers, its arguments, its body."""
    first = sys.stdin.readline()
    if not first:
        sys.exit(2)
    _, command, *arguments = first.split()
    text = ""
    while len(line := sys.stdin.readline().strip()) == _COLUMNS:
        text += line
    return command, arguments, _decoded(text + line)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _payload(key: str) -> bytes:
    """The 32 bytes that a key of ``bech32`` carries."""
    bits = "".join(f"{_ALPHABET.index(character):05b}" for character in key.rpartition("1")[2][:-6])
    return bytes(int(bits[start : start + 8], 2) for start in range(0, 256, 8))


def bech32(prefix: str, content: bytes) -> str:
    """A key as BIP 173 writes it, of any length."""
    bits = "".join(f"{byte:08b}" for byte in content)
    bits += "0" * (-len(bits) % 5)
    values = [int(bits[start : start + 5], 2) for start in range(0, len(bits), 5)]
    spread = (
        [ord(character) >> 5 for character in prefix] + [0] + [ord(character) & 31 for character in prefix]
    )
    remainder = 1
    for value in [*spread, *values, *[0] * 6]:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for position, term in enumerate(_GENERATOR):
            remainder ^= term if top >> position & 1 else 0
    remainder ^= 1
    check = [remainder >> 5 * (5 - position) & 31 for position in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in [*values, *check])}"
