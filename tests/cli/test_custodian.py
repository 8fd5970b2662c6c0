"""Custodians by command: pinned in the file, told where the database differs, asked on a terminal."""

import os
import pty
import sqlite3
import subprocess
import termios
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.custody.identity import Identity, fingerprint, generate, write_identity
from app.report.seal import seal
from tests.cli.conftest import Cordon
from tests.gates import CORDON
from tests.stubs import stub


def on_a_terminal(
    command: Sequence[str | Path], answers: Sequence[str], *, ahead: str = "", **given: str
) -> tuple[int, bytes]:
    """Run a command on a terminal of its own, typing an answer at each prompt; exit code and stdout.

    ``ahead`` is typed before it starts.
    """
    master, slave = pty.openpty()
    os.write(master, ahead.encode())
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        env=os.environ | given,
        start_new_session=True,
        preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
    )
    os.close(slave)
    heard = b""
    try:
        for answer in answers:
            while not heard.rstrip(b" ").endswith((b":", b"]")):
                heard += os.read(master, 4096)
            os.write(master, answer.encode() + b"\n")
            heard = b""
        out, _ = process.communicate(timeout=60)
    finally:
        os.close(master)
    return process.returncode, out


def test_a_script_learns_both_public_keys_of_a_new_pair_and_makes_a_custodian_of_them(own: Cordon) -> None:
    made = own("custodian", "keygen", "--out", "eve.key", "--json").document
    added = own("custodian", "add", "eve", made["public_key"], "--signing-key", made["signing_key"])
    assert added.code == 0, added.err
    (eve,) = [each for each in own("custodian", "list", "--json").documents if each["name"] == "eve"]
    assert {key: eve[key] for key in made} == made


def test_a_passphrase_is_asked_on_the_terminal_and_age_takes_the_same_file(tmp_path: Path) -> None:
    """Twice when it is made; too short a one, or two that differ, write nothing."""
    key = tmp_path / "ada.key"
    keygen: list[str | Path] = [CORDON, "custodian", "keygen", "--out", key, "--passphrase"]
    assert on_a_terminal(keygen, ["correct horse", "correct hose"])[0] == 1
    assert on_a_terminal(keygen, ["short"])[0] == 2
    assert not key.exists()
    code, public_key = on_a_terminal(keygen, ["correct horse", "correct horse"])
    assert code == 0
    document = stub().to_json("01J9ZK3V5T8QX2M4N6P8R0S1T2")
    (tmp_path / "report.age").write_bytes(seal(document, [public_key.decode().strip()]))
    opening: list[str | Path] = [
        CORDON,
        "report",
        "open",
        tmp_path / "report.age",
        "--identity",
        key,
        "--json",
    ]
    code, out = on_a_terminal(opening, ["correct horse"], CORDON_STATE_DIR=str(tmp_path / "none"))
    assert (code, b"canary-host" in out) == (0, True)
    assert on_a_terminal(opening, ["wrong horse"])[0] == 2
    code, out = on_a_terminal(["age", "-d", "-i", key, tmp_path / "report.age"], ["correct horse"])
    assert (code, out) == (0, document)


def test_without_a_terminal_a_passphrase_is_not_waited_for(cordon: Cordon) -> None:
    write_identity(generate(), cordon.home / "ada.key", "correct horse")
    made = cordon("custodian", "keygen", "--out", "new.key", "--passphrase")
    assert (made.code, "on a terminal, and there is none" in made.err) == (1, True)
    assert not (cordon.home / "new.key").exists()


def added(cordon: Cordon, name: str, **given: str) -> Identity:
    """Add a custodian."""
    identity = generate()
    ran = cordon(
        *("custodian", "add", name, identity.public_key),
        *("--signing-key", str(identity.signing_public_key)),
        given={f"CORDON_{key.upper()}": value for key, value in given.items()},
    )
    assert ran.code == 0, ran.err
    return identity


def in_database(cordon: Cordon, statement: str, *values: str) -> None:
    with sqlite3.connect(cordon.home / "state" / "cordon.db") as database:
        database.execute(statement, values)
    database.close()


def names(cordon: Cordon) -> list[str]:
    return [each["name"] for each in cordon("custodian", "list", "--json").documents]


