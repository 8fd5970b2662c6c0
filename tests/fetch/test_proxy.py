"""Fetching through the one egress proxy: names are its business, addresses and ports stay ours."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
import trustme

from app.errors import FetchFailedError, FetchTimeoutError, UrlRefusedError
from app.fetch.client import Fetcher
from app.fetch.route import Proxy, parse_proxy
from app.media import Provenance
from app.quarantine import Quarantine
from app.settings import FetchSettings, SettingsError
from tests.ports import held_port
from tests.worlds import HttpProxy, MediaHost, SocksProxy, answer, basic, says


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.fetch.client.REFUSAL_SECONDS", 0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def host() -> Iterator[MediaHost]:
    with MediaHost({"/cat.png": (b"cat", "image/png")}) as double:
        yield double


@pytest.fixture
def safe_host(authority: trustme.CA) -> Iterator[MediaHost]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("cat.example").configure_cert(context)
    with MediaHost({"/cat.png": (b"cat", "image/png")}, ssl_context=context) as double:
        yield double


@pytest.fixture(params=["http", "socks5h"])
def proxy(
    request: pytest.FixtureRequest, host: MediaHost, safe_host: MediaHost
) -> Iterator[HttpProxy | SocksProxy]:
    """A proxy of each kind, which leads both ports of cat.example to this machine."""
    hosts = {
        "cat.example": ("127.0.0.1", host.port),
        "safe-cat.example": ("127.0.0.1", safe_host.port),
    }
    with HttpProxy(hosts) if request.param == "http" else SocksProxy(hosts) as double:
        yield double


def _asked_of(proxy: HttpProxy | SocksProxy) -> list[object]:
    return [*proxy.asked]


async def _fetch(
    url: str, proxy_url: str, authority: trustme.CA | None = None, **settings: object
) -> Provenance:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        authority.configure_trust(context)
    values = {"fetch_proxy": proxy_url, "fetch_connect_seconds": 10} | settings
    fetcher = Fetcher(FetchSettings.model_validate(values), ssl_context=context)
    with Quarantine(1 << 20).admit(max_bytes=1000, max_video_bytes=1000) as media:
        try:
            provenance = await fetcher.fetch(url, media)
            assert media.read(0, media.size) == b"cat"
        finally:
            await fetcher.close()
    return provenance


async def test_a_name_goes_to_the_proxy_unresolved(
    host: MediaHost, proxy: HttpProxy | SocksProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = socket.getaddrinfo

    def noted(name: Any, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(str(name))
        return look_up(name, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    provenance = await _fetch("http://cat.example/cat.png", proxy.url)
    assert provenance.via_proxy
    assert (provenance.resolved_address, provenance.resolved_port) == (None, None)
    assert provenance.status == 200
    assert host.asked[0].headers["host"] == "cat.example"
    assert host.asked[0].target == "/cat.png"
    assert looked_up == []
    if isinstance(proxy, SocksProxy):
        assert proxy.asked == [("cat.example", 80)]


async def test_tls_is_agreed_on_with_the_host_behind_the_proxy(
    safe_host: MediaHost, authority: trustme.CA, proxy: HttpProxy | SocksProxy
) -> None:
    proxy.hosts = {"cat.example": ("127.0.0.1", safe_host.port)}
    await _fetch("https://cat.example/cat.png", proxy.url, authority)
    assert safe_host.server_names == ["cat.example"]
    if isinstance(proxy, HttpProxy):
        assert proxy.asked[0].method == "CONNECT"
        assert proxy.asked[0].target == "cat.example:443"


async def test_a_redirect_is_checked_and_goes_through_the_proxy_too(
    host: MediaHost, proxy: HttpProxy | SocksProxy
) -> None:
    host.redirect("/here", "http://cat.example/cat.png")
    host.redirect("/inside", "http://10.0.0.1/")
    provenance = await _fetch("http://cat.example/here", proxy.url)
    assert provenance.final_url == "http://cat.example/cat.png"
    asked = len(_asked_of(proxy))
    with pytest.raises(UrlRefusedError):
        await _fetch("http://cat.example/inside", proxy.url)
    assert len(_asked_of(proxy)) == asked + 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://printer.local/",
        "http://db.internal/",
        "http://metadata.google.internal/",
        "http://metadata.tencentyun.com/",
        "http://kubernetes.default.svc/",
        "http://vault/",
        "http://cat.example:22/",
        "http://cat.example:8080/",
        "http://user:password@cat.example/",
        "ftp://cat.example/",
    ],
)
@pytest.mark.parametrize("allowed", ["", "192.0.2.0/24"])
async def test_what_is_refused_never_reaches_the_proxy(
    proxy: HttpProxy | SocksProxy, url: str, allowed: str
) -> None:
    with pytest.raises(UrlRefusedError):
        await _fetch(url, proxy.url, fetch_allow=allowed)
    assert _asked_of(proxy) == []
    assert proxy.connections == 0


async def test_a_literal_address_that_is_permitted_goes_to_the_proxy(
    host: MediaHost, proxy: HttpProxy | SocksProxy
) -> None:
    proxy.hosts = {"93.184.216.34": ("127.0.0.1", host.port), "10.0.0.1": ("127.0.0.1", host.port)}
    await _fetch("http://93.184.216.34/cat.png", proxy.url)
    await _fetch("http://10.0.0.1/cat.png", proxy.url, fetch_allow="10.0.0.0/8")


async def test_an_ipv6_address_is_asked_of_a_proxy_as_urls_write_it(
    host: MediaHost, authority: trustme.CA, proxy: HttpProxy | SocksProxy
) -> None:
    literal = "2606:4700:4700::1111"
    name = f"[{literal}]" if isinstance(proxy, HttpProxy) else literal
    proxy.hosts = {name: ("127.0.0.1", host.port)}
    await _fetch(f"http://[{literal}]/cat.png", proxy.url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(literal).configure_cert(context)
    with MediaHost({"/cat.png": (b"cat", "image/png")}, ssl_context=context) as safe:
        proxy.hosts = {name: ("127.0.0.1", safe.port)}
        await _fetch(f"https://[{literal}]/cat.png", proxy.url, authority)
    assert host.asked[0].headers["host"] == f"[{literal}]"


HTTP_SAYS: dict[str, bytes | None] = {
    "denied.example": answer(b"denied.example is inside", status="403 Forbidden"),
    "failed.example": answer(status="503 Cannot connect"),
    "unknown.example": answer(status="404 No such domain"),
    "closes.example": b"",
    "garbage.example": b"\x00\x01\x02",
    "wants-credentials.example": answer(status="407 Who are you"),
    "hangs.example": None,
}
SOCKS_SAYS = {
    "denied.example": 2,
    "failed.example": 5,
    "unknown.example": 4,
    "ttl.example": 6,
    "odd-code.example": 99,
    "hangs.example": None,
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", [*HTTP_SAYS, "no-such-name.example"])
async def test_whatever_an_http_proxy_says_of_a_name_is_a_refusal(name: str, scheme: str) -> None:
    """Else the proxy's errors would list the names that it can resolve and we may not."""
    with HttpProxy({}, says=HTTP_SAYS) as proxy:
        with pytest.raises(UrlRefusedError) as caught:
            await _fetch(
                f"{scheme}://{name}/", proxy.url, fetch_connect_seconds=0.3, fetch_first_byte_seconds=0.3
            )
        assert len(proxy.asked) == 1
    assert caught.value.detail == "This URL cannot be fetched."
    assert name not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", [*SOCKS_SAYS, "no-such-name.example"])
