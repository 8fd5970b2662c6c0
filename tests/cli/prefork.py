"""Runs the command quickly: a process that has imported all of it forks one process a run.

What runs is the command's own ``main``, in a process, a directory and an environment of its own, on real
file descriptors. Only its imports are not done anew: they would be most of the time that these tests take.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_SECONDS = 60
_REQUEST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Forker:
    """The process that forks, seen from a test."""

    channel: socket.socket

    def run(
        self, arguments: Sequence[str], *, stdin: bytes, environment: Mapping[str, str], directory: Path
    ) -> tuple[int, bytes, bytes]:
        """Run one command to its end: its exit code, and what it wrote to stdout and stderr."""
        with contextlib.ExitStack() as files:
            standard = [
                files.enter_context(os.fdopen(os.memfd_create("cordon-test"), "w+b", buffering=0))
                for _ in range(3)
            ]
            standard[0].write(stdin)
            standard[0].seek(0)
            request = json.dumps([list(arguments), dict(environment), str(directory)]).encode()
            socket.send_fds(self.channel, [request], [file.fileno() for file in standard])
            code = int(self.channel.recv(16))
            written = []
            for file in standard[1:]:
                file.seek(0)
                written.append(file.read())
        return code, written[0], written[1]


@contextlib.contextmanager
def started_forker() -> Iterator[Forker]:
    """Start the process that forks, and end it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES)
    ours.settimeout(LIMIT_SECONDS)
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    # One thread in all: a fork copies no others.
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # In a session of its own it has no terminal to ask for passphrases on, not even where a person runs
    # these tests.
    process = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], env=os.environ | single, start_new_session=True
    )
    theirs.close()
    try:
        with ours:
            yield Forker(ours)
    finally:
        process.wait(LIMIT_SECONDS)


def _serve(channel: socket.socket) -> None:
    """Fork a command for each request until nobody asks any more."""
    while True:
        request, standard, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, 3)
        if not request:
            return
        child = os.fork()
        if child == 0:
            channel.close()
            arguments, environment, directory = json.loads(request)
            _become(arguments, environment, directory, standard)
        for descriptor in standard:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        channel.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(arguments: list[str], environment: dict[str, str], directory: str, standard: list[int]) -> None:
    """Be the command, in this process; never returns."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["cordon", *arguments]
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(*each, encoding="utf-8") for each in enumerate("rww"))
    code = 70
    try:
        code = sys.modules["app.cli.main"].main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    app = importlib.import_module("app")
    for module in pkgutil.walk_packages(app.__path__, "app."):
        # What only the decoders' own processes import would lock this one, or warm it for nothing.
        if not module.name.startswith("app.hashing.dec"):
            importlib.import_module(module.name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
