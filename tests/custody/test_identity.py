"""Custodians' keys: one private file that age accepts too, never overwritten, never readable by others."""

import os
import re
import resource
import stat
import subprocess
from pathlib import Path

import pytest

from app.custody.identity import (
    checked_public_key,
    checked_signing_key,
    encrypt,
    fingerprint,
    generate,
    read_identity,
    signing_key_of,
    write_identity,
)
from app.errors import ConflictError, InvalidRequestError, NotFoundError


def test_an_identity_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    identity, path = generate(), tmp_path / "identity.txt"
    write_identity(identity, path)
    assert read_identity(path) == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_age_itself_derives_the_same_public_key_from_the_file(tmp_path: Path) -> None:
    identity, path = generate(), tmp_path / "identity.txt"
    write_identity(identity, path)
    told = subprocess.run(["age-keygen", "-y", path], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == identity.public_key


def test_a_file_of_age_keygen_is_an_identity_without_a_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    subprocess.run(["age-keygen", "-o", path], capture_output=True, check=True)
    identity = read_identity(path)
    assert f"# public key: {identity.public_key}" in path.read_text(encoding="ascii")
    assert (identity.signing_seed, identity.signing_public_key) == (None, None)


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    path.write_text("somebody's only key")
    with pytest.raises(ConflictError, match="not overwritten"):
        write_identity(generate(), path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing-yet")
    with pytest.raises(ConflictError):
        write_identity(generate(), link)
    assert path.read_text() == "somebody's only key"
    assert not (tmp_path / "nothing-yet").exists()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        write_identity(generate(), tmp_path / "nowhere" / "identity.txt")


def test_a_full_disk_leaves_no_half_written_key(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(InvalidRequestError, match="cannot be written"):
            write_identity(generate(), tmp_path / "identity.txt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644])
def test_an_identity_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.txt"
    write_identity(generate(), path)
    path.chmod(mode)
    with pytest.raises(InvalidRequestError, match="chmod 600"):
        read_identity(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# only a comment\n",
        b"AGE-SECRET-KEY-1NOTBECH32\n",
        b"AGE-PLUGIN-NAME-1NOTBECH32\n",
        b"\xff\xfe binary",
        b"age-encryption.org/v1\n-> scrypt abc 18\n",
        b"# signing key (private): ed25519:NOTBECH32\n",
    ],
)
def test_a_file_without_an_identity_is_refused_and_not_repeated(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.txt"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidRequestError, match=r"identity\.txt") as refusal:
        read_identity(path)
    assert "NOTBECH32" not in str(refusal.value)


def test_what_is_not_there_or_no_file_is_told_and_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_identity(tmp_path / "nothing")
    with pytest.raises(InvalidRequestError, match="directory"):
        read_identity(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidRequestError, match="not a file"):
        read_identity(tmp_path / "pipe")


def test_private_keys_stand_in_no_repr() -> None:
    identity = generate()
    assert identity.secret_keys[0] not in repr(identity)
    assert "signing_seed" not in repr(identity)


def test_a_private_key_given_for_a_public_one_is_refused_and_not_repeated() -> None:
    secret = generate().secret_keys[0]
    for given in (secret, secret.lower(), f" {secret}\n"):
        with pytest.raises(InvalidRequestError, match="private key") as refusal:
            checked_public_key(given)
        assert secret[20:30].lower() not in str(refusal.value).lower()


@pytest.mark.parametrize("given", ["", "age1", "age1" + "q" * 58, "ssh-ed25519 AAAA", "x" * 10_000])
def test_what_is_no_public_key_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequestError, match="no age public key"):
        checked_public_key(given)


def test_a_public_key_is_taken_as_age_writes_it() -> None:
    public_key = generate().public_key
    assert checked_public_key(f"  {public_key}\n") == public_key
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(public_key))
    assert fingerprint(public_key) != fingerprint(generate().public_key)


def test_a_signing_key_is_taken_as_it_is_shown() -> None:
    shown = generate().signing_public_key
    assert shown is not None
    assert checked_signing_key(f" {shown} ") == shown


@pytest.mark.parametrize(
    "given", ["", "ed25519:", "ed25519:AAAA", "AAAA", "ed25519:" + "!" * 44, "ed25519:é"]
)
def test_what_is_no_signing_key_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequestError, match="no signing key"):
        checked_signing_key(given)


def test_a_file_under_a_passphrase_opens_with_it_and_with_nothing_else(tmp_path: Path) -> None:
    """As age encrypts it; nothing of the key stands in it in the clear."""
    identity, path = generate(), tmp_path / "identity.age"
    write_identity(identity, path, "correct horse")
    assert identity.secret_keys[0].encode() not in path.read_bytes()
    assert path.read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_identity(path, lambda: "correct horse") == identity
    with pytest.raises(InvalidRequestError, match="does not open"):
        read_identity(path, lambda: "wrong horse")
    # A passphrase that is right must not be blamed for half a file.
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidRequestError, match="or the file is damaged"):
        read_identity(path, lambda: "correct horse")
    write_identity(identity, path := tmp_path / "other.age", "correct horse")
    with pytest.raises(InvalidRequestError, match="protected by a passphrase"):
        read_identity(path)


