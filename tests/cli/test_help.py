"""Help teaches, is there at once, and bad usage is told on one line."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app.cli.main import command_tree
from tests.cli.conftest import Cordon

COMMANDS = {
    "": "serve worker ingest bank key custodian report audit db test-picture doctor dev",
    "bank": "create set import list hash remove history dry-run delete create-test entry",
    "bank entry": "list find show disable enable annotate keep pair unpair",
    "key": "create list revoke",
    "custodian": "keygen add list remove pin",
    "report": "list show open approve reject annotate hold unhold "
    "file filed export retry reseal destroy purge xsd alarms count",
    "audit": "verify checkpoint",
    "db": "upgrade check",
    "dev": "cybertip-double",
}


def walk(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{path} {name}".strip())


def test_the_commands_are_those_of_the_contract() -> None:
    """What a later work order brings is wholly absent."""
    found = {
        path: " ".join(each.commands) for path, each in walk(command_tree()) if hasattr(each, "commands")
    }
    assert found == COMMANDS


@pytest.mark.parametrize(("path", "command"), list(walk(command_tree())), ids=str)
def test_every_level_of_help_shows_an_example_and_explains_each_option(path: str, command: Any) -> None:
    """The example is a command that starts as this one does."""
    assert f"\n    cordon {path}".rstrip() in command.help
    assert all(option.help for option in command.params if not getattr(option, "hidden", False))


@pytest.mark.parametrize("group", [path.split() for path in COMMANDS], ids=str)
def test_the_list_of_a_group_says_of_each_command_what_it_does_to_the_end(
    cordon: Cordon, group: list[str]
) -> None:
    """A sentence is wrapped at the terminal's edge, and not cut there."""
    shown = " ".join(cordon(*group, "--help").out.decode().split())
    below = dict(walk(command_tree()))[" ".join(group)].commands
    for name, command in below.items():
        summary = " ".join(command.help.split()).split(". ")[0].rstrip(".")
        assert f" {name} {summary.removesuffix('.')}" in shown
    assert "..." not in shown.partition(" Commands: ")[2]


def test_help_needs_nothing_heavy() -> None:
    """No database, no arrays, no web framework is loaded to tell how a command is used."""
    script = (
        "import sys, app.cli.main as m; m.command_tree(); "
        "print(*{'numpy', 'sqlalchemy', 'pydantic', 'fastapi', 'httpx', 'PIL'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_help_goes_to_stdout(cordon: Cordon) -> None:
    """A person pipes it to a pager."""
    ran = cordon("--help")
    assert (ran.code, ran.err) == (0, "")
    assert b"cordon ingest --bank hashes.csv pictures/" in ran.out
    assert b"\n  doctor " in ran.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nonsense",), "No such command 'nonsense'. (see 'cordon --help')"),
        (("bank", "create", "x", "--kind", "csam"), "Missing option '--action'"),
        (("bank", "create", "x", "--kind", "odd", "--action", "report"), "'odd' is not one of"),
        (("custodian", "add", "ada", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbg"), "Give the public one"),
        (("custodian", "add", "ada", "age1q", "AGE-SECRET-KEY-1b3Blbg"), "Give the public one"),
        (("ingest",), "name sources, or a list of them with --from"),
        (("ingest", ".", "--bank", "list", "--server", "http://localhost"), "for runs without a server"),
    ],
)
def test_bad_usage_is_exit_2_and_one_line(cordon: Cordon, arguments: tuple[str, ...], told: str) -> None:
    """Stdout stays empty: it carries results alone."""
    ran = cordon(*arguments)
    assert (ran.code, ran.out) == (2, b"")
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    # Of a private key nothing is repeated.
    assert "b3Blbg" not in ran.err


def test_a_wrong_setting_is_exit_2_and_named(cordon: Cordon) -> None:
    """A typo never leaves a limit at its default."""
    ran = cordon("key", "list", given={"CORDON_MAX_BITES": "5"})
    assert ran.code == 2
    assert "unknown setting CORDON_MAX_BITES" in ran.err
