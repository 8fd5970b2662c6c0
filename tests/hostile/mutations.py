"""Damage to valid media, the same for the same seed: what a fuzzer sends.

Some of it is blind, some knows how the formats are built: pieces are doubled, dropped and swapped, lengths
lie, and checksums are mended, so that the damage gets past the first check.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from tests.hostile.media import PNG_SIGNATURE, SAMPLES, sample

NAMES = tuple(SAMPLES)


@dataclass(frozen=True)
class Piece:
    """A part of a medium that has a length of its own: a chunk, a segment, a block, a box, a field.

    Attributes:
        length: where its length stands, as a format for ``struct``.
    """

    start: int
    end: int
    length_place: int
    length: str


def mutated(seed: int, number: int) -> tuple[str, bytes]:
    """The name of a sample, and the sample with one to four damages."""
    random = Random(f"{seed}/{number}")
    name = random.choice(NAMES)
    whole = bytearray(sample(name))
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        random.choice(_MUTATIONS)(random, whole)
    if random.random() < 0.9:
        _mend_checksums(whole)
    return name, bytes(whole)


def pieces(whole: bytes | bytearray) -> list[Piece]:
    """What a medium is made of, as far as it can be followed."""
    for start, walk in _WALKS.items():
        if whole.startswith(start):
            return list(walk(whole))
    return list(_boxes(whole, 0, len(whole))) if whole[4:8] == b"ftyp" else []


def _png_chunks(whole: bytes | bytearray) -> Iterator[Piece]:
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(whole):
        end = place + 12 + int.from_bytes(whole[place : place + 4], "big")
        if end > len(whole):
            return
        yield Piece(place, end, place, ">I")
        place = end


def _jpeg_segments(whole: bytes | bytearray) -> Iterator[Piece]:
    place = 2
    while place + 4 <= len(whole) and whole[place] == 0xFF:
        end = place + 2 + int.from_bytes(whole[place + 2 : place + 4], "big")
        yield Piece(place, min(end, len(whole)), place + 2, ">H")
        if whole[place + 1] == 0xDA:
            # What follows the header of a scan has no length: it ends where a marker stands.
            while end + 1 < len(whole) and (whole[end] != 0xFF or whole[end + 1] in (0, *range(0xD0, 0xD8))):
                end += 1
        place = end


def _gif_blocks(whole: bytes | bytearray) -> Iterator[Piece]:
    place = 13 + (3 << (whole[10] & 7) + 1 if len(whole) > 10 and whole[10] & 0x80 else 0)
    while place + 2 < len(whole) and whole[place] in (0x21, 0x2C):
        start = place
        place += 2
        if whole[start] == 0x2C:
            if start + 10 > len(whole):
                return
            place = start + 11 + (3 << (whole[start + 9] & 7) + 1 if whole[start + 9] & 0x80 else 0)
        first = place
        while place < len(whole) and whole[place]:
            place += 1 + whole[place]
        place += 1
        if place > len(whole):
            return
        yield Piece(start, place, first, ">B")


def _riff_chunks(whole: bytes | bytearray) -> Iterator[Piece]:
    place = 12
    while place + 8 <= len(whole):
        length = int.from_bytes(whole[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if end > len(whole):
            return
        yield Piece(place, end, place + 4, "<I")
        place = end


def _tiff_fields(whole: bytes | bytearray) -> Iterator[Piece]:
    place, seen = int.from_bytes(whole[4:8], "little"), set[int]()
    while place and place not in seen and place + 2 <= len(whole):
        seen.add(place)
        end = place + 2 + 12 * int.from_bytes(whole[place : place + 2], "little")
        for start in range(place + 2, min(end, len(whole) - 11), 12):
            yield Piece(start, start + 12, start + 4, "<I")
        place = int.from_bytes(whole[end : end + 4], "little")


def _bmp_parts(whole: bytes | bytearray) -> Iterator[Piece]:
    yield from (Piece(place, place + 4, place, "<I") for place in (2, 10, 14, 18, 22, 30, 34, 46, 50))


_BOXES_OF_BOXES = {b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"}
_FULL_BOXES_OF_BOXES = {b"meta": 12, b"iinf": 14, b"iref": 12, b"stsd": 16}


def _boxes(whole: bytes | bytearray, start: int, stop: int) -> Iterator[Piece]:
    while start + 8 <= stop:
        end = start + int.from_bytes(whole[start : start + 4], "big")
        if not start + 8 <= end <= stop:
            return
        yield Piece(start, end, start, ">I")
        kind = bytes(whole[start + 4 : start + 8])
        if kind in _BOXES_OF_BOXES or kind in _FULL_BOXES_OF_BOXES:
            yield from _boxes(whole, start + _FULL_BOXES_OF_BOXES.get(kind, 8), end)
        start = end


_WALKS: dict[bytes, Callable[[bytes | bytearray], Iterator[Piece]]] = {
    PNG_SIGNATURE: _png_chunks,
    b"\xff\xd8": _jpeg_segments,
    b"GIF8": _gif_blocks,
    b"RIFF": _riff_chunks,
    b"II*\0": _tiff_fields,
    b"BM": _bmp_parts,
}


def _span(random: Random, whole: bytearray) -> tuple[int, int]:
    start = random.randrange(len(whole) + 1)
    return start, min(len(whole), start + random.choice((1, 2, 4, 16, 64, 256, 4096)))


def _flip_bits(random: Random, whole: bytearray) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if whole:
            whole[random.randrange(len(whole))] ^= 1 << random.randrange(8)


def _flip_bits_of_the_head(random: Random, whole: bytearray) -> None:
    for _ in range(random.choice((1, 1, 2, 4))):
        if whole:
            whole[random.randrange(min(len(whole), 200))] ^= 1 << random.randrange(8)


def _overwrite(random: Random, whole: bytearray) -> None:
    start, end = _span(random, whole)
    whole[start:end] = random.choice(
        (bytes(end - start), b"\xff" * (end - start), random.randbytes(end - start))
    )


def _write_number(random: Random, whole: bytearray) -> None:
    layout = random.choice("<>") + random.choice("BHI")
    _put(random, whole, random.randrange(len(whole) + 1), layout)


def _lie_about_a_length(random: Random, whole: bytearray) -> None:
    found = pieces(whole)
    if found:
        piece = random.choice(found)
        _put(random, whole, piece.length_place, piece.length)


def _put(random: Random, whole: bytearray, place: int, layout: str) -> None:
    size = struct.calcsize(layout)
    if place + size > len(whole):
        return
    (now,) = struct.unpack_from(layout, whole, place)
    most = 256**size - 1
    value = random.choice(
        (0, 1, most, most // 2, most // 2 + 1, now + 1, now - 1, now * 2, random.randrange(most))
    )
    struct.pack_into(layout, whole, place, value & most)


def _truncate(random: Random, whole: bytearray) -> None:
    del whole[random.randrange(len(whole) + 1) :]


def _cut_out(random: Random, whole: bytearray) -> None:
    start, end = _span(random, whole)
    del whole[start:end]


def _insert(random: Random, whole: bytearray) -> None:
    start, end = _span(random, whole)
    whole[start:start] = random.choice((whole[start:end], random.randbytes(end - start), bytes(end - start)))


def _splice(random: Random, whole: bytearray) -> None:
    """The head of this one and the tail of another."""
    other = sample(random.choice(NAMES))
    whole[random.randrange(len(whole) + 1) :] = other[random.randrange(len(other)) :]


def _double_a_piece(random: Random, whole: bytearray) -> None:
    found = pieces(whole)
    if found:
        piece = random.choice(found)
        place = random.choice(found).start
        times = random.choice((1, 1, 2, 20, 600))
        whole[place:place] = whole[piece.start : piece.end][:20_000] * times


def _drop_a_piece(random: Random, whole: bytearray) -> None:
    found = pieces(whole)
    if found:
        piece = random.choice(found)
        del whole[piece.start : piece.end]


def _swap_pieces(random: Random, whole: bytearray) -> None:
    found = pieces(whole)
    if found:
        one, other = sorted((random.choice(found), random.choice(found)), key=lambda piece: piece.start)
        if one.end <= other.start:
            moved = whole[other.start : other.end] + whole[one.end : other.start] + whole[one.start : one.end]
            whole[one.start : other.end] = moved


def _damage_what_is_deflated(random: Random, whole: bytearray) -> None:
    """Flip bits of a PNG's pixels and of how they are filtered, and deflate them again."""
    if not whole.startswith(PNG_SIGNATURE):
        return
    for piece in pieces(whole):
        kind, start = bytes(whole[piece.start + 4 : piece.start + 8]), piece.start + 8
        if kind in (b"IDAT", b"fdAT"):
            start += 4 if kind == b"fdAT" else 0
            with suppress(zlib.error):
                inflated = bytearray(zlib.decompress(whole[start : piece.end - 4]))
                _flip_bits(random, inflated)
                deflated = zlib.compress(inflated)
                whole[start : piece.end - 4] = deflated
                struct.pack_into(">I", whole, piece.start, start - piece.start - 8 + len(deflated))
            return


def _mend_checksums(whole: bytearray) -> None:
    if whole.startswith(PNG_SIGNATURE):
        for piece in _png_chunks(whole):
            checksum = zlib.crc32(whole[piece.start + 4 : piece.end - 4])
            struct.pack_into(">I", whole, piece.end - 4, checksum)


_MUTATIONS: tuple[Callable[[Random, bytearray], None], ...] = (
    _flip_bits,
    _flip_bits,
    _flip_bits_of_the_head,
    _overwrite,
    _write_number,
    _lie_about_a_length,
    _lie_about_a_length,
    _truncate,
    _cut_out,
    _insert,
    _splice,
    _double_a_piece,
    _drop_a_piece,
    _swap_pieces,
    _damage_what_is_deflated,
)
