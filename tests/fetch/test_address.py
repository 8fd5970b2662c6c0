"""Which addresses may be dialled, and the reason each other one may not."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fetch.address import AddressKind, kind_of

REGISTRY = [
    # IANA IPv4 Special-Purpose Address Registry, 2025-10-09, each row.
    ("0.0.0.0/8", "unspecified"),
    ("0.0.0.0/32", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "used by a protocol"),
    ("192.0.0.0/29", "used by a protocol"),
    ("192.0.0.8/32", "used by a protocol"),
    ("192.0.0.9/32", "used by a protocol"),
    ("192.0.0.10/32", "used by a protocol"),
    ("192.0.0.170/32", "used by a protocol"),
    ("192.0.0.171/32", "used by a protocol"),
    ("192.0.2.0/24", "for documentation"),
    ("192.31.196.0/24", "used by a protocol"),
    ("192.52.193.0/24", "used by a protocol"),
    ("192.88.99.0/24", "translated to IPv4"),
    ("192.88.99.2/32", "translated to IPv4"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "used by a protocol"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("240.0.0.0/4", "reserved"),
    ("255.255.255.255/32", "reserved"),
    # IANA IPv6 Special-Purpose Address Registry, 2025-10-09, each row.
    ("::1/128", "loopback"),
    ("::/128", "unspecified"),
    ("::ffff:0:0/96", "translated to IPv4"),
    ("64:ff9b::/96", "translated to IPv4"),
    ("64:ff9b:1::/48", "translated to IPv4"),
    ("100::/64", "reserved"),
    ("100:0:0:1::/64", "reserved"),
    ("2001::/32", "translated to IPv4"),
    ("2001:1::1/128", "used by a protocol"),
    ("2001:1::2/128", "used by a protocol"),
    ("2001:1::3/128", "used by a protocol"),
    ("2001:2::/48", "for benchmarks"),
    ("2001:3::/32", "used by a protocol"),
    ("2001:4:112::/48", "used by a protocol"),
    ("2001:10::/28", "used by a protocol"),
    ("2001:20::/28", "used by a protocol"),
    ("2001:30::/28", "used by a protocol"),
    ("2001:db8::/32", "for documentation"),
    ("2002::/16", "translated to IPv4"),
    ("2620:4f:8000::/48", "used by a protocol"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "used by a protocol"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
]
BEYOND = [
    ("224.0.0.0/4", "multicast"),
    ("ff00::/8", "multicast"),
    ("168.63.129.16/32", "cloud metadata"),
    ("fec0::/10", "site-local"),
    ("3ffe::/16", "reserved"),
    ("::ffff:0:0:0/96", "translated to IPv4"),
    ("4000::/3", "reserved"),
    ("200::/7", "reserved"),
]


@pytest.mark.parametrize(("block", "kind"), REGISTRY + BEYOND)
def test_a_special_block_is_refused_from_its_first_address_to_its_last(block: str, kind: str) -> None:
    network = ip_network(block)
    for address in (network[0], network[-1]):
        assert kind_of(address) == kind
        assert not kind_of(address).may_be_dialled


@pytest.mark.parametrize("block", ["2001::/23", "::/96"])
def test_a_block_with_named_parts_is_refused_wherever_one_looks(block: str) -> None:
    network = ip_network(block)
    for number in range(0, network.num_addresses, network.num_addresses // 4096):
        assert not kind_of(network[number]).may_be_dialled


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2000::1",
        "2001:200::",
        "2003::1",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "3ffd:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff:1000::",
    ],
)
def test_addresses_just_outside_the_blocks_are_global(address: str) -> None:
    assert kind_of(ip_address(address)) is AddressKind.GLOBAL


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_reached_by_way_of_an_ipv6_form(address: object) -> None:
    number = int(ip_address(str(address)))
    for form in (
        number,
        0xFFFF << 32 | number,
        0xFFFF << 48 | number,
        0x64FF9B << 96 | number,
        0x64FF9B0001 << 80 | number,
        0x2002 << 112 | number << 80,
        0x20010000 << 96 | number ^ 0xFFFFFFFF,
        0x2607F8B0 << 96 | 0x5EFE << 32 | number,
        0x2607F8B0 << 96 | 0x02005EFE << 32 | number,
        0x2607F8B0 << 96 | 0x03005EFE << 32 | number,
    ):
        assert not kind_of(IPv6Address(form)).may_be_dialled


@given(st.ip_addresses())
def test_what_python_calls_not_global_is_never_dialled(address: object) -> None:
    known = ip_address(str(address))
    assert known.is_global or not kind_of(known).may_be_dialled


@pytest.mark.parametrize(
    ("allowed", "address", "kind"),
    [
        ("127.0.0.0/8", "127.0.0.1", "allowed by CORDON_FETCH_ALLOW"),
        ("127.0.0.0/8", "::ffff:127.0.0.1", "allowed by CORDON_FETCH_ALLOW"),
        ("127.0.0.0/8", "126.0.0.1", "global unicast"),
        ("127.0.0.0/8", "10.0.0.1", "private"),
        ("127.0.0.0/8", "::ffff:10.0.0.1", "translated to IPv4"),
        ("127.0.0.0/8", "::1", "loopback"),
        ("127.0.0.0/8", "::127.0.0.1", "translated to IPv4"),
        ("127.0.0.0/8", "64:ff9b::127.0.0.1", "translated to IPv4"),
        ("127.0.0.0/8", "2002:7f00:1::", "translated to IPv4"),
        ("10.1.0.0/16", "10.2.0.1", "private"),
        ("fd00::/8", "fd00::1", "allowed by CORDON_FETCH_ALLOW"),
        ("fd00::/8", "fc00::1", "private"),
        ("fe80::/10", "fe80::1%eth0", "link-local"),
        ("::/0", "127.0.0.1", "loopback"),
    ],
)
def test_an_allowed_network_frees_its_own_addresses_and_no_others(
    allowed: str, address: str, kind: str
) -> None:
    networks: list[IPv4Network | IPv6Network] = [ip_network(allowed)]
    assert kind_of(ip_address(address), networks) == kind
