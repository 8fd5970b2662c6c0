"""How names become addresses, by the system and by a DNS server of one's own."""

import asyncio
import threading
from collections.abc import Sequence
from ipaddress import ip_address

import dns.rcode
import pytest

from app.errors import OverloadedError
from app.fetch import resolve
from app.fetch.resolve import DnsResolver, SystemResolver
from app.settings import SettingsError
from tests.worlds import Alias, Broken, NameServer, Records

NAMES: dict[str, Records] = {
    "both.example": ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
    "four.example": ["192.0.2.4"],
    "six.example": ["2001:db8::6"],
    "alias.example": Alias("both.example"),
    "bare.example": Alias("step.example", bare=True),
    "step.example": Alias("four.example", bare=True),
    "loop.example": Alias("loop.example"),
    "bare-loop.example": Alias("other-loop.example", bare=True),
    "other-loop.example": Alias("bare-loop.example", bare=True),
    "astray.example": Alias("no-such-name.example"),
    "empty.example": [],
    "servfail.example": Broken(dns.rcode.SERVFAIL),
    "refused.example": Broken(dns.rcode.REFUSED),
    "silent.example": Broken(),
    "x_y.example": ["192.0.2.9"],
}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("both.example", ["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        ("BOTH.example", ["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        ("four.example", ["192.0.2.4"]),
        ("six.example", ["2001:db8::6"]),
        ("alias.example", ["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
        ("bare.example", ["192.0.2.4"]),
        ("x_y.example", ["192.0.2.9"]),
        ("loop.example", []),
        ("bare-loop.example", []),
        ("astray.example", []),
        ("empty.example", []),
        ("servfail.example", []),
        ("refused.example", []),
        ("silent.example", []),
        ("no-such-name.example", []),
        ("four", []),
        ("a" * 64 + ".example", []),
    ],
)
async def test_a_dns_server_is_asked_for_all_addresses(name: str, addresses: Sequence[str]) -> None:
    with NameServer(NAMES) as names:
        resolver = DnsResolver(names.address, 0.2 if name == "silent.example" else 5)
        assert set(await resolver.addresses(name)) == {ip_address(address) for address in addresses}
        resolver.close()
    # No search list: what is asked is the name itself, or what its alias says.
    assert {asked for asked, _ in names.asked} <= {name.lower(), *NAMES, "no-such-name.example"}


async def test_a_dns_server_that_is_not_there_knows_no_names() -> None:
    with NameServer({}) as names:
        port = names.port
    assert await DnsResolver(f"127.0.0.1:{port}", 0.2).addresses("four.example") == []


@pytest.mark.parametrize(
    ("setting", "server", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("192.0.2.53:5353", "192.0.2.53", 5353),
        ("2001:db8::53", "2001:db8::53", 53),
        ("[2001:db8::53]", "2001:db8::53", 53),
        ("[2001:db8::53]:5353", "2001:db8::53", 5353),
    ],
)
def test_the_setting_names_an_address_and_perhaps_a_port(setting: str, server: str, port: int) -> None:
    resolver = DnsResolver(setting, 1)._resolver
    assert (resolver.nameservers, resolver.port) == ([server], port)


@pytest.mark.parametrize(
    "setting", ["", "dns.example", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:x", ":53"]
)
def test_a_setting_that_names_none_is_refused_without_being_repeated(setting: str) -> None:
    with pytest.raises(SettingsError, match="CORDON_FETCH_RESOLVER") as caught:
        DnsResolver(setting, 1)
    assert "dns.example" not in str(caught.value)


async def test_the_system_is_asked_where_no_server_is_set() -> None:
    resolver = SystemResolver()
    assert ip_address("127.0.0.1") in await resolver.addresses("localhost")
    assert await resolver.addresses("no-such-name.invalid") == []
    assert await resolver.addresses("a" * 64 + ".invalid") == []
    resolver.close()


async def test_names_that_keep_the_system_waiting_take_only_their_own_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look-up by the system cannot be cancelled, so those that nobody waits for any more still count."""
    release = threading.Event()

    def hang(_name: str) -> list[object]:
        release.wait()
        return []

    monkeypatch.setattr(resolve, "_look_up", hang)
    resolver = SystemResolver()
    waiting = [
        asyncio.create_task(resolver.addresses(f"{n}.example")) for n in range(resolve._SYSTEM_THREADS)
    ]
    await asyncio.sleep(0)
    waiting[0].cancel()
    with pytest.raises(OverloadedError):
        await resolver.addresses("one-more.example")
    assert await asyncio.to_thread(int, "1") == 1, "the loop's own threads are taken"
    release.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await asyncio.to_thread(resolver._free.acquire, timeout=10), "a thread was not given back"
    resolver.close()