async def test_whatever_a_socks_proxy_says_of_a_name_is_a_refusal(name: str, scheme: str) -> None:
    with SocksProxy({}, says=SOCKS_SAYS) as proxy:
        with pytest.raises(UrlRefusedError) as caught:
            await _fetch(f"{scheme}://{name}/", proxy.url, fetch_connect_seconds=0.3)
        assert len(proxy.asked) == 1
    assert caught.value.detail == "This URL cannot be fetched."
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", [404, 500])
async def test_a_hosts_own_failure_is_told_where_it_cannot_be_the_proxys(
    host: MediaHost, safe_host: MediaHost, authority: trustme.CA, proxy: HttpProxy | SocksProxy, status: int
) -> None:
    """Through a tunnel only the host speaks; an HTTP proxy that forwards may have answered itself."""
    proxy.hosts = {"cat.example": ("127.0.0.1", safe_host.port)}
    refuses = says(answer(status=f"{status} No"))
    safe_host.script("/gone", refuses)
    with pytest.raises(FetchFailedError) as caught:
        await _fetch("https://cat.example/gone", proxy.url, authority)
    assert caught.value.upstream_status == status
    proxy.hosts = {"cat.example": ("127.0.0.1", host.port)}
    host.script("/gone", refuses)
    with pytest.raises(UrlRefusedError if isinstance(proxy, HttpProxy) else FetchFailedError):
        await _fetch("http://cat.example/gone", proxy.url)


