"""Media and words that can be told from all others, and the search for them in whatever was written.

A medium carries its marker, 16 random bytes, again and again: in comments and padding, and as the grey
levels of two bands of its picture. So any part of it that is written somewhere shows, as bytes or as decoded
pixels, plain, in hex, in base64 or deflated.
"""

import base64
import hashlib
import io
import re
import secrets
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.pictures import scene
from tests.gates import signals_of

Pixels = NDArray[np.uint8]

KIB, MIB = 1024, 1024 * 1024
WIDTH, HEIGHT, BAND = 480, 320, 8
MARKER_BYTES = 16
WINDOW = 8
"""The least length of a canary, in bytes: what the search compares first."""


class Canaries:
    """Byte strings that must not be found, each with the name to tell of it by."""

    def __init__(self, names: Mapping[bytes, str]) -> None:
        assert min(map(len, names)) >= WINDOW
        self._names = dict(names)
        self._by_window: dict[int, list[bytes]] = {}
        for canary in names:
            window = int.from_bytes(canary[:WINDOW], "little")
            self._by_window.setdefault(window, []).append(canary)
        self._windows = np.sort(np.fromiter(self._by_window, np.uint64))
        self._may_begin = np.zeros(1 << 24, np.bool_)
        self._may_begin[_slots(self._windows)] = True

    def __or__(self, others: "Canaries") -> "Canaries":
        return Canaries(self._names | others._names)

    def found_in(self, written: bytes) -> set[str]:
        """The names of the canaries in these bytes, and in what they are the deflated form of."""
        return self._found_in(written).union(*map(self._found_in, _inflated(written)))

    def _found_in(self, written: bytes) -> set[str]:
        """Thousands of canaries are looked for at once, so no search for one after the other will do."""
        found = set()
        for offset in range(min(WINDOW, max(len(written) - WINDOW + 1, 0))):
            count = (len(written) - offset) // WINDOW
            windows = np.frombuffer(written, "<u8", count, offset)
            likely = np.flatnonzero(self._may_begin[_slots(windows)])
            for place in likely[np.isin(windows[likely], self._windows)].tolist():
                start = offset + place * WINDOW
                for canary in self._by_window[int(windows[place])]:
                    if written.startswith(canary, start):
                        found.add(self._names[canary])
        return found