def test_who_is_added_without_a_signing_key_is_said_to_decide_nothing(cordon: Cordon) -> None:
    """Not so who has one, or whose SSH key signs with itself."""
    ran = cordon("custodian", "add", "ada", generate().public_key)
    assert ran.code == 0
    assert "ada opens reports and decides nothing" in ran.err
    assert "cordon custodian remove ada" in ran.err
    identity = generate()
    keys = (identity.public_key, "--signing-key", str(identity.signing_public_key))
    assert "decides nothing" not in cordon("custodian", "add", "grace", *keys).err
    ssh = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    ran = cordon("custodian", "add", "joan", ssh.decode())
    assert (ran.code, "decides nothing" in ran.err) == (0, False), ran.err


def test_what_the_database_says_otherwise_is_told_and_pinned_only_by_a_person(cordon: Cordon) -> None:
    """Every difference is shown with its key; without a yes nothing changes."""
    ada = added(cordon, "ada")
    added(cordon, "grace")
    mallory = generate()
    in_database(cordon, "UPDATE custodians SET public_key = ? WHERE name = 'ada'", mallory.public_key)
    listed = cordon("custodian", "list")
    assert ada.public_key in listed.out.decode()
    assert mallory.public_key not in listed.out.decode()
    assert "custodian 'ada'" in listed.err
    assert "is not pinned: nothing is sealed to that key" in listed.err
    assert "pinned custodian 'ada'" in listed.err
    asked = cordon("custodian", "pin")
    assert (asked.code, "with --yes it does not" in asked.err) == (2, True)
    assert "- ada" in asked.out.decode()
    assert mallory.public_key in asked.out.decode()
    assert ada.public_key in cordon("custodian", "list").out.decode()
    in_database(cordon, "UPDATE custodians SET public_key = ? WHERE name = 'ada'", ada.public_key)
    assert "nothing to pin" in cordon("custodian", "pin").err
    in_database(cordon, "UPDATE custodians SET removed_at = added_at WHERE name = 'ada'")
    assert cordon("custodian", "pin", "--yes").code == 0
    assert names(cordon) == ["grace"]


def test_a_yes_that_was_typed_before_anything_was_shown_is_no_answer(cordon: Cordon) -> None:
    ada = added(cordon, "ada")
    mallory = generate()
    in_database(cordon, "UPDATE custodians SET public_key = ? WHERE name = 'ada'", mallory.public_key)
    pinning: list[str | Path] = [CORDON, "custodian", "pin"]
    code, shown = on_a_terminal(pinning, ["n"], ahead="y\n", **cordon.environment)
    assert (code, mallory.public_key.encode() in shown) == (1, True)
    assert ada.public_key in cordon("custodian", "list").out.decode()
    assert on_a_terminal(pinning, ["y"], **cordon.environment)[0] == 0


def test_pinning_a_worker_s_key_pins_no_custodian_that_somebody_wrote_to_the_database(cordon: Cordon) -> None:
    """Not even with --yes: nobody compared that one."""
    added(cordon, "ada")
    mallory, worker = generate(), generate()
    in_database(cordon, "UPDATE custodians SET public_key = ? WHERE name = 'ada'", mallory.public_key)
    keys = ("--worker", worker.public_key, "--worker-signing-key", str(worker.signing_public_key))
    pinned = cordon("custodian", "pin", *keys, "--yes")
    assert (pinned.code, mallory.public_key in pinned.out.decode()) == (0, False)
    file = (cordon.home / "state" / "custodians").read_text()
    assert worker.public_key in file
    assert mallory.public_key not in file


def test_the_pinned_are_written_to_the_database_again_whatever_stood_there(cordon: Cordon) -> None:
    """A swapped key under its old fingerprint, a stranger, one taken away, and what is no text at all."""
    for name in ("ada", "grace", "joan", "mary"):
        added(cordon, name)
    pinned = cordon("custodian", "list")
    file = (cordon.home / "state" / "custodians").read_bytes()
    mallory = generate()
    in_database(cordon, "UPDATE custodians SET public_key = ? WHERE name = 'ada'", mallory.public_key)
    in_database(cordon, "UPDATE custodians SET removed_at = added_at WHERE name = 'grace'")
    in_database(cordon, "UPDATE custodians SET name = x'ff00', signing_key = x'00' WHERE name = 'joan'")
    in_database(
        cordon,
        "INSERT INTO custodians (name, public_key, fingerprint, added_at) "
        "SELECT 'eve', ?, fingerprint, added_at FROM custodians WHERE name = 'mary'",
        mallory.public_key,
    )
    told = cordon("custodian", "list").err
    assert f"custodian 'ada' ({fingerprint(mallory.public_key)}) of the database is not pinned" in told
    assert "hold what no Cordon wrote" in told
    refused = cordon("custodian", "pin", "--yes")
    assert (refused.code, "pin --restore" in refused.err) == (1, True)
    assert cordon("custodian", "pin", "--restore").code == 2
    assert cordon("custodian", "pin", "--restore", "--yes").code == 0
    again = cordon("custodian", "list")
    assert (again.out, again.err) == (pinned.out, pinned.err)
    assert (cordon.home / "state" / "custodians").read_bytes() == file
    assert "nothing to restore" in cordon("custodian", "pin", "--restore", "--yes").err
    assert cordon("audit", "verify").code == 0


