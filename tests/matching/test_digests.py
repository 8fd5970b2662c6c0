import hashlib

import numpy as np
import pytest

from app.matching.digests import DigestIndex


def digests(count: int, algorithm: str = "sha256") -> np.ndarray:
    raw = b"".join(hashlib.new(algorithm, str(number).encode()).digest() for number in range(count))
    return np.frombuffer(raw, np.uint8).reshape(count, -1)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_each_digest_is_found_at_its_own_place(algorithm: str) -> None:
    values = digests(500, algorithm)
    index, order = DigestIndex.build(values)
    for number, value in enumerate(values):
        assert order[index.search(value.tobytes())].tolist() == [number]


def test_what_is_not_there_is_not_found() -> None:
    index, _ = DigestIndex.build(digests(100))
    assert len(index.search(hashlib.sha256(b"elsewhere").digest())) == 0
    assert len(index.search(bytes(32))) == 0
    assert len(index.search(b"\xff" * 32)) == 0


def test_the_same_digest_in_several_banks_is_found_each_time() -> None:
    values = np.concatenate([digests(10), digests(10), digests(3)])
    index, order = DigestIndex.build(values)
    assert sorted(order[index.search(values[2].tobytes())]) == [2, 12, 22]


def test_digests_that_share_their_first_bytes_are_told_apart() -> None:
    values = digests(50).copy()
    values[:, :8] = 7
    index, order = DigestIndex.build(values)
    assert order[index.search(values[31].tobytes())].tolist() == [31]


def test_an_empty_index_finds_nothing() -> None:
    index, _ = DigestIndex.build(np.empty((0, 20), np.uint8))
    assert len(index.search(bytes(20))) == 0
