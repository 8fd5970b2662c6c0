"""The compiled loops are in use where they were built, and leave to others what is theirs."""

import itertools
import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from app.matching import _hamming, engine, fallback, hamming
from app.matching.engine import Engine
from app.matching.hamming import HammingIndex


def random_values(count: int, size: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, size), np.uint8)


@pytest.mark.parametrize(("rows", "size"), [(8193, 32), (8193, 8), (65_536, 32), (65_537, 16), (70_000, 8)])
def test_both_engines_build_the_same_index_byte_by_byte(
    rows: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a snapshot that one built is searched by the other. A third of the rows crowd a few values."""
    values = random_values(rows, size)
    values[: rows // 3] = values[:3].repeat(rows // 9 + 1, axis=0)[: rows // 3]
    built = []
    engines: tuple[Engine, ...] = (_hamming, fallback)
    for each in engines:
        monkeypatch.setattr(hamming, "engine", each)
        built.append(HammingIndex.build(values))
    for name in ("rows", "directory", "postings"):
        assert np.array_equal(getattr(built[0], name), getattr(built[1], name))


def test_the_compiled_engine_is_the_one_in_use_where_it_is_built() -> None:
    assert engine.COMPILED
    assert hamming.engine is _hamming


def test_the_interpreter_is_free_while_the_compiled_engine_searches() -> None:
    """A look-up holds up neither the event loop nor other requests: another thread goes on meanwhile."""
    index = HammingIndex.build(random_values(200_000))
    queries = random_values(200)
    turns = itertools.count()
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            next(turns)
            time.sleep(0.0001)

    turning = threading.Thread(target=turn)
    turning.start()
    try:
        before = next(turns)
        # So many bits that every row is looked at.
        index.search(queries, 90)
        after = next(turns)
    finally:
        over.set()
        turning.join()
    # Were it not free, there would be a turn or two before the search and after it.
    assert after - before > 20


BAD: dict[str, dict[str, object]] = {
    "rows that are cut short": {"rows": bytes(31)},
    "too many words": {"words": 5},
    "no words": {"words": 0},
    "half a query": {"queries": bytes(16)},
    "doubts of half a query": {"doubts": bytes(16)},
    "half a band": {"cuts": bytes(7)},
    "a band beyond the last bit": {"cuts": np.array([[240, 20, 1]], np.int32).tobytes()},
    "a band before the first": {"cuts": np.array([[-1, 20, 1]], np.int32).tobytes()},
    "a band of no bits": {"cuts": np.array([[0, 0, 0]], np.int32).tobytes()},
    "a radius beyond the band": {"cuts": np.array([[0, 8, 9]], np.int32).tobytes()},
    "more look-ups than memory": {"cuts": np.array([[0, 32, 16]], np.int32).tobytes()},
    "a directory that is missing": {"cuts": np.array([[0, 8, 1]], np.int32).tobytes()},
}


@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_what_does_not_fit_together_is_refused_before_it_is_read(given: dict[str, object]) -> None:
    arguments = {
        "rows": bytes(64),
        "words": 4,
        "directory": b"",
        "postings": b"",
        "cuts": b"",
        "queries": bytes(32),
        "doubts": b"",
    } | given
    with pytest.raises(ValueError, match=r"rows|bands|look-ups|buffer|aligned|doubt"):
        _hamming.search(*arguments.values(), 31, 10, 100, 0, 0)  # type: ignore[call-arg, arg-type]


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError):
        _hamming.search(bytes(64), "4", b"", b"", b"", bytes(32), b"", 31, 10, 100, 0, 0)  # type: ignore[arg-type]
