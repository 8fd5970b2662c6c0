"""Formats are told from bytes alone."""

import pytest

from app import formats
from app.formats import Format
from tests.hashing.drawings import drawing, encoded


def iso(major: bytes, *compatible: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("JPEG", formats.JPEG),
        ("MPO", formats.JPEG),
        ("PNG", formats.PNG),
        ("GIF", formats.GIF),
        ("WEBP", formats.WEBP),
        ("BMP", formats.BMP),
        ("TIFF", formats.TIFF),
        ("AVIF", formats.AVIF),
    ],
)
def test_pictures_are_told(encoder: str, told: Format) -> None:
    medium = encoded(drawing(1, (64, 48)), encoder)
    assert formats.tell(medium) is told
    assert formats.tell(medium[:4096]) is told


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (iso(b"avif", b"mif1", b"miaf"), formats.AVIF),
        (iso(b"avis", b"msf1"), formats.AVIF),
        (iso(b"mif1", b"miaf", b"avif"), formats.AVIF),
        (iso(b"heic", b"mif1"), formats.HEIC),
        (iso(b"mif1", b"heic"), formats.HEIC),
        (iso(b"msf1", b"hevc"), formats.HEIC),
        (iso(b"heic", b"avif"), formats.HEIC),
        (iso(b"isom", b"iso2", b"avc1", b"mp41"), formats.MP4),
        (iso(b"M4V ", b"isom"), formats.MP4),
        (iso(b"qt  "), formats.MOV),
        (bytes(4) + b"moov" + bytes(100), formats.MOV),
        (iso(b"3gp4", b"isom"), formats.THREE_GP),
        (iso(b"3g2a"), formats.THREE_GP),
        (b"II*\0" + bytes(8), formats.TIFF),
        (b"MM\0*" + bytes(8), formats.TIFF),
        (b"II+\0\x08\0\0\0" + bytes(8), formats.TIFF),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm", formats.WEBM),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01\x42\x82\x88matroska", formats.MKV),
        (b"RIFF\x10\0\0\0AVI LIST", formats.AVI),
        (b"\0\0\x01\xba\x44\0", formats.MPEG),
        (b"\0\0\x01\xb3\x16\0", formats.MPEG),
        (b"".join(b"\x47" + bytes(187) for _ in range(5)), formats.MPEG_TS),
        (bytes(4) + b"".join(b"\x47" + bytes(191) for _ in range(5)), formats.MPEG_TS),
        (b"FLV\x01\x05", formats.FLV),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(20), formats.WMV),
        (b"OggS\0\x02" + bytes(22) + b"\x80theora", formats.OGG),
    ],
)
def test_formats_are_told_from_their_first_bytes(head: bytes, told: Format) -> None:
    assert formats.tell(head) is told


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff",
        b"hello",
        b"<html>",
        b"BM is how this sentence starts",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"OggS\0\x02" + bytes(22) + b"\x01vorbis",
        iso(b"M4A ", b"mp42")[:16],
        iso(b"mif1", b"miaf"),
        iso(b"crx ", b"isml"),
        b"G" + bytes(187) + b"G" + bytes(500),
        b" \xff\xd8\xff\xe0",
        bytes(4096) + b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_none_of_them_is_told_to_be_nothing(head: bytes) -> None:
    assert formats.tell(head) is None


def test_every_name_and_type_is_told_once() -> None:
    every = formats.IMAGES + formats.VIDEOS
    assert len({told.name for told in every}) == len(every)
    assert all(told.media_type.startswith(f"{told.kind}/") for told in every)
