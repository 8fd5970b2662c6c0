"""Promise 7 from the attacker's side: whatever the URL, nothing inner is reached, and no refusal tells why.

``127.0.0.1`` stands for the Internet here: it alone is permitted. On ``127.0.0.2`` and ``::1`` wait doubles
of inner services on the same port; their logs, and a record of each connect, are the proof.
"""

import io
import json
import logging
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.rcode
import pytest

import app.log
from app.errors import CordonError, UrlRefusedError
from app.fetch.client import REFUSAL_SECONDS, Fetcher
from app.media import Provenance
from app.quarantine import Quarantine
from app.settings import FetchSettings
from tests.worlds import Alias, Broken, MediaHost, NameServer, Records, Turns

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "hostile_urls.json").read_text(encoding="utf-8")
)
FRONT_DOOR = "only at the front door"
URLS = [url for group, urls in VECTORS.items() if group != "//" for url in urls]
# A header cannot carry these; what it is split into was not sent by the host.
REDIRECTED = [
    url
    for group, urls in VECTORS.items()
    if group not in {"//", FRONT_DOOR}
    for url in urls
    if not set(url) & set("\r\n\x00")
]

ZONE: dict[str, Records] = {
    "picture.evil.example": ["127.0.0.1"],
    "loopback.evil.example": ["127.0.0.2"],
    "loopback6.evil.example": ["::1"],
    "mapped.evil.example": ["::ffff:127.0.0.2"],
    "nat64.evil.example": ["64:ff9b::7f00:2"],
    "inner.evil.example": ["10.1.2.3"],
    "metadata.evil.example": ["169.254.169.254"],
    "one-bad.evil.example": ["127.0.0.1", "127.0.0.2"],
    "one-bad6.evil.example": ["127.0.0.1", "::1"],
    "alias.evil.example": Alias("loopback.evil.example"),
    "bare-alias.evil.example": Alias("loopback.evil.example", bare=True),
    "alias-loop.evil.example": Alias("alias-loop.evil.example"),
    "nothing.evil.example": [],
    "broken.evil.example": Broken(dns.rcode.SERVFAIL),
    "silent.evil.example": Broken(),
    "rebinding.evil.example": Turns(["127.0.0.1"], ["127.0.0.2"]),
}

_connected: list[str] = []


@pytest.fixture(autouse=True)
def _hear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note each connect before it is made.

    An audit hook would hear the same, but stays for good, and with one CPython 3.11 now and then fails to
    start a thread under coverage.
    """
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def noted_connect(dialling: socket.socket, address: Any) -> None:
        _note(address)
        connect(dialling, address)

    def noted_connect_ex(dialling: socket.socket, address: Any) -> int:
        _note(address)
        return connect_ex(dialling, address)

    _connected.clear()
    monkeypatch.setattr(socket.socket, "connect", noted_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", noted_connect_ex)


def _note(address: object) -> None:
    if isinstance(address, tuple):
        _connected.append(address[0])


@dataclass
class World:
    permitted: MediaHost
    inner: list[MediaHost]
    names: NameServer
    fetcher: Fetcher

    async def fetch(self, url: str) -> Provenance:
        with Quarantine(1 << 20).admit(max_bytes=1 << 16, max_video_bytes=1 << 16) as media:
            return await self.fetcher.fetch(url, media)

    async def refusal(self, url: str) -> UrlRefusedError:
        """Fetch what must be refused, and look at what was left behind."""
        _connected.clear()
        with pytest.raises(UrlRefusedError) as caught:
            await self.fetch(url)
        assert not any(double.connections for double in self.inner)
        assert set(_connected) <= {"127.0.0.1"}, "something inner was dialled"
        return caught.value


def _fetcher(settings: Mapping[str, object]) -> Fetcher:
    # Loading the world's authorities takes longer than all the rest.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return Fetcher(FetchSettings.model_validate(settings), ssl_context=context)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        permitted = stack.enter_context(MediaHost())
        inner = [
            stack.enter_context(
                MediaHost({"/": (b"secret", "text/plain")}, address=address, port=permitted.port)
            )
            for address in ("127.0.0.2", "::1")
        ]
        names = stack.enter_context(NameServer(ZONE))
        settings = {
            "fetch_allow": "127.0.0.1/32",
            "fetch_ports": "*",
            "fetch_resolver": names.address,
        }
        yield World(permitted, inner, names, _fetcher(settings))


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold no refusal back; one test below looks at that."""
    monkeypatch.setattr("app.fetch.client.REFUSAL_SECONDS", 0)


def test_the_table_holds_the_vectors_that_were_asked_for() -> None:
    assert len(set(URLS)) == len(URLS) >= 80


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("url", URLS, ids=ascii)
async def test_a_hostile_url_is_refused_like_every_other(world: World, url: str) -> None:
    error = await world.refusal(url.replace("{port}", str(world.permitted.port)))
    assert (error.code, error.detail) == ("url_refused", "This URL cannot be fetched.")


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("url", REDIRECTED, ids=ascii)
async def test_a_redirect_to_a_hostile_url_is_refused_like_every_other(world: World, url: str) -> None:
    location = url.replace("{port}", str(world.permitted.port))
    world.permitted.redirect("/away", location)
    error = await world.refusal(world.permitted.url("/away"))
    assert (error.code, error.detail) == ("url_refused", "This URL cannot be fetched.")


@pytest.mark.usefixtures("_at_once")
async def test_a_chain_of_good_redirects_earns_no_trust(world: World) -> None:
    for step in range(4):
        world.permitted.redirect(f"/{step}", f"/{step + 1}", status=307)
    world.permitted.redirect("/4", f"http://127.0.0.2:{world.permitted.port}/", status=308)
    asked = len(world.permitted.asked)
    await world.refusal(world.permitted.url("/0"))
    assert [request.path for request in world.permitted.asked[asked:]] == ["/0", "/1", "/2", "/3", "/4"]


