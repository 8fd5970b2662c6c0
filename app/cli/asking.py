"""Questions to the person at the terminal: passphrases and confirmations."""

import getpass
import sys
import termios
from pathlib import Path
from typing import Final

from app.cli.console import FailedError, UsageError, say

ASKED: Final = "-"
"""What an option is given so that its words are asked for."""

_MIN_PASSPHRASE_CHARACTERS = 8


def ask_passphrase(path: str) -> str:
    """The passphrase of an identity file.

    Raises:
        FailedError: there is no terminal to ask on.
    """
    return _ask(f"Passphrase of {path}: ")


def ask_new_passphrase() -> str:
    """A passphrase, asked twice.

    Raises:
        FailedError: there is no terminal to ask on, or the two differ.
        UsageError: it is too short.
    """
    passphrase = _ask("New passphrase: ")
    if len(passphrase) < _MIN_PASSPHRASE_CHARACTERS:
        raise UsageError(f"a passphrase has at least {_MIN_PASSPHRASE_CHARACTERS} characters")
    if _ask("Again: ") != passphrase:
        raise FailedError("the two passphrases differ; nothing was written")
    return passphrase


def confirmed(question: str) -> bool:
    """Whether the person says yes, to what was shown by now: what was typed before that is thrown away.

    Raises:
        UsageError: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise UsageError("this asks for confirmation on a terminal; with --yes it does not")
    termios.tcflush(sys.stdin, termios.TCIFLUSH)
    sys.stderr.write(f"{question}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def in_words(given: str, option: str) -> str:
    """What an option says; ``-`` is asked on the terminal, or read as the next line of standard input.

    So that words about a case stand in no shell's history and in no list of processes.

    Raises:
        UsageError: nothing was said.
    """
    if given != ASKED:
        return given
    if sys.stdin.isatty():
        sys.stderr.write(f"{option}: ")
        sys.stderr.flush()
    said = sys.stdin.readline().strip()
    if not said:
        raise UsageError(f"{option} - takes a line of standard input, and there was none")
    return said


def _ask(prompt: str) -> str:
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            pass
    except OSError:
        raise FailedError("a passphrase is asked on a terminal, and there is none") from None
    try:
        return getpass.getpass(prompt)
    except EOFError:
        say("")
        raise FailedError("no passphrase was given") from None
