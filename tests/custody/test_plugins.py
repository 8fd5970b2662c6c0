"""age plugins: sealing and opening by a real program, which fails, hangs and asks as programs do."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from app.custody import plugins
from app.custody.identity import (
    Identity,
    checked_public_key,
    encrypt,
    generate,
    read_identity,
    write_identity,
)
from app.custody.recipients import programs_of
from app.custody.roster import Roster, WorkerKeys, parse, to_text
from app.errors import InvalidRequestError, NotReadyError
from tests import age_plugin
from tests.age_plugin import Oddity, Plugin
from tests.gates import wait_for

DOCUMENT = b"a report"

OPEN = """
import os, sys
from pathlib import Path
from app.custody.identity import read_identity
identity = read_identity(Path(sys.argv[1]), attended=True)
sys.stdout.buffer.write(identity.decrypt(Path(sys.argv[2]).read_bytes()))
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands first in PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def test_what_cordon_seals_the_plugin_and_everybody_else_open(programs: Path, tmp_path: Path) -> None:
    """Two keys of one plugin, one of another, and one of age's own."""
    one, two = age_plugin.install(programs, "one"), age_plugin.install(programs, "one")
    other, native = age_plugin.install(programs, "an.other-2"), generate()
    keys = [one.recipient, native.public_key, two.recipient, other.recipient]
    sealed = encrypt(DOCUMENT, keys)
    assert native.decrypt(sealed) == DOCUMENT
    for plugin in (one, two, other):
        assert _identity(plugin, tmp_path).decrypt(sealed) == DOCUMENT
    stranger = age_plugin.install(programs, "one")
    with pytest.raises(InvalidRequestError, match="does not open it"):
        _identity(stranger, tmp_path).decrypt(sealed)


def test_age_itself_and_cordon_open_what_the_other_sealed(programs: Path, tmp_path: Path) -> None:
    plugin = age_plugin.install(programs, "one")
    identity = _identity(plugin, tmp_path)
    ours, theirs = tmp_path / "ours.age", tmp_path / "theirs.age"
    ours.write_bytes(encrypt(DOCUMENT, [generate().public_key, plugin.recipient]))
    opened = subprocess.run(
        ["age", "-d", "-i", tmp_path / "plugin.txt", ours], capture_output=True, check=True
    )
    assert opened.stdout == DOCUMENT
    subprocess.run(["age", "-r", plugin.recipient, "-o", theirs], input=DOCUMENT, check=True)
    assert identity.decrypt(theirs.read_bytes()) == DOCUMENT


@pytest.mark.parametrize(
    "oddity", [Oddity.CRASHES, Oddity.BABBLES, Oddity.REFUSES, Oddity.CANNOT, Oddity.ASKS, Oddity.WRITES]
)
def test_a_plugin_that_does_not_seal_is_named_and_nothing_is_sealed(programs: Path, oddity: Oddity) -> None:
    """One that asks finds nobody to ask, and one that writes a file finds that it cannot."""
    plugin = age_plugin.install(programs, "bad", oddity)
    with pytest.raises(NotReadyError, match="age-plugin-bad did not seal"):
        encrypt(DOCUMENT, [generate().public_key, plugin.recipient])
    assert [path.name for path in programs.iterdir() if path.stat().st_size] == ["age-plugin-bad"]


def test_a_program_that_is_not_there_or_cannot_be_run_is_named(programs: Path) -> None:
    plugin = age_plugin.install(programs, "gone")
    plugin.program.chmod(0o644)
    for _ in range(2):
        assert plugins.missing([generate().public_key, plugin.recipient]) == ("age-plugin-gone",)
        with pytest.raises(NotReadyError, match="age-plugin-gone must be in PATH"):
            encrypt(DOCUMENT, [plugin.recipient])
        plugin.program.unlink(missing_ok=True)


