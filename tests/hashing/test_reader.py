"""The file that decoders read untrusted bytes from."""

import io
import mmap

import pytest

from app.hashing.reader import Reader, whole


def test_pieces_are_read_as_one_file() -> None:
    reader = Reader([(b"0123456789", 2, 5), (b"", 0, 0), (b"abcdef", 0, 6), (b"xyz", 1, 2)])
    assert reader.size == 10
    assert reader.read() == b"234abcdefy"
    assert reader.read(1) == b""
    for start in range(12):
        for count in range(12):
            assert reader.seek(start) == start
            assert reader.read(count) == b"234abcdefy"[start : start + count]
            assert reader.tell() == max(start, min(start + count, 10))


def test_it_seeks_as_files_do() -> None:
    reader = Reader([(b"0123456789", 0, 10)])
    assert reader.seek(-3, io.SEEK_END) == 7
    assert reader.read(2) == b"78"
    assert reader.seek(-4, io.SEEK_CUR) == 5
    assert reader.seek(100) == 100
    assert reader.read() == b""
    with pytest.raises(ValueError, match="before the start"):
        reader.seek(-1)


def test_it_keeps_no_map_from_being_closed() -> None:
    with mmap.mmap(-1, 4096) as memory:
        memory[:5] = b"hello"
        file = whole(memory, 1)
        assert file.read(4) == b"ello"
    assert memory.closed