def test_custodians_of_an_older_database_are_pinned_at_the_first_use_and_that_is_told(cordon: Cordon) -> None:
    """Where no file is named; a file that is named and is not there pins nobody."""
    ada = added(cordon, "ada")
    (cordon.home / "state" / "custodians").unlink()
    named = cordon("custodian", "list", given={"CORDON_CUSTODIANS": str(cordon.home / "elsewhere")})
    assert (named.out.count(b"\n"), "is not pinned" in named.err) == (1, True)
    first = cordon("custodian", "list")
    assert "compare their fingerprints" in first.err
    assert ada.public_key in first.out.decode()
    assert "compare their fingerprints" not in cordon("custodian", "list").err


def test_what_root_makes_before_the_gate_s_first_start_is_the_service_s_to_open(cordon: Cordon) -> None:
    """Database and pinned file go to whoever owns the directory of state; without root that is one user."""
    state = cordon.home / "state"
    state.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(state, 65534, 65534)
    worker = generate()
    keys = ("--worker", worker.public_key, "--worker-signing-key", str(worker.signing_public_key))
    assert cordon("custodian", "pin", *keys, "--yes").code == 0
    added(cordon, "ada")
    made = {each.name for each in state.iterdir()}
    assert {"cordon.db", "custodians"} <= made
    owner = state.stat().st_uid
    assert {(each.name, each.stat().st_uid, each.stat().st_mode & 0o777) for each in state.iterdir()} == {
        (name, owner, 0o600) for name in made
    }
    # Whoever's the file was, it stays theirs.
    pinned = state / "custodians"
    if os.geteuid() == 0:
        os.chown(pinned, 0, 0)
    pinned.chmod(0o644)
    added(cordon, "grace")
    assert (pinned.stat().st_uid, pinned.stat().st_mode & 0o777) == (os.geteuid(), 0o644)


def test_a_second_gate_s_own_file_is_pinned_from_the_database(cordon: Cordon) -> None:
    """Until then it seals to nobody, and says so."""
    added(cordon, "ada")
    other = {"CORDON_CUSTODIANS": str(cordon.home / "other" / "custodians")}
    assert cordon("custodian", "pin", "--yes", given=other).code == 0
    pinned = (cordon.home / "other" / "custodians").read_text()
    assert pinned == (cordon.home / "state" / "custodians").read_text()


def test_a_new_worker_key_replaces_the_old_whose_checkpoints_still_hold(cordon: Cordon) -> None:
    """They are checked by the former keys in the file."""
    added(cordon, "ada")
    for name in ("old.key", "new.key"):
        worker = generate()
        write_identity(worker, cordon.home / name)
        keys = ("--worker", worker.public_key, "--worker-signing-key", str(worker.signing_public_key))
        assert cordon("custodian", "pin", *keys, "--yes").code == 0
        assert cordon("audit", "checkpoint", "--identity", name, "--out", "kept").code == 0
    pinned = (cordon.home / "state" / "custodians").read_text()
    assert (pinned.count("[former."), pinned.count("until = 2\n")) == (1, 1)
    # The old one signs none any more, and a file of before that did not say so is brought up.
    refused = cordon("audit", "checkpoint", "--identity", "old.key")
    assert (refused.code, "was pinned no more then" in refused.err) == (2, True)
    (cordon.home / "state" / "custodians").write_text(pinned.replace("until = 2\n", ""))
    brought_up = cordon("custodian", "pin", "--yes")
    assert brought_up.out.decode().startswith("~ worker ")
    assert "nothing to pin" in cordon("custodian", "pin", "--yes").err
    verified = cordon("audit", "verify", "--checkpoint", "kept", "--json")
    assert (verified.code, verified.document["whole"]) == (0, True)
    assert cordon("custodian", "pin", "--worker", "age1x").code == 2