async def test_a_host_behind_the_proxy_that_is_silent_or_unknown_to_tls_fails_as_a_host_does(
    host: MediaHost, safe_host: MediaHost, proxy: HttpProxy | SocksProxy
) -> None:
    async def silent(*_: object) -> None:
        await asyncio.Event().wait()

    proxy.hosts = {"cat.example": ("127.0.0.1", safe_host.port)}
    with pytest.raises(FetchFailedError):
        await _fetch("https://cat.example/cat.png", proxy.url)
    proxy.hosts = {"cat.example": ("127.0.0.1", host.port)}
    host.script("/silent", silent)
    with pytest.raises(UrlRefusedError if isinstance(proxy, HttpProxy) else FetchTimeoutError):
        await _fetch("http://cat.example/silent", proxy.url, fetch_first_byte_seconds=0.2)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_a_proxy_that_cannot_be_reached_is_no_refusal(scheme: str) -> None:
    """It says nothing of the URL, and whoever runs the service must see it."""
    with held_port() as port, pytest.raises(FetchFailedError, match="CORDON_FETCH_PROXY"):
        await _fetch("http://cat.example/", f"{scheme}://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_credentials_go_to_an_http_proxy_and_no_further(
    host: MediaHost, safe_host: MediaHost, authority: trustme.CA, scheme: str
) -> None:
    there = host if scheme == "http" else safe_host
    with HttpProxy({"cat.example": ("127.0.0.1", there.port)}) as proxy:
        url = proxy.url.replace("//", "//ada:pass%40word@")
        await _fetch(f"{scheme}://cat.example/cat.png", url, authority)
        assert proxy.asked[0].headers["proxy-authorization"] == basic("ada", "pass@word")
    if scheme == "https":
        assert "proxy-authorization" not in there.asked[0].headers


async def test_credentials_go_to_a_socks_proxy(host: MediaHost) -> None:
    hosts = {"cat.example": ("127.0.0.1", host.port)}
    with SocksProxy(hosts, credentials=(b"ada", b"pass@word")) as proxy:
        await _fetch("http://cat.example/cat.png", proxy.url.replace("//", "//ada:pass%40word@"))
        assert proxy.given == [(b"ada", b"pass@word")]
        for wrong in ("", "ada:wrong@"):
            with pytest.raises(UrlRefusedError):
                await _fetch("http://cat.example/cat.png", proxy.url.replace("//", f"//{wrong}"))


async def test_giving_up_on_a_proxy_closes_the_connection() -> None:
    """Neither kind of failure below may leave a socket behind; pytest makes the warning an error."""
    with SocksProxy({}, says={"hangs.example": None}) as proxy:
        for name in ("hangs.example", "no-such-name.example"):
            with pytest.raises(UrlRefusedError):
                await _fetch(f"http://{name}/", proxy.url, fetch_connect_seconds=0.2)
        proxy.wait_until_idle()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("http://proxy.example", Proxy("http", "proxy.example", 80, None)),
        ("http://proxy.example:3128/", Proxy("http", "proxy.example", 3128, None)),
        ("socks5h://[2001:db8::1]:9050", Proxy("socks5h", "2001:db8::1", 9050, None)),
        ("socks5h://a%3A:b@proxy.example", Proxy("socks5h", "proxy.example", 1080, (b"a:", b"b"))),
    ],
)
def test_the_setting_names_a_proxy(setting: str, expected: Proxy) -> None:
    assert parse_proxy(setting) == expected


@pytest.mark.parametrize(
    "setting",
    [
        "http://",
        "http://:3128",
        "http://proxy.example:x",
        "http://proxy.example:65536",
        "http://proxy.example/path",
        "https://proxy.example",
        "socks5://proxy.example",
        "http://[proxy.example",
        "http://secret:" + "x" * 256 + "@proxy.example",
    ],
)
def test_a_setting_that_names_none_is_refused_without_being_repeated(setting: str) -> None:
    with pytest.raises(SettingsError, match="CORDON_FETCH_PROXY") as caught:
        parse_proxy(setting)
    assert "proxy.example" not in str(caught.value)
    assert "secret" not in repr(parse_proxy("http://secret:secret@secret.example"))
