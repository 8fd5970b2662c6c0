"""What is known of the straight lines that a picture could be cut along, so that any is weighed fast.

Lines are vertical here; those of a transposed picture are its horizontal ones. A line's position is the
number of columns before it, from 0 to the width. A span is the stretch of rows along which it is looked at.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.hashing import engine

_BLOCK: Final = 4
"""Rows that are looked at together, so that grain and a JPEG's noise average out."""

_FLAT: Final = 16
"""Largest range of the luma in one column of a block that counts as one colour."""

_NEAR: Final = 8
"""How far a column's blocks may lie from its level, in luma, where it is of one colour."""

_STEP: Final = 10
"""Least step of the luma that is an edge."""

_REACH: Final = 4
"""Columns on each side of an edge that have to differ as well, or to be flat, unlike in a thin line."""

_LASTING_STEP: Final = 6
"""Least difference of the means of these columns."""

_SMOOTH: Final = 6
"""Largest step from block to block along a column that is smooth."""

_UNIFORM_SHARE: Final = 0.96
"""How much of a column has to be of one colour, or smooth: corners may be round, a scratch may cross it."""

_STEPPED_SHARE: Final = 0.8
"""How much of a line that divides two uniform bands shows an edge."""

_BAND_SHARE: Final = 0.85
"""What the border of a smooth band counts for where it shows no edge: the picture fades into the band."""

_WINDOW_SHARE: Final = 0.2
"""Least part of a span that a picture beside others takes."""

_LEAST_WINDOW: Final = 4

_LEAST_SCORE: Final = 0.7
"""Of a likely line: half the best window's share of edge, plus all the span's."""

_BORDER_SCORE: Final = 0.75
"""What the border of a uniform band is worth at least."""

_MOST_LIKELY: Final = 16
"""Lines that are told at most: with all pairs of them, work goes by their fourth power."""

_MOST_OUTLIERS: Final = 2
"""Of the nine blocks of a column that are looked at first, how many may differ where it is of one colour."""


class Edges:
    """Evidence of all vertical lines of a picture.

    Args:
        luma: uint8 (height, width), at least 4 rows and 1 column, in one piece.
    """

    def __init__(self, luma: NDArray[np.uint8]) -> None:
        self._blocks = len(luma) // _BLOCK
        width = luma.shape[1]
        # How many blocks above each one show an edge, or are smooth, so that any span takes one subtraction.
        self._edges = np.empty((self._blocks + 1, width + 1), np.int16)
        self._smooth = np.empty((self._blocks + 1, width), np.int16)
        self._sums = np.empty((self._blocks, width), np.int16)
        self._flat = np.empty((self._blocks, width), np.bool_)
        # What was asked is asked again, of a part that nothing divides.
        self._uniform: dict[tuple[int, int, int, int], NDArray[np.bool_]] = {}
        found = self._sums, self._flat, self._edges, self._smooth
        thresholds = _FLAT, _SMOOTH * _BLOCK, _STEP * _BLOCK, _LASTING_STEP * _BLOCK * _REACH
        engine.ENGINE.find_edges(luma, width, *thresholds, *found)

    def uniform(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.bool_]:
        """Which columns from ``left`` up to ``right`` are each of one colour from ``top`` to ``bottom``."""
        span = top, bottom, left, right
        if span in self._uniform:
            return self._uniform[span]
        uniform = np.empty(right - left, np.bool_)
        first, last = self._span(top, bottom)
        engine.ENGINE.find_uniform(
            self._sums,
            self._flat,
            self._sums.shape[1],
            first,
            last,
            left,
            right,
            _NEAR * _BLOCK,
            _MOST_OUTLIERS,
            _UNIFORM_SHARE,
            uniform,
        )
        self._uniform[span] = uniform
        return uniform

    def steps(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.int64]:
        """Lines between ``left`` and ``right`` with an edge nearly all the way, ascending."""
        first, last = self._span(top, bottom)
        count = self._edges[last, left + 1 : right] - self._edges[first, left + 1 : right]
        return np.flatnonzero(count >= _STEPPED_SHARE * (last - first)) + left + 1

    def likely(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.int64]:
        """The lines between ``left`` and ``right`` that a part of this span could end at, ascending.

        At most 16: each has an edge along all of some part of the span that is long enough for a picture.
        """
        first, last = self._span(top, bottom)
        if right - left <= 1:
            return np.zeros(0, np.int64)
        window = min(last - first, max(_LEAST_WINDOW, round((last - first) * _WINDOW_SHARE)))
        scores = np.empty(right - left - 1)
        engine.ENGINE.score_lines(
            self._edges, self._edges.shape[1], first, last, left + 1, right, window, scores
        )
        uniform = self.uniform(top, bottom, left, right)
        scores = np.where(uniform[1:] != uniform[:-1], np.maximum(scores, _BORDER_SCORE), scores)
        peaks = scores >= _LEAST_SCORE
        peaks[1:] &= scores[1:] >= scores[:-1]
        peaks[:-1] &= scores[:-1] >= scores[1:]
        lines = np.flatnonzero(peaks)
        if len(lines) > _MOST_LIKELY:
            lines = np.sort(lines[np.argsort(-scores[lines], kind="stable")[:_MOST_LIKELY]])
        return lines + left + 1

    def shares(
        self, lines: NDArray[np.int64], tops: NDArray[np.int64], bottoms: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """How much of each span each line has an edge along: float32 (spans, lines), 0 to 1."""
        first, last = self._spans(tops, bottoms)
        lengths = (last - first)[:, np.newaxis].astype(np.float32)
        edges = self._edges[:, lines]
        shares = (edges[last] - edges[first]) / lengths
        columns = lines[:, np.newaxis] + np.array([-3, -2, 1, 2])
        smooth = self._smooth[:, np.clip(columns, 0, self._smooth.shape[1] - 1)]
        bands = smooth[last] - smooth[first] >= _UNIFORM_SHARE * lengths[:, :, np.newaxis]
        before, after = bands[:, :, 0] & bands[:, :, 1], bands[:, :, 2] & bands[:, :, 3]
        return np.where(before != after, np.maximum(shares, np.float32(_BAND_SHARE)), shares)

    def _span(self, top: int, bottom: int) -> tuple[int, int]:
        """The same as ``_spans`` of one."""
        first = min(-(-top // _BLOCK), self._blocks - 1)
        return first, max(min(bottom // _BLOCK, self._blocks), first + 1)

    def _spans(
        self, tops: NDArray[np.int64], bottoms: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The blocks that lie wholly within spans, one at least: the first, and the one after the last."""
        first = np.minimum(-(-tops // _BLOCK), self._blocks - 1)
        return first, np.maximum(np.minimum(bottoms // _BLOCK, self._blocks), first + 1)