async def test_a_name_that_changes_between_check_and_dial_is_dialled_as_checked(world: World) -> None:
    """DNS rebinding: the second look-up would lead inside, so there must not be one."""
    world.permitted.serve("/picture", b"picture", "image/png")
    provenance = await world.fetch(world.permitted.url("/picture", "rebinding.evil.example"))
    assert provenance.resolved_address == "127.0.0.1"
    assert "127.0.0.1" in _connected
    assert world.names.looked_up("rebinding.evil.example") == 1
    # The next fetch looks again, and sees that the name leads inside by now.
    await world.refusal(world.permitted.url("/picture", "rebinding.evil.example"))


async def test_a_redirect_to_the_same_name_is_looked_up_and_checked_anew(world: World) -> None:
    world.names.names["again.evil.example"] = Turns(["127.0.0.1"], ["127.0.0.2"])
    here = world.permitted.url("/again", "again.evil.example")
    world.permitted.redirect("/again", here)
    await world.refusal(here)
    assert world.names.looked_up("again.evil.example") == 2


async def test_a_name_whose_resolver_is_silent_is_refused_within_the_time_to_connect(world: World) -> None:
    fetcher = _fetcher({"fetch_resolver": world.names.address, "fetch_connect_seconds": 1})
    began = time.monotonic()
    await World(world.permitted, world.inner, world.names, fetcher).refusal("http://silent.evil.example/")
    assert time.monotonic() - began < 10
    await fetcher.close()


async def test_refusals_that_took_a_look_up_are_all_held_back(world: World) -> None:
    """Else a name that exists on an inner network is told from one that does not by the clock."""
    for name in ("inner", "no-such-name", "loopback", "one-bad"):
        began = time.monotonic()
        await world.refusal(f"http://{name}.evil.example/")
        assert time.monotonic() - began >= REFUSAL_SECONDS


@pytest.mark.parametrize("port", [22, 25, 3306, 6379, 8080, 8443])
async def test_ports_beyond_the_web_are_refused_by_default(world: World, port: int) -> None:
    fetcher = _fetcher({"fetch_allow": "127.0.0.1/32"})
    _connected.clear()
    with Quarantine(1 << 20).admit(max_bytes=1, max_video_bytes=1) as media:
        for url in (f"http://127.0.0.1:{port}/", f"https://127.0.0.1:{port}/", f"http://localhost:{port}/"):
            with pytest.raises(UrlRefusedError):
                await fetcher.fetch(url, media)
    await fetcher.close()
    assert _connected == []


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/",
        "http://localhost./",
        "http://LocalHost/",
        "http://a.localhost/",
        "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "http://printer.local/",
        "http://db.internal/",
        "http://metadata.google.internal/",
        "http://facebookwkhpilnemxj7asaniu7vnjjbiltxjqhye3mhbshg7kx5tfyd.onion/",
        "http://router.home.arpa/",
        "http://1.0.0.127.in-addr.arpa/",
        "http://vault/",
    ],
)
async def test_inner_names_are_not_even_looked_up_where_nothing_is_permitted_by_hand(
    world: World, url: str
) -> None:
    fetcher = _fetcher({"fetch_resolver": world.names.address})
    looked_up = len(world.names.asked)
    media = Quarantine(1 << 20).admit(max_bytes=1, max_video_bytes=1)
    with media, pytest.raises(UrlRefusedError):
        await fetcher.fetch(url, media)
    assert len(world.names.asked) == looked_up


@pytest.mark.usefixtures("_at_once")
async def test_no_error_carries_the_host_or_its_address_in_text_or_chain(world: World) -> None:
    """Errors travel to logs; a cause or context would bring the library's text along."""
    world.permitted.script("/closes", _close)
    canaries = ["canary", "127.0.0", "evil", str(world.permitted.port)]
    for url in (
        f"http://canary.evil.example:{world.permitted.port}/canary",
        "http://canary-of-127.0.0.2/",
        world.permitted.url("/closes?canary"),
        "http://127.0.0.1:1/canary",
        f"https://127.0.0.1:{world.permitted.port}/canary",
    ):
        with pytest.raises(CordonError) as caught:
            await world.fetch(url)
        told = " ".join(repr(error) + str(vars(error)) for error in _chain(caught.value))
        assert not [canary for canary in canaries if canary in told]


async def test_what_libraries_say_of_urls_is_dropped_from_the_log(world: World) -> None:
    """The library names hosts at level DEBUG; the first half proves that there is something to drop."""
    world.names.names["canary.evil.example"] = ["127.0.0.1"]
    world.permitted.serve("/picture", b"picture", "image/png")
    url = world.permitted.url("/picture?canary", "canary.evil.example")
    loggers = [logging.getLogger(), logging.getLogger("httpcore"), logging.getLogger("app")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    said, logged = io.StringIO(), io.StringIO()
    try:
        for stream, is_ours in ((said, False), (logged, True)):
            app.log.configure("debug", stream)
            if not is_ours:
                logging.getLogger().handlers[0].setFormatter(logging.Formatter())
                logging.getLogger("httpcore").setLevel(logging.DEBUG)
            await world.fetch(url)
            # However loud somebody made the library meanwhile.
            logging.getLogger("httpcore").setLevel(logging.DEBUG)
            await world.fetch(url)
    finally:
        sys.excepthook = sys.__excepthook__
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
    assert "canary" in said.getvalue()
    assert "library_message" in logged.getvalue()
    assert "canary" not in logged.getvalue()


async def _close(*_: object) -> None:
    """Answer nothing."""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
