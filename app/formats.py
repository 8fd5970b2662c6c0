"""The format of a medium, told from its first bytes alone, never from a name or a header.

``tell`` names exactly one format, and only that format's decoder ever sees the medium: bytes that are valid
as two formats at once (polyglots) are read as the one named here. Nothing is promised about the rest of
the bytes; they may be damaged.
"""

from dataclasses import dataclass
from typing import Final, Literal

HEAD_BYTES: Final = 4096
"""How many leading bytes are looked at."""


@dataclass(frozen=True)
class Format:
    """A format Cordon knows by name.

    Attributes:
        name: what a person calls it, in lower case.
        kind: image or video.
        media_type: its type on the wire (RFC 6838).
    """

    name: str
    kind: Literal["image", "video"]
    media_type: str


JPEG: Final = Format("jpeg", "image", "image/jpeg")
PNG: Final = Format("png", "image", "image/png")
GIF: Final = Format("gif", "image", "image/gif")
WEBP: Final = Format("webp", "image", "image/webp")
BMP: Final = Format("bmp", "image", "image/bmp")
TIFF: Final = Format("tiff", "image", "image/tiff")
AVIF: Final = Format("avif", "image", "image/avif")
HEIC: Final = Format("heic", "image", "image/heic")

MP4: Final = Format("mp4", "video", "video/mp4")
MOV: Final = Format("mov", "video", "video/quicktime")
THREE_GP: Final = Format("3gp", "video", "video/3gpp")
WEBM: Final = Format("webm", "video", "video/webm")
MKV: Final = Format("mkv", "video", "video/x-matroska")
AVI: Final = Format("avi", "video", "video/x-msvideo")
MPEG: Final = Format("mpeg", "video", "video/mpeg")
MPEG_TS: Final = Format("mpeg-ts", "video", "video/mp2t")
FLV: Final = Format("flv", "video", "video/x-flv")
WMV: Final = Format("wmv", "video", "video/x-ms-wmv")
OGG: Final = Format("ogg", "video", "video/ogg")

IMAGES: Final = (JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF, HEIC)
"""The formats that Cordon decodes."""

VIDEOS: Final = (MP4, MOV, THREE_GP, WEBM, MKV, AVI, MPEG, MPEG_TS, FLV, WMV, OGG)

_PREFIXES: Final = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"II+\x00", TIFF),
    (b"MM\x00+", TIFF),
    (b"\x00\x00\x01\xba", MPEG),
    (b"\x00\x00\x01\xb3", MPEG),
    (b"FLV\x01", FLV),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", WMV),
)

_BMP_HEADER_SIZES: Final = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""BITMAPCOREHEADER to BITMAPV5HEADER, OS/2's included."""

_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), HEIC),
    **dict.fromkeys((b"qt  ",), MOV),
    **dict.fromkeys(
        (
            *(b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"iso7", b"iso8", b"iso9"),
            *(b"mp41", b"mp42", b"avc1", b"M4V ", b"M4VH", b"M4VP", b"f4v ", b"F4V ", b"mmp4", b"MSNV"),
            *(b"dash", b"cmfc", b"cmf2", b"av01", b"hvc1", b"dby1", b"XAVC", b"NDSC", b"NDSH"),
        ),
        MP4,
    ),
}
"""Brands of ISO base media files (mp4ra.org). The generic ones of HEIF, mif1 and msf1, tell nothing."""

_QUICKTIME_ATOMS: Final = frozenset({b"moov", b"mdat", b"wide", b"pnot"})
"""What a QuickTime file from before 'ftyp' starts with."""

_TS_PACKET_BYTES: Final = 188
_M2TS_PACKET_BYTES: Final = 192


def tell(untrusted_head: bytes) -> Format | None:  # noqa: PLR0911 - one line a family reads best
    """The format of a medium that starts with these bytes, or None if Cordon knows no such format.

    Args:
        untrusted_head: its first bytes; those after the first 4 KiB are ignored.
    """
    head = untrusted_head[:HEAD_BYTES]
    for prefix, told in _PREFIXES:
        if head.startswith(prefix):
            return told
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return BMP
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": AVI}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return _tell_iso_media(head)
    if head[4:8] in _QUICKTIME_ATOMS:
        return MOV
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return WEBM if b"\x42\x82\x84webm" in head else MKV
    if head[:4] == b"OggS":
        # The same container carries plain audio.
        return OGG if b"\x80theora" in head or b"\x01video" in head else None
    if _is_transport_stream(head, 0, _TS_PACKET_BYTES) or _is_transport_stream(head, 4, _M2TS_PACKET_BYTES):
        return MPEG_TS
    return None


def _tell_iso_media(head: bytes) -> Format | None:
    end = min(int.from_bytes(head[:4], "big"), len(head))
    major = head[8:12]
    compatible = [head[start : start + 4] for start in range(16, end - 3, 4)]
    # The major brand is the file's own word for what it is; the others are what else may read it.
    for brand in (major, *compatible):
        if brand in _BRANDS:
            return _BRANDS[brand]
        if brand[:3] in (b"3gp", b"3g2", b"3gg", b"3ge", b"3gs"):
            return THREE_GP
    return None


def _is_transport_stream(head: bytes, start: int, packet_bytes: int) -> bool:
    syncs = head[start : start + 4 * packet_bytes : packet_bytes]
    return syncs == b"\x47" * 4
