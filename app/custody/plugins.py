"""Sealing to keys of age plugins, and opening with them: it takes a program, ``age-plugin-NAME``, in PATH.

No such program is run by a process of Cordon's own: age's library stops all threads of a process for as long
as a plugin takes, waits for it without end, and hands it the whole environment. So an interpreter of its own
(``app.custody.plugin_process``) seals and opens, with the environment below and no other, and is killed with
all that it started when its time is over.

A plugin learns the key of the one file that it wraps or unwraps, and never sees the file.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from app.custody.plugin_process import NOT_OPENED, OPEN, SEAL
from app.custody.recipients import programs_of
from app.errors import InvalidRequestError, NotReadyError

SEAL_SECONDS: Final = 10.0
"""Longest that sealing to keys of plugins takes, from start to end."""

_PASSED_ON: Final = ("HOME", "LANG", "LD_LIBRARY_PATH")
"""What a program that seals may see of the environment, beside the absolute directories of PATH."""

_PASSED_ON_TO_OPEN: Final = (
    *_PASSED_ON,
    *("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "LC_ALL", "LOGNAME", "PCSCLITE_CSOCK_NAME", "TERM", "USER"),
    *("TPM2TOOLS_TCTI", "WAYLAND_DISPLAY", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"),
)
"""The same of one that opens, at a custodian's own machine: it may have to find a device, or a desktop."""


def missing(public_keys: Iterable[str]) -> tuple[str, ...]:
    """Names of the programs that it takes to seal to these, and that PATH does not have."""
    return tuple(program for program in programs_of(public_keys) if not _is_there(program))


def check_found(public_keys: Iterable[str]) -> None:
    """Return only if PATH has each program that it takes to seal to these.

    Raises:
        NotReadyError: one of them is not there.
    """
    gone = missing(public_keys)
    if gone:
        raise NotReadyError(
            f"{' and '.join(gone)} must be in PATH to seal to a custodian's key, and cannot be found"
        )


def seal(document: bytes, public_keys: Sequence[str]) -> bytes:
    """Seal a document to public keys of any kind, as an age file. Blocking, for ``SEAL_SECONDS`` at most.

    A plugin can ask nobody anything here, and write no file.

    Raises:
        NotReadyError: a plugin's program is not there, failed, or took too long; nothing was sealed.
    """
    check_found(public_keys)
    programs = " or ".join(programs_of(public_keys))
    with _started(_PASSED_ON, interactive=False) as process:
        try:
            sealed, _ = process.communicate(_request(SEAL, public_keys, document), timeout=SEAL_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotReadyError(f"{programs} did not seal within {SEAL_SECONDS:.0f} seconds") from None
        if process.returncode != 0:
            raise NotReadyError(f"{programs} did not seal; 'age -r' with the custodian's public key says why")
    return sealed


def unseal(untrusted_sealed: bytes, identities: Sequence[str]) -> bytes:
    """Open an age file with identities of plugins, whose programs speak to the person at the terminal.

    Blocking, for as long as that person takes.

    Raises:
        InvalidRequestError: they do not open it. What a plugin says of it is on stderr by then.
    """
    with _started(_PASSED_ON_TO_OPEN, interactive=True) as process:
        opened, _ = process.communicate(_request(OPEN, identities, untrusted_sealed))
        if process.returncode == -signal.SIGINT:
            raise KeyboardInterrupt
        if process.returncode == NOT_OPENED:
            raise InvalidRequestError("This identity does not open it, or it is no sealed file.")
        if process.returncode != 0:
            raise InvalidRequestError("The plugin of this identity did not open it.")
    return opened


def _request(doing: str, keys: Sequence[str], content: bytes) -> bytes:
    return json.dumps({"doing": doing, "keys": list(keys)}).encode() + b"\n" + content


@contextlib.contextmanager
def _started(passed_on: Sequence[str], *, interactive: bool) -> Iterator[subprocess.Popen[bytes]]:
    """The process that age's library works in; it is dead when the block ends, with all that it started."""
    environment = {name: os.environ[name] for name in passed_on if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-I", "-B", "-m", "app.custody.plugin_process"],
        env=environment | {"PATH": os.pathsep.join(map(str, _directories()))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if interactive else subprocess.DEVNULL,
        cwd="/",
        # Whoever is asked sits at the terminal, whose signals are for all of us; else they are not for it.
        start_new_session=not interactive,
    )
    try:
        yield process
    finally:
        # Until it was waited for, its number, and that of its group, are nobody else's.
        if process.returncode is None:
            if interactive:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _is_there(program: str) -> bool:
    paths = [directory / program for directory in _directories()]
    return any(path.is_file() and os.access(path, os.X_OK) for path in paths)


def _directories() -> tuple[Path, ...]:
    """The directories of PATH that are the same wherever a process stands."""
    named = [Path(each) for each in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    return tuple(path for path in named if path.is_absolute())
