"""What the fetcher brings home from permitted hosts, good and bad ones, over real sockets."""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from app.errors import (
    FetchFailedError,
    FetchTimeoutError,
    OverloadedError,
    TooLargeError,
    UrlRefusedError,
)
from app.fetch.client import MAX_HEADERS, Fetcher
from app.media import Provenance
from app.quarantine import Quarantine, QuarantinedMedia
from app.settings import FetchSettings
from tests.ports import held_port
from tests.worlds import Asked, Broken, MediaHost, NameServer, Script, answer, says

LIMIT = 64 * 1024
VIDEO_LIMIT = 4 * LIMIT
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MP4_HEAD = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2"

Make = Callable[..., Fetcher]


@pytest.fixture
def host() -> Iterator[MediaHost]:
    with MediaHost() as double:
        yield double


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes fetchers that may reach this machine."""
    made: list[Fetcher] = []

    def fetcher(ssl_context: ssl.SSLContext | None = None, **settings: object) -> Fetcher:
        values = {"fetch_allow": "127.0.0.0/8,::1", "fetch_ports": "*"} | settings
        made.append(
            Fetcher(
                FetchSettings.model_validate(values),
                ssl_context=ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            )
        )
        return made[-1]

    yield fetcher
    for each in made:
        await each.close()


@pytest.fixture
def quarantine() -> Quarantine:
    return Quarantine(8 * VIDEO_LIMIT)


@pytest.fixture
def media(quarantine: Quarantine) -> Iterator[QuarantinedMedia]:
    with quarantine.admit(max_bytes=LIMIT, max_video_bytes=VIDEO_LIMIT) as admitted:
        yield admitted


async def test_a_fetched_medium_is_whole_and_its_journey_told(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    body = bytes(range(256)) * 100
    host.serve(
        "/cat.png",
        body,
        "image/png",
        Date="Sun, 22 Nov 2026 10:00:00 GMT",
        Last_Modified="Sat, 21 Nov 2026 10:00:00 GMT",
        ETag='"v1"',
        Set_Cookie="tracked=yes",
        Server="double",
    )
    host.redirect("/here", "/there?q=1")
    host.redirect("/there", host.url("/cat.png#part"), status=308)
    before = datetime.now(UTC)
    provenance = await make().fetch(host.url("/here").replace("http", "HTTP"), media)
    assert media.read(0, media.size) == body
    assert before <= provenance.received_at <= datetime.now(UTC)
    assert provenance.received_at.utcoffset() == timedelta(0)
    assert provenance == Provenance(
        received_at=provenance.received_at,
        requested_url=host.url("/here"),
        redirects=(host.url("/there?q=1"), host.url("/cat.png")),
        final_url=host.url("/cat.png"),
        resolved_address="127.0.0.1",
        resolved_port=host.port,
        via_proxy=False,
        status=200,
        headers=(
            ("Date", "Sun, 22 Nov 2026 10:00:00 GMT"),
            ("Last-Modified", "Sat, 21 Nov 2026 10:00:00 GMT"),
            ("ETag", '"v1"'),
            ("Content-Type", "image/png"),
            ("Content-Length", str(len(body))),
        ),
    )


async def test_the_request_says_no_more_than_it_must(
    host: MediaHost, make: Make, media: QuarantinedMedia, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.2:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.2:9")
    host.redirect("/a", "/b", Set_Cookie="tracked=yes")
    host.serve("/b", b"b", "image/png")
    fetcher = make(fetch_user_agent="Example/1")
    await fetcher.fetch(host.url("/a?secret"), media)
    await fetcher.fetch(host.url("/b"), media)
    expected = {
        "host": f"127.0.0.1:{host.port}",
        "user-agent": "Example/1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }
    assert [asked.headers for asked in host.asked] == [expected] * 3
    assert [asked.target for asked in host.asked] == ["/a?secret", "/b", "/b"]
    assert host.connections == 3, "a connection was shared"


async def test_localhost_is_the_loopback_address_that_is_permitted(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    host.serve("/", b"here", "image/png")
    fetcher = make(fetch_allow="127.0.0.0/8")
    provenance = await fetcher.fetch(host.url("/", "localhost"), media)
    assert provenance.resolved_address == "127.0.0.1"
    with pytest.raises(UrlRefusedError):
        await make(fetch_allow="10.0.0.0/8").fetch(host.url("/", "localhost"), media)


async def test_ipv6_hosts_are_reached_and_named_in_brackets(make: Make, media: QuarantinedMedia) -> None:
    with MediaHost({"/": (b"six", "image/png")}, address="::1") as host:
        provenance = await make().fetch(host.url("/"), media)
        assert host.asked[0].headers["host"] == f"[::1]:{host.port}"
    assert provenance.resolved_address == "::1"
    assert media.read(0, 3) == b"six"


async def test_the_next_checked_address_is_tried_where_one_cannot_be_connected(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    host.serve("/", b"here", "image/png")
    with NameServer({"cat.example": ["127.0.0.9", "127.0.0.1", "::1"]}) as names:
        provenance = await make(fetch_resolver=names.address).fetch(host.url("/", "cat.example"), media)
    assert provenance.resolved_address == "127.0.0.1"
    assert names.looked_up("cat.example") == 1


async def test_a_body_in_chunks_and_one_that_ends_with_the_connection_are_whole(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    host.script("/chunks", says(CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\n"))
    host.script("/closes", says(b"HTTP/1.0 200 OK\r\n\r\nfgh"))
    host.script("/identity", says(answer(b"ij", headers={"Content-Encoding": "Identity"})))
    for path in ("/chunks", "/closes", "/identity"):
        await make().fetch(host.url(path), media)
    assert media.read(0, media.size) == b"abcdefghij"


@pytest.mark.parametrize("status", [201, 203, 204, 206, 300, 304, 400, 401, 403, 404, 429, 500, 503])
async def test_any_status_but_200_is_told_and_its_body_left(
    host: MediaHost, make: Make, media: QuarantinedMedia, status: int
) -> None:
    host.script("/", says(answer(b"", status=f"{status} No")))
    with pytest.raises(FetchFailedError) as caught:
        await make().fetch(host.url("/"), media)
    assert caught.value.upstream_status == status
    assert media.size == 0


async def test_five_redirects_are_followed_and_a_sixth_is_not(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    for step in range(6):
        host.redirect(f"/{step}", f"/{step + 1}", status=(301, 302, 303, 307, 308)[step % 5])
    host.serve("/6", b"end", "image/png")
    provenance = await make().fetch(host.url("/1"), media)
    assert len(provenance.redirects) == 5
    host.asked.clear()
    with pytest.raises(FetchFailedError) as caught:
        await make().fetch(host.url("/0"), media)
    assert caught.value.upstream_status == 301
    assert [asked.path for asked in host.asked] == ["/0", "/1", "/2", "/3", "/4", "/5"]


@pytest.mark.parametrize("location", ["/loop", ""])
async def test_redirects_that_lead_nowhere_end(
    host: MediaHost, make: Make, media: QuarantinedMedia, location: str
) -> None:
    host.redirect("/loop", location)
    with pytest.raises(FetchFailedError) as caught:
        await make().fetch(host.url("/loop"), media)
    assert caught.value.upstream_status == 302
    assert len(host.asked) == (6 if location else 1)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "x-unknown", "identity, gzip", "GZIP"])
async def test_an_encoded_body_is_left_unread(
    host: MediaHost, make: Make, media: QuarantinedMedia, encoding: str
) -> None:
    """A bomb of 64 KiB would be 64 MiB before anybody could count it."""
    host.script("/", says(answer(b"\x1f\x8b" * 100, headers={"Content-Encoding": encoding})))
    with pytest.raises(FetchFailedError):
        await make().fetch(host.url("/"), media)
    assert media.size == 0


@pytest.mark.parametrize(
    "raw",
    [
        answer(b"short", length=1000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nlying!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x10\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: a\r\n",
        b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * (MAX_HEADERS + 1) + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 9000 + b"\r\n") * 9 + b"Content-Length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00" * 1000,
        b"",
    ],
    ids=lambda raw: raw[:60].decode("latin-1") or "nothing",
)
async def test_a_broken_answer_is_a_failed_fetch(
    host: MediaHost, make: Make, media: QuarantinedMedia, raw: bytes
) -> None:
    host.script("/", says(raw))
    with pytest.raises((FetchFailedError, TooLargeError)):
        await make().fetch(host.url("/"), media)


async def test_a_length_that_is_too_short_cuts_the_body_there(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    host.script("/", says(answer(b"whole and more", length=5)))
    await make().fetch(host.url("/"), media)
    assert media.read(0, media.size) == b"whole"


async def test_an_empty_body_is_whole(host: MediaHost, make: Make, media: QuarantinedMedia) -> None:
    host.serve("/", b"", "image/png")
    await make().fetch(host.url("/"), media)
    assert media.size == 0


def _endless(head: bytes, piece: bytes, sent: list[int]) -> Script:
    async def send(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        with suppress(OSError):
            while True:
                writer.write(piece)
                await writer.drain()
                sent.append(len(piece))

    return send


async def test_a_promise_of_too_much_is_believed_before_the_body(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    host.script("/", says(answer(b"x" * 1000, length=VIDEO_LIMIT + 1)))
    with pytest.raises(TooLargeError):
        await make().fetch(host.url("/"), media)
    assert media.size == 0


async def test_a_promise_that_only_a_video_may_make_is_judged_by_the_head(
    host: MediaHost, make: Make, quarantine: Quarantine
) -> None:
    promised = LIMIT + 1
    video = MP4_HEAD.ljust(promised, b"\x00")
    host.serve("/video", video, "image/png")
    with quarantine.admit(max_bytes=LIMIT, max_video_bytes=VIDEO_LIMIT) as media:
        await make().fetch(host.url("/video"), media)
        assert media.size == promised
    sent: list[int] = []
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n".encode()
    host.script("/picture", _endless(head, b"\x89PNG\r\n\x1a\n".ljust(8192, b"\x00"), sent))
    with quarantine.admit(max_bytes=LIMIT, max_video_bytes=VIDEO_LIMIT) as media:
        with pytest.raises(TooLargeError):
            await make().fetch(host.url("/picture"), media)
        assert media.size <= 8192
    assert quarantine.reserved_bytes == 0


@pytest.mark.parametrize("framing", ["close", "chunked"])
async def test_an_endless_body_is_stopped_at_the_limit(
    host: MediaHost, make: Make, media: QuarantinedMedia, framing: str
) -> None:
    sent: list[int] = []
    head = b"HTTP/1.1 200 OK\r\n"
    if framing == "chunked":
        script = _endless(
            head + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n", sent
        )
    else:
        script = _endless(head + b"\r\n", b"x" * 4096, sent)
    host.script("/", script)
    with pytest.raises(TooLargeError):
        await make().fetch(host.url("/"), media)
    assert media.size <= LIMIT


async def test_a_budget_that_cannot_hold_what_is_promised_is_told_before_the_body(
    host: MediaHost, make: Make
) -> None:
    quarantine = Quarantine(2 * VIDEO_LIMIT)
    host.script("/", says(answer(MP4_HEAD, length=VIDEO_LIMIT)))
    taken = quarantine.admit(max_bytes=1, max_video_bytes=1, expected_bytes=0)
    quarantine.reserve(VIDEO_LIMIT)
    with taken, quarantine.admit(max_bytes=LIMIT, max_video_bytes=VIDEO_LIMIT, expected_bytes=1) as media:
        with pytest.raises(OverloadedError):
            await make().fetch(host.url("/"), media)
        assert media.size == 0
    assert quarantine.reserved_bytes == VIDEO_LIMIT


async def test_a_body_in_a_flood_of_tiny_pieces_is_given_up(host: MediaHost, make: Make) -> None:
    """One byte a chunk costs twenty times what a good host's bytes cost."""
    piece = b"1\r\nx\r\n" * 2000
    host.script("/", _endless(CHUNKED, piece, []))
    with Quarantine(1 << 20).admit(max_bytes=1 << 19, max_video_bytes=1 << 19) as media:
        with pytest.raises(FetchFailedError):
            await make().fetch(host.url("/"), media)
        assert media.size < 5000


