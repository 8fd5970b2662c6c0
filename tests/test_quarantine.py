"""The quarantine: bounded, counted, true in its digests, unchangeable once whole, overwritten when done."""

import contextlib
import errno
import gc
import hashlib
import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.errors import OverloadedError, TooLargeError
from app.media import DIGEST_TYPES, Digests, SignalType
from app.quarantine import HEAD_BYTES, Quarantine, QuarantinedMedia

KIB = 1024
MP4_HEAD = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2" + bytes(8)


def _admit(
    budget_bytes: int = 64 * KIB * KIB,
    *,
    max_bytes: int = 16 * KIB * KIB,
    max_video_bytes: int = 16 * KIB * KIB,
    expected_bytes: int | None = None,
    digests: frozenset[SignalType] = DIGEST_TYPES,
) -> tuple[Quarantine, QuarantinedMedia]:
    quarantine = Quarantine(budget_bytes)
    media = quarantine.admit(
        max_bytes=max_bytes,
        max_video_bytes=max_video_bytes,
        expected_bytes=expected_bytes,
        digests=digests,
    )
    return quarantine, media


@given(chunks=st.lists(st.binary(max_size=40 * KIB), max_size=12))
def test_digests_and_content_are_those_of_the_bytes_however_they_are_cut(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    _, media = _admit()
    with media:
        for number, chunk in enumerate(chunks):
            media.write((chunk, bytearray(chunk), memoryview(chunk))[number % 3])
        media.finish()
        assert media.size == len(whole)
        assert media.read(0, len(whole) + 10) == whole
        assert media.head == whole[:HEAD_BYTES]
        assert media.digests.md5 == hashlib.md5(whole, usedforsecurity=False).digest()
        assert media.digests.sha1 == hashlib.sha1(whole, usedforsecurity=False).digest()
        assert media.digests.sha256 == hashlib.sha256(whole).digest()


@given(content=st.binary(max_size=3 * KIB), early=st.frozensets(st.sampled_from(sorted(DIGEST_TYPES))))
def test_a_digest_that_is_asked_for_late_is_the_same(content: bytes, early: frozenset[SignalType]) -> None:
    """Whether it grew with the bytes or not; what is not asked for is left empty."""
    _, media = _admit(digests=early)
    with media:
        media.write(content)
        media.finish()
        told = media.digests_of({SignalType.SHA1})
        assert told == Digests(sha1=hashlib.sha1(content, usedforsecurity=False).digest())
        assert media.digests.sha256 == hashlib.sha256(content).digest()
        assert media.digests.md5 == hashlib.md5(content, usedforsecurity=False).digest()


def test_a_medium_is_in_anonymous_memory_and_in_no_file() -> None:
    _, media = _admit()
    with media:
        assert str(Path(f"/proc/self/fd/{media.fd}").readlink()).startswith("/memfd:cordon-media")
        assert not os.get_inheritable(media.fd)


@pytest.mark.parametrize("size", [1, 100 * KIB, 3 * KIB * KIB + 5])
def test_wiping_overwrites_every_byte_that_came(size: int) -> None:
    quarantine, media = _admit()
    media.write(b"\xaa" * size)
    kept = os.dup(media.fd)
    media.finish()
    media.wipe()
    with mmap.mmap(kept, 0, prot=mmap.PROT_READ) as content:
        assert content[:].count(0) == len(content) >= size
    os.close(kept)
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)
    media.wipe()
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_a_medium_that_grew_leaves_nothing_behind_either() -> None:
    _, media = _admit()
    kept = os.dup(media.fd)
    for _ in range(40):
        media.write(b"\xaa" * 50 * KIB)
    media.wipe()
    with mmap.mmap(kept, 0, prot=mmap.PROT_READ) as content:
        assert content[:].count(0) == len(content)
    os.close(kept)


