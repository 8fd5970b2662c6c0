"""Uploads that are refused before they are read: their senders learn why."""

import socket
import time

import pytest

from tests.gates import RunningGate

ANSWER_BYTES = 64 * 1024


def upload(gate: RunningGate, token: str, media_type: str, size: int) -> bytes:
    """Send a head and then a whole body, as simple clients do, and only then read the answer."""
    head = (
        f"POST /v1/ingest HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {size}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as connection:
        connection.sendall(head.encode())
        connection.sendall(bytes(size))
        answer = b""
        while piece := connection.recv(ANSWER_BYTES):
            answer += piece
        return answer


@pytest.mark.parametrize(
    ("token", "media_type", "status"), [("all", "text/plain", b"415"), ("none", "image/png", b"401")]
)
def test_the_answer_arrives_although_the_body_was_not_wanted(
    gate: RunningGate, token: str, media_type: str, status: bytes
) -> None:
    """Closing the connection on unread bytes would reset it, and lose the answer."""
    began = time.monotonic()
    for _ in range(5):
        answer = upload(gate, gate.prepared.tokens.get(token, "wrong"), media_type, 3_000_000)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.endswith(b"}")
    assert time.monotonic() - began < 20
