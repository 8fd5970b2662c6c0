"""The process that runs programs of age plugins: seals or opens one file, and ends.

It is told what to do by a line of JSON on stdin, which the content follows; the result goes to stdout. See
``app.custody.plugins``, which starts it with an environment that holds nothing of Cordon's.
"""

import getpass
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyrage

from app import kernel
from app.custody.recipients import plugin_of, recipient

SEAL: Final = "seal"
OPEN: Final = "open"

FAILED: Final = 3
"""Exit code: a plugin's program is missing, ended, or said that it cannot."""
NOT_OPENED: Final = 4
"""Exit code: none of the identities opens it."""

_CPU_SECONDS: Final = 10
_NO_KEY_FITS: Final = "No matching keys found"
_TERMINAL: Final = Path("/dev/tty")


class Nobody:
    """Answers a plugin where there is no person to ask."""

    def display_message(self, _message: str) -> None:
        """Drop it: it may tell of a key, and nobody would read it but a log."""

    def confirm(self, _message: str, _yes: str, _no: str | None) -> bool | None:
        """Not confirmed, nor declined."""
        return None

    def request_public_string(self, _description: str) -> str | None:
        """No answer."""
        return None

    def request_passphrase(self, _description: str) -> str | None:
        """No answer."""
        return None


class Terminal:
    """Puts what a plugin asks to the person at the terminal; no answer where there is none."""

    def display_message(self, message: str) -> None:
        """Show it on the terminal."""
        self._ask(lambda: self._show(f"{_printable(message)}\n"))

    def confirm(self, message: str, yes: str, no: str | None) -> bool | None:
        """Whether the person chooses the first; None if they do not choose."""
        choices = f"y: {_printable(yes)}" + (f", n: {_printable(no)}" if no is not None else "")
        answer = self._ask(lambda: self._read_line(f"{_printable(message)} ({choices}) "))
        return {"y": True, "yes": True, "n": False, "no": False}.get((answer or "").strip().lower())

    def request_public_string(self, description: str) -> str | None:
        """What they type, shown as they do."""
        return self._ask(lambda: self._read_line(f"{_printable(description)}: "))

    def request_passphrase(self, description: str) -> str | None:
        """What they type, not shown."""
        return self._ask(lambda: getpass.getpass(f"{_printable(description)}: "))

    def _ask(self, put: Callable[[], str | None]) -> str | None:
        """What a question gives; None without a terminal. An interrupt puts the terminal right first."""
        if not _has_terminal():
            return None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return put()
        except EOFError:
            return None
        except KeyboardInterrupt:
            # An exception would only make age's library panic.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            return None
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    @staticmethod
    def _show(text: str) -> None:
        with _TERMINAL.open("w", encoding="utf-8") as terminal:
            terminal.write(text)

    @classmethod
    def _read_line(cls, prompt: str) -> str | None:
        cls._show(prompt)
        with _TERMINAL.open(encoding="utf-8", errors="replace") as terminal:
            return terminal.readline().rstrip("\n") or None


def main() -> int:
    """Do what stdin asks for; the exit code."""
    kernel.forbid_core_dumps()
    kernel.die_with_parent(signal.SIGKILL)
    asked = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read()
    try:
        if asked["doing"] == SEAL:
            _lock()
            result = pyrage.encrypt(content, _recipients(asked["keys"]))
        else:
            # Else it would be looked at only when the plugin is done.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            result = pyrage.decrypt(content, _identities(asked["keys"]))
    except (pyrage.EncryptError, pyrage.DecryptError, pyrage.IdentityError, pyrage.RecipientError) as error:
        said = str(error)
        if said.startswith(_NO_KEY_FITS):
            return NOT_OPENED
        sys.stderr.write(f"cordon: the plugin: {_printable(said.splitlines()[0] if said else '')}\n")
        return FAILED
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()
    return 0


def _recipients(public_keys: Sequence[str]) -> list[Any]:
    """What pyrage seals to: each plugin's keys go to one run of its program."""
    plugins = {plugin for key in public_keys if (plugin := plugin_of(key)) is not None}
    native = [recipient(key) for key in public_keys if plugin_of(key) is None]
    return native + [
        pyrage.plugin.RecipientPluginV1(
            plugin, [recipient(key) for key in public_keys if plugin_of(key) == plugin], [], Nobody()
        )
        for plugin in sorted(plugins)
    ]


def _identities(lines: Sequence[str]) -> list[Any]:
    identities = [pyrage.plugin.Identity.from_str(line) for line in lines]
    return [
        pyrage.plugin.IdentityPluginV1(plugin, identities, Terminal())
        for plugin in dict.fromkeys(identity.plugin() for identity in identities)
    ]


def _lock() -> None:
    """Let neither this process nor a plugin's program write a file, gain privileges, or run on and on."""
    kernel.forbid_new_privileges()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))


def _has_terminal() -> bool:
    try:
        with _TERMINAL.open("rb"):
            return True
    except OSError:
        return False


def _printable(untrusted: str) -> str:
    """A plugin's words without what a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in untrusted).strip()


if __name__ == "__main__":
    sys.exit(main())