def test_a_directory_of_path_that_depends_on_where_one_stands_is_not_looked_in(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = age_plugin.install(programs, "near")
    monkeypatch.chdir(programs)
    for path in ("", ".", f".{os.pathsep}", "../bin"):
        monkeypatch.setenv("PATH", path)
        assert plugins.missing([plugin.recipient]) == ("age-plugin-near",)


def test_a_plugin_that_hangs_is_killed_when_its_time_is_over(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ignores that its input ended; no process of it is left."""
    plugin = age_plugin.install(programs, "hangs", Oddity.HANGS)
    monkeypatch.setattr(plugins, "SEAL_SECONDS", 3.0)
    with pytest.raises(NotReadyError, match="age-plugin-hangs did not seal within 3 seconds"):
        encrypt(DOCUMENT, [plugin.recipient])
    # Who was killed may take a moment to end.
    wait_for(lambda: not plugin.running)


def test_no_setting_of_cordon_reaches_a_plugin(programs: Path, tmp_path: Path) -> None:
    """Nor what makes age's library print file keys. Under age itself the same plugin is told both."""
    plugin = age_plugin.install(programs, "private", Oddity.IS_PRIVATE)
    told = {"CORDON_PLACE_KEY": "k", "AGEDEBUG": "plugin", "CORDON_DATABASE_URL": "sqlite://"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        sealed = encrypt(DOCUMENT, [plugin.recipient])
        assert _identity(plugin, tmp_path).decrypt(sealed) == DOCUMENT
        control = subprocess.run(["age", "-r", plugin.recipient], input=b"", capture_output=True, check=False)
    assert b"it was told AGEDEBUG CORDON_DATABASE_URL CORDON_PLACE_KEY" in control.stderr


def test_what_a_plugin_asks_is_asked_on_the_terminal(programs: Path, tmp_path: Path) -> None:
    """And nowhere else: stdout has the document alone, and nothing in the prompts steers the terminal."""
    plugin, sealed = _sealed(programs, tmp_path)
    plugin.become(Oddity.ASKS)
    reading, writing = os.pipe()
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - another process
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.execv(sys.executable, [sys.executable, "-c", OPEN, str(tmp_path / "plugin.txt"), str(sealed)])  # noqa: S606 - the real command
    os.close(writing)
    shown = b""
    for prompt, answer in (
        (b"Use the key? (y: Go on, n: Stop)", b"y\n"),
        (b"Slot:", b"9a\n"),
        (b"PIN:", b"123456\n"),
    ):
        while prompt not in shown:
            shown += os.read(terminal, 1024)
        # What was typed before a secret is asked for is thrown away.
        time.sleep(0.3)
        os.write(terminal, answer)
    with os.fdopen(reading, "rb") as results:
        assert results.read() == DOCUMENT
    assert os.waitpid(process, 0)[1] == 0
    os.close(terminal)
    assert b"Touch the" in shown
    assert (b"\x1b" in shown, b"123456" in shown) == (False, False)


def test_an_interrupt_at_a_prompt_ends_the_command_and_its_plugin(programs: Path, tmp_path: Path) -> None:
    plugin, sealed = _sealed(programs, tmp_path)
    plugin.become(Oddity.ASKS)
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - another process
        os.execv(sys.executable, [sys.executable, "-c", OPEN, str(tmp_path / "plugin.txt"), str(sealed)])  # noqa: S606 - the real command
    shown = b""
    while b"Use the key?" not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    with contextlib.suppress(OSError):
        while os.read(terminal, 1024):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGINT
    os.close(terminal)
    # Who was killed may take a moment to end.
    wait_for(lambda: not plugin.running)


@pytest.mark.parametrize(
    ("oddity", "said"),
    [
        (Oddity.ASKS, b"nobody answered"),
        (Oddity.REFUSES, b"[31mkey [0m is not plugged in"),
        (Oddity.CRASHES, b"age-plugin-one"),
        (Oddity.CANNOT, b"does not open it"),
    ],
)
def test_a_plugin_that_does_not_open_is_told_with_what_it_says(
    programs: Path, tmp_path: Path, oddity: Oddity, said: bytes
) -> None:
    """One that asks finds no terminal here."""
    plugin, sealed = _sealed(programs, tmp_path)
    plugin.become(oddity)
    opened = subprocess.run(
        [sys.executable, "-c", OPEN, tmp_path / "plugin.txt", sealed],
        capture_output=True,
        check=False,
        start_new_session=True,
    )
    assert (opened.returncode, opened.stdout) == (1, b"")
    assert said in opened.stderr
    assert b"InvalidRequestError" in opened.stderr
    assert b"\x1b" not in opened.stderr


def test_an_identity_of_a_plugin_is_refused_where_nobody_is_there(programs: Path, tmp_path: Path) -> None:
    """As the worker reads its own."""
    path = age_plugin.install(programs, "one").write_identity(tmp_path / "plugin.txt")
    with pytest.raises(InvalidRequestError, match="takes a person at a terminal"):
        read_identity(path)


def test_an_identity_that_does_not_say_its_public_key_is_refused(programs: Path, tmp_path: Path) -> None:
    """No plugin can be asked for it; whose it is, the list of the pinned says by the public key."""
    plugin, path = age_plugin.install(programs, "one"), tmp_path / "plugin.txt"
    path.write_text(f"{plugin.identity}\n")
    path.chmod(0o600)
    with pytest.raises(InvalidRequestError, match="# public key: age1") as refusal:
        read_identity(path, attended=True)
    assert plugin.identity not in str(refusal.value)


def test_a_plugins_identity_with_a_signing_key_is_written_and_read_back(
    programs: Path, tmp_path: Path
) -> None:
    """Under a passphrase too; age takes the file as it is."""
    plugin, sealed = _sealed(programs, tmp_path)
    seed = generate().signing_seed
    identity = replace(_identity(plugin, tmp_path), signing_seed=seed)
    write_identity(identity, tmp_path / "plain.key")
    write_identity(identity, tmp_path / "protected.key", "correct horse")
    assert read_identity(tmp_path / "plain.key", attended=True) == identity
    assert read_identity(tmp_path / "protected.key", lambda: "correct horse", attended=True) == identity
    opened = subprocess.run(
        ["age", "-d", "-i", tmp_path / "plain.key", sealed], capture_output=True, check=True
    )
    assert opened.stdout == DOCUMENT


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", "a;b", "a\nb"])
def test_a_name_that_is_no_programs_is_no_public_key(name: str) -> None:
    """Whoever writes it must not choose which file of the machine is run."""
    key = age_plugin.bech32(f"age1{name}", bytes(32))
    assert programs_of([key]) == ()
    with pytest.raises(InvalidRequestError, match="no age public key"):
        checked_public_key(key)


def test_an_identity_given_as_a_public_key_is_refused_and_not_repeated(programs: Path) -> None:
    plugin = age_plugin.install(programs, "one")
    with pytest.raises(InvalidRequestError, match="private key") as refusal:
        checked_public_key(plugin.identity)
    assert plugin.identity not in str(refusal.value)


def test_the_worker_is_pinned_with_no_key_of_a_plugin(programs: Path) -> None:
    plugin, worker = age_plugin.install(programs, "one"), generate()
    text = to_text(Roster(worker=WorkerKeys.of(worker)))
    with pytest.raises(InvalidRequestError, match="nobody is there"):
        parse(text.replace(worker.public_key, plugin.recipient).encode())


def _identity(plugin: Plugin, tmp_path: Path) -> Identity:
    return read_identity(plugin.write_identity(tmp_path / "plugin.txt"), attended=True)


def _sealed(programs: Path, tmp_path: Path) -> tuple[Plugin, Path]:
    """A plugin whose identity is in ``plugin.txt``, and a file sealed to it."""
    plugin = age_plugin.install(programs, "one")
    plugin.write_identity(tmp_path / "plugin.txt")
    sealed = tmp_path / "sealed.age"
    sealed.write_bytes(encrypt(DOCUMENT, [plugin.recipient]))
    return plugin, sealed
