"""May this address be dialled, and if not, why not. Pure: no look-up, no socket.

Only global unicast may be. The tables are our own, since ``ipaddress.is_global`` has holes that differ by
patch release; it serves as a second opinion. They hold every block of the IANA IPv4 and IPv6
Special-Purpose Address Registries (of 2025-10-09), those that are globally reachable too (nobody keeps
pictures on an AS112 server), and beyond them multicast, what was deprecated or returned, forms that carry
an IPv4 address to wherever a translator leads, and the one cloud metadata service on a public address.

It cannot know translators that a network runs under a prefix of its own (RFC 6052, section 2.2).
"""

from collections.abc import Collection
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressKind(StrEnum):
    """What an address is; all but the first two kinds are refused."""

    GLOBAL = "global unicast"
    ALLOWED = "allowed by CORDON_FETCH_ALLOW"
    UNSPECIFIED = "unspecified"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    SHARED = "shared by carriers"
    LINK_LOCAL = "link-local"
    SITE_LOCAL = "site-local"
    MULTICAST = "multicast"
    DOCUMENTATION = "for documentation"
    BENCHMARKING = "for benchmarks"
    PROTOCOL = "used by a protocol"
    TRANSLATED = "translated to IPv4"
    METADATA = "cloud metadata"
    RESERVED = "reserved"

    @property
    def may_be_dialled(self) -> bool:
        """Whether a connection may be tried."""
        return self in {AddressKind.GLOBAL, AddressKind.ALLOWED}


_IPV4: Final = (
    (IPv4Network("0.0.0.0/8"), AddressKind.UNSPECIFIED),
    (IPv4Network("10.0.0.0/8"), AddressKind.PRIVATE),
    (IPv4Network("100.64.0.0/10"), AddressKind.SHARED),
    (IPv4Network("127.0.0.0/8"), AddressKind.LOOPBACK),
    # Azure's host agent answers every virtual machine here, on an address of the public Internet.
    (IPv4Network("168.63.129.16/32"), AddressKind.METADATA),
    (IPv4Network("169.254.0.0/16"), AddressKind.LINK_LOCAL),
    (IPv4Network("172.16.0.0/12"), AddressKind.PRIVATE),
    (IPv4Network("192.0.0.0/24"), AddressKind.PROTOCOL),
    (IPv4Network("192.0.2.0/24"), AddressKind.DOCUMENTATION),
    (IPv4Network("192.31.196.0/24"), AddressKind.PROTOCOL),
    (IPv4Network("192.52.193.0/24"), AddressKind.PROTOCOL),
    (IPv4Network("192.88.99.0/24"), AddressKind.TRANSLATED),
    (IPv4Network("192.168.0.0/16"), AddressKind.PRIVATE),
    (IPv4Network("192.175.48.0/24"), AddressKind.PROTOCOL),
    (IPv4Network("198.18.0.0/15"), AddressKind.BENCHMARKING),
    (IPv4Network("198.51.100.0/24"), AddressKind.DOCUMENTATION),
    (IPv4Network("203.0.113.0/24"), AddressKind.DOCUMENTATION),
    (IPv4Network("224.0.0.0/4"), AddressKind.MULTICAST),
    (IPv4Network("240.0.0.0/4"), AddressKind.RESERVED),
)

# The first that fits names the kind, so narrower blocks stand before the wider ones that hold them.
_IPV6: Final = (
    (IPv6Network("::/128"), AddressKind.UNSPECIFIED),
    (IPv6Network("::1/128"), AddressKind.LOOPBACK),
    (IPv6Network("::/96"), AddressKind.TRANSLATED),  # IPv4-compatible, RFC 4291, section 2.5.5.1
    (IPv6Network("::ffff:0:0/96"), AddressKind.TRANSLATED),  # IPv4-mapped, RFC 4291, section 2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), AddressKind.TRANSLATED),  # IPv4-translated, RFC 2765, section 2.1
    (IPv6Network("64:ff9b::/96"), AddressKind.TRANSLATED),  # NAT64, RFC 6052
    (IPv6Network("64:ff9b:1::/48"), AddressKind.TRANSLATED),  # NAT64, RFC 8215
    (IPv6Network("100::/64"), AddressKind.RESERVED),
    (IPv6Network("100:0:0:1::/64"), AddressKind.RESERVED),
    (IPv6Network("2001::/32"), AddressKind.TRANSLATED),  # Teredo, RFC 4380
    (IPv6Network("2001:2::/48"), AddressKind.BENCHMARKING),
    (IPv6Network("2001::/23"), AddressKind.PROTOCOL),
    (IPv6Network("2001:db8::/32"), AddressKind.DOCUMENTATION),
    (IPv6Network("2002::/16"), AddressKind.TRANSLATED),  # 6to4, RFC 3056
    (IPv6Network("2620:4f:8000::/48"), AddressKind.PROTOCOL),
    (IPv6Network("3ffe::/16"), AddressKind.RESERVED),  # 6bone, returned by RFC 3701
    (IPv6Network("3fff::/20"), AddressKind.DOCUMENTATION),
    (IPv6Network("5f00::/16"), AddressKind.PROTOCOL),
    (IPv6Network("fc00::/7"), AddressKind.PRIVATE),
    (IPv6Network("fe80::/10"), AddressKind.LINK_LOCAL),
    (IPv6Network("fec0::/10"), AddressKind.SITE_LOCAL),
    (IPv6Network("ff00::/8"), AddressKind.MULTICAST),
)

_IPV6_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

# ISATAP, RFC 5214, section 6.1: the interface identifier is [02]00:5efe and an IPv4 address. The two bits
# masked out say whether the identifier is universal, and whether it is a group's.
_ISATAP: Final = 0x0000_5EFE
_ISATAP_MASK: Final = 0xFCFF_FFFF


def kind_of(address: Address, allowed: Collection[Network] = ()) -> AddressKind:
    """Tell what an address is, and so whether it may be dialled.

    Args:
        address: IPv4 or IPv6.
        allowed: networks that may be reached although they are not global. An IPv4 network stands for the
            IPv4-mapped form of its addresses too, and for no other form.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        # A zone names an interface of this machine; nothing on the Internet is reached by one.
        return AddressKind.LINK_LOCAL
    if _is_allowed(address, allowed):
        return AddressKind.ALLOWED
    if isinstance(address, IPv4Address):
        kind = next((kind for network, kind in _IPV4 if address in network), AddressKind.GLOBAL)
    else:
        kind = next((kind for network, kind in _IPV6 if address in network), _rest_of_ipv6(address))
    if kind is AddressKind.GLOBAL and not address.is_global:
        return AddressKind.RESERVED
    return kind


def _is_allowed(address: Address, allowed: Collection[Network]) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return any(address in network or (mapped is not None and mapped in network) for network in allowed)


def _rest_of_ipv6(address: IPv6Address) -> AddressKind:
    if address not in _IPV6_GLOBAL_UNICAST:
        return AddressKind.RESERVED
    if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
        return AddressKind.TRANSLATED
    return AddressKind.GLOBAL