def test_a_medium_that_nobody_wiped_is_wiped_when_it_is_let_go() -> None:
    quarantine, media = _admit()
    media.write(b"\xaa" * KIB)
    kept = os.dup(media.fd)
    del media
    gc.collect()
    assert os.pread(kept, KIB, 0) == bytes(KIB)
    os.close(kept)
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_leaving_the_block_by_an_error_wipes() -> None:
    quarantine, media = _admit()
    kept = os.dup(media.fd)
    with contextlib.suppress(KeyError), media:
        media.write(b"\xaa" * KIB)
        raise KeyError
    assert os.pread(kept, KIB, 0) == bytes(KIB)
    os.close(kept)
    assert quarantine.reserved_bytes == 0


def test_nobody_can_change_a_whole_medium() -> None:
    _, media = _admit()
    with media:
        media.write(b"whole")
        media.finish()
        with pytest.raises(RuntimeError, match="whole"):
            media.write(b"more")
        for change in (
            lambda: os.pwrite(media.fd, b"x", 0),
            lambda: os.ftruncate(media.fd, 1),
            lambda: os.ftruncate(media.fd, KIB * KIB * KIB),
            lambda: mmap.mmap(media.fd, 5),
        ):
            with pytest.raises(OSError, match="Operation not permitted") as refusal:
                change()
            assert refusal.value.errno == errno.EPERM
        with mmap.mmap(media.fd, 5, prot=mmap.PROT_READ) as content:
            assert content[:] == b"whole"


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100])
def test_the_limit_is_exact_and_the_byte_beyond_it_is_not_kept(chunk_bytes: int) -> None:
    _, media = _admit(max_bytes=100, max_video_bytes=100)
    with media:
        for start in range(0, 100, chunk_bytes):
            media.write(b"x" * min(chunk_bytes, 100 - start))
        assert media.size == 100
        with pytest.raises(TooLargeError, match="100 bytes"):
            media.write(b"x")
        assert media.size == 100


@pytest.mark.parametrize("chunk_bytes", [5, 13, 1000, 5000])
def test_the_larger_limit_holds_for_a_video_alone_however_it_is_cut(chunk_bytes: int) -> None:
    told = formats.tell(MP4_HEAD)
    assert told is not None
    assert told.kind == "video"
    for head, limit in ((MP4_HEAD, 9000), (b"no video" + bytes(24), 100)):
        content = (head + bytes(9000))[:limit]
        _, media = _admit(max_bytes=100, max_video_bytes=9000)
        with media:
            for start in range(0, limit, chunk_bytes):
                media.write(content[start : start + chunk_bytes])
            with pytest.raises(TooLargeError, match=f"{limit} bytes"):
                media.write(bytes(9001))


def test_a_video_that_is_told_only_beyond_its_head_has_the_smaller_limit() -> None:
    _, media = _admit(max_bytes=5000, max_video_bytes=9000)
    with media:
        media.write(bytes(HEAD_BYTES))
        with pytest.raises(TooLargeError, match="5000 bytes"):
            media.write(MP4_HEAD + bytes(1000))


def test_more_than_any_medium_may_have_is_refused_before_the_first_byte() -> None:
    quarantine = Quarantine(10_000)
    with pytest.raises(TooLargeError, match="200 bytes"):
        quarantine.admit(max_bytes=100, max_video_bytes=200, expected_bytes=201)
    with pytest.raises(TooLargeError, match="10000 bytes"):
        quarantine.admit(max_bytes=20_000, max_video_bytes=20_000, expected_bytes=10_001)
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_a_promise_of_too_much_ends_a_fetch_once_its_head_has_come() -> None:
    _, media = _admit(max_bytes=5000, max_video_bytes=9000)
    with media:
        with pytest.raises(TooLargeError, match="9000 bytes"):
            media.expect(9001)
        media.expect(6000)
        with pytest.raises(TooLargeError, match="5000 bytes"):
            media.write(bytes(HEAD_BYTES))
    _, video = _admit(max_bytes=5000, max_video_bytes=9000)
    with video:
        video.expect(6000)
        video.write(MP4_HEAD + bytes(HEAD_BYTES))
        assert video.size == len(MP4_HEAD) + HEAD_BYTES