def _dribble(pieces: bytes, seconds: float) -> Script:
    async def send(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            for byte in pieces:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(seconds)
            await asyncio.Event().wait()

    return send


@pytest.mark.parametrize(
    ("script", "limit"),
    [
        (_dribble(b"", 0), "fetch_first_byte_seconds"),
        (_dribble(answer(b"x" * 1000), 0.05), "fetch_first_byte_seconds"),
        (_dribble(answer(b"x" * 1000), 0.002), "fetch_total_seconds"),
        (says(answer(b"x", length=10)), None),
    ],
    ids=["silent", "one byte of the head at a time", "one byte at a time", "closes"],
)
async def test_a_slow_host_is_left_when_its_time_is_over(
    host: MediaHost, make: Make, media: QuarantinedMedia, script: Script, limit: str | None
) -> None:
    host.script("/", script)
    fetcher = make(**({limit: 0.3} if limit else {}))
    began = time.monotonic()
    with pytest.raises(FetchTimeoutError if limit else FetchFailedError):
        await fetcher.fetch(host.url("/"), media)
    assert time.monotonic() - began < 5


async def test_endless_heads_before_the_one_that_counts_are_given_up(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    sent: list[int] = []
    host.script("/", _endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", sent))
    with pytest.raises(FetchFailedError):
        await make().fetch(host.url("/"), media)
    assert sum(sent) < 16 << 20, "more was taken than sockets buffer"


async def test_hints_before_the_answer_are_passed_over(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
    host.script("/", says(hint * 3 + answer(b"x" * LIMIT)))
    await make().fetch(host.url("/"), media)
    assert media.size == LIMIT


async def test_a_slow_body_may_take_longer_than_the_head(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    """The limit for the first byte must not cut off a body that stalls for a while."""

    async def stall(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x", length=2))
        await asyncio.sleep(1.5)
        writer.write(b"y")

    host.script("/", stall)
    # As much as a busy machine may need for a head that comes at once.
    await make(fetch_first_byte_seconds=1, fetch_connect_seconds=1).fetch(host.url("/"), media)
    assert media.read(0, 2) == b"xy"


async def test_all_redirects_share_the_time_for_the_whole(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    async def later(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer(status="302 Found", headers={"Location": "/"}))

    host.script("/", later)
    with pytest.raises(FetchTimeoutError):
        await make(fetch_total_seconds=0.5).fetch(host.url("/"), media)
    assert len(host.asked) <= 3


async def test_a_host_that_never_agrees_on_tls_takes_the_time_to_connect(
    make: Make, media: QuarantinedMedia
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(FetchTimeoutError):
            await make(fetch_connect_seconds=0.2).fetch(f"https://127.0.0.1:{port}/", media)


async def test_an_address_that_does_not_answer_takes_the_time_to_connect(
    make: Make, media: QuarantinedMedia
) -> None:
    with ExitStack() as sockets:
        deaf = sockets.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        # Linux drops what comes once the queue of those who wait to be accepted is full.
        for _ in range(4):
            waiting = sockets.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(deaf.getsockname())
        with pytest.raises(FetchTimeoutError):
            await make(fetch_connect_seconds=0.2).fetch(f"http://127.0.0.1:{deaf.getsockname()[1]}/", media)


async def test_a_name_that_keeps_the_system_waiting_is_refused(
    make: Make, media: QuarantinedMedia, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a timeout of a host: nothing was dialled, and inner zones may be the slow ones."""
    release = threading.Event()

    def hang(_name: str) -> list[object]:
        release.wait()
        return []

    monkeypatch.setattr("app.fetch.resolve._look_up", hang)
    with pytest.raises(UrlRefusedError):
        await make(fetch_connect_seconds=0.2).fetch("http://slow.example/", media)
    release.set()


async def test_a_header_is_recorded_once_and_not_at_any_length(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    etags = b"ETag: first\r\nETag: second\r\nDate: " + b"\xfc" * 2000 + b"\r\n"
    host.script("/", says(b"HTTP/1.1 200 OK\r\n" + etags + b"Content-Length: 0\r\n\r\n"))
    provenance = await make().fetch(host.url("/"), media)
    assert dict(provenance.headers) == {"ETag": "first", "Date": "\xfc" * 1024, "Content-Length": "0"}


async def test_no_host_at_a_permitted_address_is_a_failed_fetch(make: Make, media: QuarantinedMedia) -> None:
    with held_port() as port, pytest.raises(FetchFailedError) as caught:
        await make().fetch(f"http://127.0.0.1:{port}/", media)
    assert caught.value.upstream_status is None


async def test_a_connection_reset_halfway_is_a_failed_fetch(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    async def reset(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x" * 10, length=1000))
        await writer.drain()
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )

    host.script("/", reset)
    with pytest.raises(FetchFailedError):
        await make().fetch(host.url("/"), media)


async def test_a_caller_who_goes_away_closes_the_connection(
    host: MediaHost, make: Make, media: QuarantinedMedia
) -> None:
    loop = asyncio.get_running_loop()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"x", length=10))
        loop.call_soon_threadsafe(begun.set)
        with suppress(OSError):
            await reader.read()
        loop.call_soon_threadsafe(ended.set)

    host.script("/", wait)
    fetching = asyncio.create_task(make().fetch(host.url("/"), media))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await asyncio.wait_for(ended.wait(), 5)


async def test_many_fetches_at_once_do_not_mix(host: MediaHost, make: Make) -> None:
    quarantine = Quarantine(64 << 20)
    fetcher = make()
    for number in range(40):
        host.serve(f"/{number}", bytes([number]) * 10_000, "image/png")

    async def fetch(number: int) -> bytes:
        with quarantine.admit(max_bytes=LIMIT, max_video_bytes=LIMIT) as media:
            await fetcher.fetch(host.url(f"/{number}"), media)
            return media.read(0, media.size)

    assert await asyncio.gather(*map(fetch, range(40))) == [bytes([n]) * 10_000 for n in range(40)]
    assert host.connections == 40


async def test_a_slow_name_holds_up_no_other(host: MediaHost, make: Make) -> None:
    host.serve("/", b"here", "image/png")
    with NameServer({"slow.example": Broken(), "cat.example": ["127.0.0.1"]}) as names:
        fetcher = make(fetch_resolver=names.address, fetch_connect_seconds=2)
        quarantine = Quarantine(64 << 20)

        async def fetch(name: str) -> int:
            with quarantine.admit(max_bytes=LIMIT, max_video_bytes=LIMIT) as media:
                await fetcher.fetch(host.url("/", name), media)
                return media.size

        slow = asyncio.gather(*(fetch("slow.example") for _ in range(100)), return_exceptions=True)
        assert await fetch("cat.example") == 4
        assert not slow.done()
        assert {type(outcome) for outcome in await slow} == {UrlRefusedError}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


async def test_tls_names_the_host_while_the_checked_address_is_dialled(
    make: Make, media: QuarantinedMedia, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    certificate = authority.issue_cert("cat.example", "127.0.0.1")
    with (
        MediaHost({"/": (b"here", "image/png")}, ssl_context=_server_context(certificate)) as host,
        NameServer({"cat.example": ["127.0.0.1"]}) as names,
    ):
        fetcher = make(trusting, fetch_resolver=names.address)
        provenance = await fetcher.fetch(host.url("/", "cat.example"), media)
        assert provenance.resolved_address == "127.0.0.1"
        await fetcher.fetch(host.url("/"), media)
        assert host.server_names == ["cat.example", None]
        assert host.asked[0].headers["host"] == f"cat.example:{host.port}"


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_certificate_that_does_not_fit_is_a_failed_fetch(
    make: Make, media: QuarantinedMedia, authority: trustme.CA, trusting: ssl.SSLContext, wrong: str
) -> None:
    issuer = trustme.CA() if wrong == "authority" else authority
    certificate = issuer.issue_cert("dog.example" if wrong == "name" else "cat.example")
    with (
        MediaHost({"/": (b"here", "image/png")}, ssl_context=_server_context(certificate)) as host,
        NameServer({"cat.example": ["127.0.0.1"]}) as names,
    ):
        with pytest.raises(FetchFailedError):
            await make(trusting, fetch_resolver=names.address).fetch(host.url("/", "cat.example"), media)
        assert host.asked == []


async def test_a_redirect_from_https_to_http_is_followed_and_told(
    host: MediaHost,
    make: Make,
    media: QuarantinedMedia,
    authority: trustme.CA,
    trusting: ssl.SSLContext,
) -> None:
    host.serve("/", b"here", "image/png")
    with MediaHost(ssl_context=_server_context(authority.issue_cert("127.0.0.1"))) as safe:
        safe.redirect("/", host.url("/"))
        provenance = await make(trusting).fetch(safe.url("/"), media)
    assert provenance.requested_url == safe.url("/")
    assert provenance.final_url == host.url("/")


async def test_the_authorities_of_the_world_are_trusted_by_default_and_session_keys_kept_to_ourselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", f"{tmp_path}/keys")
    fetcher = Fetcher(FetchSettings())
    context = fetcher._ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) > 50
    assert not context.keylog_filename
    await fetcher.close()
