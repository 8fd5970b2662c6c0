"""A gate seen from outside while it is under attack: what it holds resident, and how fast it answers."""

import http.client
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree(root: int) -> list[int]:
    """A process and all that descend from it, the root first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def resident_bytes(process: int) -> int:
    """What a process holds in RAM; pages that several share are split between them.

    Only root may ask the kernel for that of a process that nobody may trace, as all of Cordon's are. Others
    get the whole of its pages, which counts what is shared several times over: never too little.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except PermissionError:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE_BYTES


def resident_bytes_of_all(root: int) -> int:
    """What a process and all that descend from it hold in RAM."""
    return sum(_of_those_that_live(tree(root)))


def _of_those_that_live(processes: list[int]) -> Iterator[int]:
    for process in processes:
        # It may end while it is looked at.
        with suppress(OSError, StopIteration):
            yield resident_bytes(process)


class _Repeated(threading.Thread, ABC):
    """Does something again and again while a ``with`` block runs."""

    def __init__(self, pause_seconds: float) -> None:
        super().__init__(daemon=True)
        self._pause_seconds = pause_seconds
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            self.once()
            self._over.wait(self._pause_seconds)

    @abstractmethod
    def once(self) -> None:
        """What is done."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self.join()


class Residence(_Repeated):
    """Watches what a process and all that descend from it hold in RAM.

    Attributes:
        most_bytes: the most that was seen at once.
        looks: how often it looked.
    """

    def __init__(self, root: int) -> None:
        super().__init__(0.03)
        self._root = root
        self.most_bytes = 0
        self.looks = 0

    def once(self) -> None:
        self.most_bytes = max(self.most_bytes, resident_bytes_of_all(self._root))
        self.looks += 1


_BARE = """
import http.server

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def bare_server() -> Iterator[int]:
    """The port of a process that does nothing but answer: what that takes is the machine's doing."""
    with subprocess.Popen([sys.executable, "-c", _BARE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


class Pulse(_Repeated):
    """Asks a gate, or a bare server, whether it lives, on a new connection each time.

    Attributes:
        seconds: how long each answer took; one that never came counts as the longest wait.
        mistakes: answers other than 200.
    """

    def __init__(self, port: int, longest_wait: float = 10) -> None:
        super().__init__(0.05)
        self._port = port
        self._longest_wait = longest_wait
        self.seconds: list[float] = []
        self.mistakes: list[object] = []

    def once(self) -> None:
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._longest_wait)
        try:
            connection.request("GET", "/livez")
            status = connection.getresponse().status
        except OSError as error:
            self.mistakes.append(error)
        else:
            if status != http.client.OK:
                self.mistakes.append(status)
        finally:
            connection.close()
            self.seconds.append(time.monotonic() - began)