def test_the_budget_is_shared_and_given_back() -> None:
    quarantine = Quarantine(1000)
    first = quarantine.admit(max_bytes=1000, max_video_bytes=1000, expected_bytes=600)
    assert (quarantine.reserved_bytes, quarantine.held_media) == (600, 1)
    with pytest.raises(OverloadedError, match="CORDON_MAX_INFLIGHT_BYTES"):
        quarantine.admit(max_bytes=1000, max_video_bytes=1000, expected_bytes=401)
    second = quarantine.admit(max_bytes=1000, max_video_bytes=1000, expected_bytes=400)
    first.wipe()
    second.wipe()
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_a_medium_without_a_promised_size_grows_to_the_last_byte_of_the_budget() -> None:
    quarantine, media = _admit(1000 * KIB, max_bytes=2000 * KIB, max_video_bytes=2000 * KIB)
    with media:
        for _ in range(1000):
            media.write(b"\xaa" * KIB)
        assert quarantine.reserved_bytes == 1000 * KIB
        # It alone is larger than the budget: waiting would not help.
        with pytest.raises(TooLargeError):
            media.write(b"x")
        assert media.digests.sha256 == hashlib.sha256(b"\xaa" * 1000 * KIB).digest()
    assert quarantine.reserved_bytes == 0


def test_a_medium_that_cannot_grow_gives_back_what_it_had() -> None:
    quarantine, media = _admit(300 * KIB, max_bytes=300 * KIB, max_video_bytes=300 * KIB)
    other = quarantine.admit(max_bytes=KIB, max_video_bytes=KIB, expected_bytes=KIB)
    with pytest.raises(OverloadedError), media:
        media.write(bytes(300 * KIB))
    assert quarantine.reserved_bytes == KIB
    other.wipe()
    assert quarantine.reserved_bytes == 0


@contextlib.contextmanager
def _limited(which: int, soft: int) -> Iterator[None]:
    before, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (before, hard))


def test_a_process_without_free_descriptors_is_overloaded_and_reserves_nothing() -> None:
    quarantine = Quarantine(KIB)
    with _limited(resource.RLIMIT_NOFILE, 3), pytest.raises(OverloadedError, match="Too many open files"):
        quarantine.admit(max_bytes=KIB, max_video_bytes=KIB)
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_a_medium_whose_memory_cannot_be_had_or_grow_is_overload_and_gives_all_back() -> None:
    with _limited(resource.RLIMIT_FSIZE, 2 * KIB * KIB):
        with pytest.raises(OverloadedError, match="no memory for a medium"):
            _admit(expected_bytes=3 * KIB * KIB)
        quarantine, media = _admit(expected_bytes=KIB * KIB)
        with media:
            media.write(b"\xaa" * KIB * KIB)
            with pytest.raises(OverloadedError, match="no memory for a medium to grow"):
                media.write(b"\xaa" * 2 * KIB * KIB)
            assert quarantine.reserved_bytes == KIB * KIB
            assert media.read(0, KIB * KIB) == b"\xaa" * KIB * KIB
    assert (quarantine.reserved_bytes, quarantine.held_media) == (0, 0)


def test_nothing_may_come_after_a_medium_that_fills_its_pages() -> None:
    """A server ends a body with an empty piece."""
    content = os.urandom(2 * mmap.PAGESIZE)
    _, media = _admit(expected_bytes=len(content))
    with media:
        for chunk in (b"", content[: mmap.PAGESIZE], b"", content[mmap.PAGESIZE :], b""):
            media.write(chunk)
        media.finish()
        assert media.read(0, len(content) + 1) == content


def test_an_empty_medium_is_one() -> None:
    _, media = _admit(expected_bytes=0)
    with media:
        media.finish()
        assert (media.size, media.head, media.read(0, 10)) == (0, b"", b"")
        assert media.digests.sha256 == hashlib.sha256().digest()


def test_a_medium_shows_nothing_of_itself() -> None:
    _, media = _admit()
    with media:
        media.write(b"canary")
        assert repr(media) == "<QuarantinedMedia>"
        assert "canary" not in repr(media.digests)
        assert media.digests.sha256.hex() not in repr(media.digests)
