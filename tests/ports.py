"""Ports of this machine for programs that must be told one."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A free port of 127.0.0.1 that nobody else is given until the block ends.

    It is bound here and not listened on: who connects to it is refused, until a program that sets
    ``SO_REUSEADDR``, as servers do, listens there. Were it let go, another test could be given it before
    that, for a server or for a connection of its own.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
