"""Clients that hang up: before the last byte nothing is left behind; after it, a match is reported."""

import fcntl
import socket
import sys
import termios
import time

import pytest

from tests.gates import RunningGate, wait_for
from tests.journeys.conftest import EDITED


def connect(gate: RunningGate) -> socket.socket:
    """A raw connection to the gate."""
    return socket.create_connection(("127.0.0.1", gate.port), timeout=10)


def head(gate: RunningGate, length: int) -> bytes:
    """The head of an upload of so many bytes."""
    token = gate.prepared.tokens["ingest"]
    return (
        f"POST /v1/ingest HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def stored(gate: RunningGate) -> int:
    """How many reports there are."""
    return len(gate.client("report").get("/v1/reports").json()["reports"])


def held(gate: RunningGate) -> int:
    """How many media are in the quarantine."""
    return int(gate.client("ops").get("/v1/status").json()["intake"]["held_media"])


def unacknowledged(connection: socket.socket) -> int:
    """How many bytes were sent and have not arrived in the gate's kernel."""
    told = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(told, sys.byteorder)


@pytest.mark.parametrize("pause_seconds", [0, 0.001, 0.005, 0.02, 0.1])
def test_a_client_that_leaves_after_the_last_byte_cannot_cancel_a_report(
    gate: RunningGate, pause_seconds: float
) -> None:
    """Whether it leaves in the same instant or while the medium is being hashed."""
    for _ in range(3):
        before = stored(gate)
        connection = connect(gate)
        connection.sendall(head(gate, len(EDITED)) + EDITED)
        time.sleep(pause_seconds)
        connection.close()
        wait_for(lambda: stored(gate) == before + 1)  # noqa: B023 - called within this turn
        wait_for(lambda: held(gate) == 0)


def test_a_reset_right_after_the_last_byte_cannot_cancel_a_report(gate: RunningGate) -> None:
    """SO_LINGER of zero makes close a reset, and a large body takes several reads.

    What its sender's kernel still holds goes with it: the last byte has to be on the other side.
    """
    padded, before = EDITED + bytes(3 * 1024 * 1024), stored(gate)
    connection = connect(gate)
    connection.sendall(head(gate, len(padded)) + padded)
    wait_for(lambda: not unacknowledged(connection))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    connection.close()
    wait_for(lambda: stored(gate) == before + 1)


def test_a_client_that_leaves_between_the_medium_and_its_context_cannot_cancel_a_report(
    gate: RunningGate,
) -> None:
    """The part with the medium was whole; what was to be said of it never came."""
    before = stored(gate)
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="media"\r\n\r\n'
        + EDITED
        + b'\r\n--b\r\nContent-Disposition: form-data; name="context"\r\n\r\n{"platf'
    )
    connection = connect(gate)
    described = head(gate, len(parts) + 100).replace(b"image/jpeg", b"multipart/form-data; boundary=b")
    connection.sendall(described + parts)
    time.sleep(0.1)
    connection.close()
    wait_for(lambda: stored(gate) == before + 1)


def test_a_client_that_leaves_before_the_last_byte_leaves_nothing(gate: RunningGate) -> None:
    """No report, no medium held, no reserved byte."""
    before = stored(gate)
    for part in (0, 1, len(EDITED) // 2, len(EDITED) - 1):
        connection = connect(gate)
        connection.sendall(head(gate, len(EDITED)) + EDITED[:part])
        wait_for(lambda: held(gate) == 1)
        connection.close()
        wait_for(lambda: held(gate) == 0)
    assert gate.client("ops").get("/v1/status").json()["intake"]["reserved_bytes"] == 0
    assert stored(gate) == before
