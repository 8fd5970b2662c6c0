"""The client on a real socket, before servers that answer as no server should: nothing is raised, ever."""

import asyncio
import contextlib
import gzip
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trustme

from app.filing.cybertip import client
from app.filing.cybertip.answers import Answer, Call, Meaning, Trouble, meaning
from app.filing.cybertip.client import CyberTipline, open_client
from app.filing.cybertip.environment import Endpoint, Environment
from app.filing.cybertip.reading import MAX_BYTES
from app.filing.cybertip_double.service import Reply, write
from app.filing.trust import trusted

DONE = write(Reply(0, report_id="123", done=True))
HEAD = b"Request-ID: r-1\r\nRetry-After: 77\r\n"


@contextlib.asynccontextmanager
async def _answering(*pieces: bytes, pause: float = 0.0) -> AsyncIterator[Endpoint]:
    """A server that sends these to whoever asks, a while after each other, and hangs up."""
    under_way = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Endpoint(Environment.DOUBLE, f"http://127.0.0.1:{port}/ispws", "double", "double")
        await asyncio.gather(*filter(None, under_way))


async def _finish(*pieces: bytes, pause: float = 0.0) -> Answer:
    async with _answering(*pieces, pause=pause) as where, open_client(where) as authority:
        return await authority.finish("123")


def _response(status: bytes, body: bytes = b"", headers: bytes = HEAD) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


@pytest.mark.parametrize(
    "location",
    [
        *(b"https:elsewhere", b"urn:isbn:1", b"mailto:a@b.example", b"http://xn--/", b"http://[", b"//", b""),
        *(b"https://elsewhere.invalid/", b"http://a:99999999/", b"http://\xff\xfe/"),
    ],
)
async def test_a_redirect_to_whatever_is_followed_by_nobody_and_stops_filing(location: bytes) -> None:
    """The library reads where it leads though it goes nowhere; what is no URL ended the worker."""
    for status in (b"302 Found", b"308 Permanent Redirect"):
        answer = await _finish(_response(status, headers=HEAD + b"Location: " + location + b"\r\n"))
        assert answer.status == int(status[:3])
        assert answer.request_id == "r-1"
        assert meaning(Call.FINISH, answer) is Meaning.STOP


@pytest.mark.parametrize(
    ("pieces", "trouble"),
    [
        (
            [_response(b"503 Busy", gzip.compress(DONE), HEAD + b"Content-Encoding: gzip\r\n")],
            Trouble.ENCODED,
        ),
        ([_response(b"503 Busy", b"<a>" * MAX_BYTES)], Trouble.TOO_LARGE),
        ([_response(b"200 OK", DONE)[:-1]], Trouble.NO_ANSWER),
        ([_response(b"503 Busy", b"<html/>")], Trouble.WRONG_ROOT),
    ],
)
async def test_what_the_head_of_an_answer_says_counts_whatever_its_body_is(
    pieces: list[bytes], trouble: Trouble
) -> None:
    """The Request-ID that the authority's support asks for, and how long to wait."""
    answer = await _finish(*pieces)
    assert (answer.trouble, answer.request_id, answer.retry_after) == (trouble, "r-1", 77.0)
    assert meaning(Call.FINISH, answer) is Meaning.RETRY


async def test_an_answer_that_drips_is_given_up_and_its_request_id_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No single read takes too long; all together they do."""
    monkeypatch.setattr(client, "CALL_SECONDS", 0.5)
    answer = await _finish(_response(b"200 OK", DONE)[:-5], *[b"<"] * 4, pause=0.3)
    assert (answer.status, answer.code, answer.trouble) == (None, None, Trouble.NO_ANSWER)
    assert answer.request_id == "r-1"


@pytest.mark.parametrize(
    "heard",
    [
        *(b"", b"hello\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0\0\0\4\0\0\0\0\0", DONE),
        *(_response(b"99 X"), _response(b"abc X"), _response(b"101 Switching Protocols")),
        _response(b"200 OK", DONE).replace(b"HTTP/1.1", b"HTTP/2"),
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n" + DONE,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_no_answer(heard: bytes) -> None:
    answer = await _finish(heard)
    assert (answer.status, answer.trouble) == (None, Trouble.NO_ANSWER)


async def test_answers_before_the_answer_are_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 50
    answer = await _finish(b"HTTP/1.1 100 Continue\r\n\r\n", early, _response(b"200 OK", DONE))
    assert meaning(Call.FINISH, answer) is Meaning.FINISHED


@pytest.mark.parametrize(
    ("name", "known", "trouble"),
    [
        ("127.0.0.1", False, Trouble.UNTRUSTED),
        ("elsewhere.example", True, Trouble.UNTRUSTED),
        ("127.0.0.1", True, None),
    ],
    ids=["an unknown authority", "another host", "trusted"],
)
async def test_nothing_is_sent_to_whom_the_certificate_does_not_prove_and_the_log_can_tell(
    tmp_path: Path,
    name: str,
    known: bool,  # noqa: FBT001 - a parameter of pytest's
    trouble: Trouble | None,
) -> None:
    """It is tried again, as after no answer; but who reads the log sees that it is no outage."""
    authority, heard = trustme.CA(), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_response(b"200 OK", DONE))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}/ispws",
            verify=trusted(tmp_path / "ca.pem" if known else None),
            trust_env=False,
        ) as http:
            told = await CyberTipline(http).finish("123")
    assert (told.trouble, len(heard)) == (trouble, 0 if trouble else 1)
    assert meaning(Call.FINISH, told) is (Meaning.RETRY if trouble else Meaning.FINISHED)


async def test_the_keys_of_its_connections_are_written_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever had them could read reports and credentials off the wire."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    where = Endpoint(Environment.DOUBLE, "http://127.0.0.1:9/ispws", "double", "double")
    async with open_client(where):
        pass
    assert not (tmp_path / "keys").exists()