@pytest.mark.parametrize(("kind", "signs"), [("ed25519", True), ("rsa", False)])
def test_an_ssh_key_opens_what_age_sealed_to_it(tmp_path: Path, kind: str, signs: bool) -> None:  # noqa: FBT001
    """One of Ed25519 signs with itself."""
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "me", "-f", path], check=True)
    identity = read_identity(path)
    public = (tmp_path / "id.pub").read_text()
    assert checked_public_key(public) == identity.public_key
    assert signing_key_of(identity.public_key) == identity.signing_public_key
    assert (identity.signing_public_key is not None) is signs
    sealed = subprocess.run(
        ["age", "-R", tmp_path / "id.pub"], input=b"a report", capture_output=True, check=True
    )
    assert identity.decrypt(sealed.stdout) == b"a report"
    (tmp_path / "by-cordon.age").write_bytes(encrypt(b"another", [identity.public_key]))
    opened = subprocess.run(
        ["age", "-d", "-i", path, tmp_path / "by-cordon.age"], capture_output=True, check=True
    )
    assert opened.stdout == b"another"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("cipher", ["aes256-ctr", "aes256-gcm@openssh.com"])
def test_an_ssh_key_under_a_passphrase_opens_with_it_and_with_nothing_else(
    tmp_path: Path, kind: str, cipher: str
) -> None:
    """As ssh-keygen encrypts it; it is asked once, and what is opened stays in memory."""
    path, passphrase = tmp_path / "id", "correct hörse"
    options = ("-t", kind, "-N", passphrase, "-Z", cipher)
    subprocess.run(["ssh-keygen", "-q", *options, "-f", path], check=True)
    before = path.read_bytes()
    asked: list[str] = []

    def ask() -> str:
        asked.append("asked")
        return passphrase

    identity = read_identity(path, ask)
    assert asked == ["asked"]
    assert (path.read_bytes(), sorted(each.name for each in tmp_path.iterdir())) == (
        before,
        ["id", "id.pub"],
    )
    assert checked_public_key((tmp_path / "id.pub").read_text()) == identity.public_key
    sealed = subprocess.run(
        ["age", "-R", tmp_path / "id.pub"], input=b"a report", capture_output=True, check=True
    )
    assert identity.decrypt(sealed.stdout) == b"a report"
    if kind == "ed25519":
        assert len(identity.sign(b"a decision")) == 64
    assert identity.secret_keys[0] not in repr(identity)
    for wrong in ("wrong horse", ""):
        with pytest.raises(InvalidRequestError, match="does not open"):
            read_identity(path, lambda wrong=wrong: wrong)  # type: ignore[misc]
    with pytest.raises(InvalidRequestError, match="protected by a passphrase"):
        read_identity(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-t", "ed25519", "-N", "secret"), "protected by a passphrase"),
        (("-t", "rsa", "-N", "secret", "-m", "PEM"), "in OpenSSH's own form"),
        (("-t", "ecdsa", "-N", ""), "Ed25519 or RSA"),
    ],
)
def test_an_ssh_key_that_cannot_be_used_is_refused_with_the_mend(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    subprocess.run(["ssh-keygen", "-q", *options, "-f", tmp_path / "id"], check=True)
    with pytest.raises(InvalidRequestError, match=said):
        read_identity(tmp_path / "id")


def test_the_public_half_given_for_the_private_one_is_called_that(tmp_path: Path) -> None:
    """Not that others may read it, which they may."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    with pytest.raises(InvalidRequestError, match="public half"):
        read_identity(tmp_path / "id.pub")


def test_an_ssh_key_under_a_cipher_that_is_not_known_is_refused_with_the_mend(tmp_path: Path) -> None:
    options = ("-t", "ed25519", "-N", "secret", "-Z", "chacha20-poly1305@openssh.com")
    subprocess.run(["ssh-keygen", "-q", *options, "-f", tmp_path / "id"], check=True)
    with pytest.raises(InvalidRequestError, match="ssh-keygen -p -Z aes256-ctr"):
        read_identity(tmp_path / "id", lambda: "secret")


def test_an_ssh_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
    (tmp_path / "id").chmod(0o640)
    with pytest.raises(InvalidRequestError, match="chmod 600"):
        read_identity(tmp_path / "id")
