"""From a JPEG to its PDQ hash: by Pillow and ``pdqhash``, and by Cordon's canonical and its quick look.

Each round takes both ways on the same picture, one after the other, in processor time of this process, so
that what else runs on the machine weighs on both. Ratios are of one round, their spread that of the rounds.
Cordon's looks at bytes are all that its decoder does: 16 forms, and the pHash in the canonical one.
"""

import functools
import io
import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image
from rich.table import Table

from app.hashing import pdq
from app.hashing.records import Limits, Look
from app.hashing.scan import scan
from app.media import Rendering
from bench.load import draw

SIZES: Final = {"1.6 megapixels": (1600, 1000), "12 megapixels": (4000, 3000)}
ROUNDS: Final = 7
SEED: Final = 20_260_101

Way = Callable[[], bytes]
"""Hashes one picture: 32 bytes."""

_LIMITS: Final = Limits(
    max_pixels=100_000_000, max_frames=500, max_decode_bytes=2**30, disabled_formats=frozenset()
)


def hashing() -> Table:
    """Measure, and lay out: medians, and ratios with the least and the most."""
    table = Table("picture", "look", "peer, ms", "Cordon, ms", "times faster", "bits off")
    for name, (width, height) in SIZES.items():
        add_rows(table, name, draw(np.random.default_rng(SEED), width, height))
    return table


def add_rows(table: Table, name: str, jpeg: bytes) -> None:
    """All ways of hashing one picture."""
    pixels = decoded(jpeg)
    compare(table, f"{name}, decoded", "canonical", lambda: peer(pixels), lambda: pdq.canonical(pixels)[0])
    for look, quick in (("canonical", False), ("quick", True)):
        ours = functools.partial(looked_at, jpeg, quick=quick)
        compare(table, f"{name}, as bytes", look, lambda: peer(decoded(jpeg)), ours)


def compare(table: Table, name: str, what: str, theirs: Way, ours: Way) -> None:
    """Add what two ways took on the same picture."""
    off = (int.from_bytes(theirs()) ^ int.from_bytes(ours())).bit_count()
    rounds = [(milliseconds(theirs), milliseconds(ours)) for _ in range(ROUNDS)]
    ratios = [peer_took / own_took for peer_took, own_took in rounds]
    table.add_row(
        name,
        what,
        f"{statistics.median(peer_took for peer_took, _ in rounds):.1f}",
        f"{statistics.median(own_took for _, own_took in rounds):.2f}",
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
        str(off),
    )


def milliseconds(way: Way) -> float:
    """The processor time of one call, of the better of two."""
    took = []
    for _ in range(2):
        began = time.process_time()
        way()
        took.append((time.process_time() - began) * 1000)
    return min(took)


def decoded(jpeg: bytes) -> NDArray[np.uint8]:
    """All pixels of a JPEG: uint8 (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def peer(pixels: NDArray[np.uint8]) -> bytes:
    """What pdqhash makes of them."""
    return np.packbits(pdqhash.compute(pixels)[0].astype(bool)).tobytes()


def looked_at(jpeg: bytes, *, quick: bool) -> bytes:
    """What the decoder makes of a JPEG; its parts are left out, which the peer does not know."""
    found = list(scan(jpeg, _LIMITS, Look(quick, parts=False)))
    return next(told.pdq for told in found if isinstance(told, Rendering))