def _slots(windows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    slots: NDArray[np.uint64] = windows ^ (windows >> np.uint64(24)) ^ (windows >> np.uint64(45))
    return slots & np.uint64((1 << 24) - 1)


def _inflated(written: bytes) -> Iterable[bytes]:
    """What follows each header of zlib's or gzip's, inflated."""
    for header in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", written):
        start = header.start()
        try:
            inflated = zlib.decompressobj(wbits=47).decompress(written[start : start + 64 * KIB], 64 * KIB)
        except zlib.error:
            continue
        if inflated:
            yield inflated


def media_canaries(name: str, marker: bytes) -> Canaries:
    """The forms in which a part of a marked medium may be written."""

    def times(count: int, then: bytes = b"") -> bytes:
        return b"".join(marker[place : place + 1] * count + then for place in range(MARKER_BYTES))

    forms = {
        marker: "bytes",
        times(2): "16-bit pixels",
        times(3): "RGB pixels",
        times(3, b"\xff"): "RGBA pixels",
        times(3, b"\x00"): "RGBX pixels",
    }
    return Canaries(
        {form: f"{name} as {what}" for plain, told in forms.items() for form, what in _coded(plain, told)}
    )


def secret_canaries(values: Mapping[str, bytes]) -> Canaries:
    """The forms in which a word or a hash may be written."""
    return Canaries(
        {form: f"{name} as {what}" for name, value in values.items() for form, what in _coded(value, "it is")}
    )


def _coded(plain: bytes, told: str) -> Iterable[tuple[bytes, str]]:
    yield plain, told
    yield plain.hex().encode(), f"{told}, in hex"
    yield plain.hex().upper().encode(), f"{told}, in hex"
    for phase in range(3):
        # What base64 makes of it wherever it stands in a longer text.
        start, end = 4 if phase else 0, (phase + len(plain)) // 3 * 4
        form = base64.b64encode(bytes(phase) + plain)[start:end]
        if len(form) >= WINDOW:
            yield form, f"{told}, in base64"


@dataclass(frozen=True)
class Medium:
    """A file to hand in, and what must become of it.

    Attributes:
        expected: a verdict, or the code of a problem.
    """

    name: str
    content: bytes = field(repr=False)
    media_type: str
    expected: str


class Gallery:
    """Media of any size under one marker, and the one bank entry that matches some of them."""

    def __init__(self) -> None:
        self.marker = secrets.token_bytes(MARKER_BYTES)

    @property
    def entry(self) -> str:
        """A PDQ within the threshold of every match, and that of none: the bank may be read, they may not."""
        pdq = bytearray.fromhex(signals_of(encoded_png(_banded(7, self.marker)))[1]["value"])
        for place in (3, 9, 14, 20, 27, 31):
            pdq[place] ^= 1
        return pdq.hex()

    def match(self, size: int) -> Medium:
        """A medium near the bank's entry."""
        return self._picture("match", 7, size, "match")

    def clear(self, size: int) -> Medium:
        """A medium that no bank has."""
        return self._picture("clear", 21, size, "clear")

    def undecidable(self, size: int) -> Medium:
        """A medium that cannot be decided, each size for a reason of its own."""
        makers = {64 * KIB: self._words, 500_000: self._no_picture, MIB: self._vast, MIB + 1: self._flat}
        return Medium(
            f"undecidable-{size}",
            makers.get(size, self._words)(size),
            "application/octet-stream",
            "undecidable",
        )

    def slow(self) -> bytes:
        """A TIFF of 500 pages of grey markers that takes many seconds to hash, 7 MiB small."""
        width, height, pages, entries = 3000, 2400, 500, 8
        ifd_bytes = 2 + 12 * entries + 4
        data_at = 8 + pages * ifd_bytes
        ifds = []
        for page in range(pages):
            tags = [
                *((256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1)),
                # Each page begins where the last did and one byte on, so that no two are the same.
                *((273, 4, data_at + page), (278, 4, height), (279, 4, width * height)),
            ]
            following = 8 + (page + 1) * ifd_bytes if page + 1 < pages else 0
            body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
            ifds.append(struct.pack("<H", entries) + body + struct.pack("<I", following))
        grey = np.asarray(scene(33).convert("L").resize((width, height))).copy()
        grey[::2] = np.resize(np.frombuffer(self.marker, np.uint8), width)
        return struct.pack("<2sHI", b"II", 42, 8) + b"".join(ifds) + grey.tobytes() + self._marked(pages)

    def _picture(self, name: str, seed: int, size: int, expected: str) -> Medium:
        pixels = _banded(seed, self.marker)
        container, media_type = {
            500_000: (self._bmp, "image/bmp"),
            MIB: (self._png, "image/png"),
            8 * MIB: (self._bmp, "image/bmp"),
        }.get(size, (self._jpeg, "image/jpeg"))
        content = container(pixels, size)
        assert len(content) == size
        return Medium(f"{name}-{size}", content, media_type, expected)

    def _marked(self, size: int) -> bytes:
        return (self.marker * (size // MARKER_BYTES + 1))[:size]

    def _jpeg(self, pixels: Pixels, size: int) -> bytes:
        """Comments before the picture fill it up."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=85)
        picture = file.getvalue()
        return picture[:2] + self._comments(size - len(picture)) + picture[2:]

    def _comments(self, size: int) -> bytes:
        count = -(-size // 65537)
        sizes = [size // count + (number < size % count) for number in range(count)]
        return b"".join(b"\xff\xfe" + struct.pack(">H", each - 2) + self._marked(each - 4) for each in sizes)

    def _png(self, pixels: Pixels, size: int) -> bytes:
        """Pixels stored as they are; texts before them fill it up."""
        height, width, _ = pixels.shape
        rows = b"".join(b"\x00" + row.tobytes() for row in pixels)
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        body = _chunk(b"IDAT", zlib.compress(rows, 0)) + _chunk(b"IEND", b"")
        left = size - len(_PNG) - len(header) - len(body) - 12
        return _PNG + header + _chunk(b"tEXt", (b"Comment\x00" + self._marked(left))[:left]) + body

    def _bmp(self, pixels: Pixels, size: int) -> bytes:
        """Pixels stored as they are; what follows them fills it up."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        return file.getvalue() + self._marked(size - len(file.getvalue()))

    def _words(self, size: int) -> bytes:
        return self._marked(size)

    def _no_picture(self, size: int) -> bytes:
        return b"\xff\xd8" + self._comments(size - 2)

    def _vast(self, size: int) -> bytes:
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
        return _PNG + header + _chunk(b"IDAT", self._marked(size - len(_PNG) - len(header) - 12))

    def _flat(self, size: int) -> bytes:
        return self._bmp(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), size)


_PNG = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@cache
def _banded(seed: int, marker: bytes) -> Pixels:
    """A scene whose first and last rows are grey levels of the marker."""
    pixels = np.asarray(scene(seed).resize((WIDTH, HEIGHT))).copy()
    row = np.resize(np.frombuffer(marker, np.uint8), WIDTH)[:, None]
    pixels[:BAND] = pixels[-BAND:] = row
    return pixels


def encoded_png(pixels: Pixels) -> bytes:
    """Pixels as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Secrets:
    """Words of this run alone, for all that is said of a match."""

    words: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """The word for something, the same whenever it is asked for."""
        if name not in self.words:
            self.words[name] = f"{name}-{secrets.token_hex(6)}"
        return self.words[name]

    def context(self) -> dict[str, Any]:
        """Every key of a context that can hold a word."""
        places = {
            key: f"https://{self[f'{key}-host']}.example/{self[f'{key}-path']}"
            for key in ("source_url", "page_url", "profile_url")
        }
        words = {
            key: self[key] for key in ("platform", "account_id", "account_name", "post_id", "client_ref")
        }
        return places | words | {"uploader_ip": self.address, "tags": [self["tag"]]}

    @property
    def address(self) -> str:
        """The uploader's."""
        return f"2001:db8::f{self['address'][-3:]}:1:f{self['address'][-6:-3]}:1"

    def canaries(self, matches: Iterable[Medium], tokens: Iterable[str] = ()) -> Canaries:
        """These words, the hashes of media that match, and tokens."""
        values = {name: word.encode() for name, word in self.words.items()}
        values["address"] = self.address.encode()
        values |= {f"a token ({number})": token.encode() for number, token in enumerate(tokens)}
        for medium in matches:
            for kind, value in hashes_of(medium.content).items():
                values[f"{kind} of {medium.name}"] = value
        return secret_canaries(values)


@cache
def hashes_of(content: bytes) -> dict[str, bytes]:
    """Digests of a medium, and PDQ and pHash of its picture by the reference implementations."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    return {
        "md5": hashlib.md5(content, usedforsecurity=False).digest(),
        "sha1": hashlib.sha1(content, usedforsecurity=False).digest(),
        "sha256": hashlib.sha256(content).digest(),
        "pdq": bytes.fromhex(signals_of(content)[1]["value"]),
        "phash": bytes.fromhex(str(imagehash.phash(picture))),
    }
