"""What commands print: results on stdout, everything else on stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer


class UsageError(typer.TyperException):
    """The command cannot be run as it was given, or a file that it was given is bad: exit code 2."""

    exit_code = 2


class FailedError(typer.TyperException):
    """The command was understood, and failed: exit code 1."""

    exit_code = 1


def emit(line: str) -> None:
    """Write one result to stdout at once, so that whoever reads a pipe need not wait."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def emit_json(document: Mapping[str, Any]) -> None:
    """Write one result to stdout as one line of JSON."""
    emit(json.dumps(document))


def say(line: str) -> None:
    """Tell the person at the terminal something that is no result: one line, whatever it names."""
    sys.stderr.write(f"cordon: {printable(line)}\n")
    sys.stderr.flush()


def emit_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write results to stdout as a table, aligned for people; just the headings if there are none.

    Names in it come from the database: a terminal obeys none of them.
    """
    shown = [[printable(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(headings))]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        emit("  ".join(cells).rstrip())


def printable(untrusted: str) -> str:
    """Text from outside without what a terminal would obey: control characters are shown as escapes."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in untrusted
    )
