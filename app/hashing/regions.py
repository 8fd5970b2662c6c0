"""Finds the pictures within a picture: behind borders, in screenshots, collages and players.

A picture is cut at its uniform bands, as pages are in document analysis (the recursive X-Y cut, Nagy and Seth
1984): what is left between them is cut again, until nothing is. That finds pictures on borders, bars and
interfaces; lines of text fall apart and are dropped. What has no band in it may still be a collage: there,
rectangles are looked for whose sides are edges nearly all the way.

What is found are guesses. A wrong one costs a hash and its look-ups, no more: a hash decides.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.hashing import engine
from app.hashing.edges import Edges
from app.media import Region

_PIXELS: Final = 300_000
"""Largest copy that is searched; a pixel of it is finer than what PDQ feels."""

_MOST: Final = 14
"""Regions that are told at most."""

_LEAST_SIDE: Final = 48
"""In pixels of the copy. PDQ samples 64 places an axis: what is smaller says little."""

_LEAST_SIDE_SHARE: Final = 0.2
_LEAST_AREA_SHARE: Final = 0.06

_MOST_CUTS: Final = 30
"""Parts that are looked at for bands, the largest first."""

_MOST_STEPS: Final = 10
"""In the bands of one part. With more of them it is a ruled page or a table."""

_MOST_LEAVES: Final = 4
"""Parts without bands that are looked at for edges, the largest first."""

_MOST_RECTANGLES: Final = 60
"""Of one such part."""

_LEAST_EDGE: Final = 0.65
"""How much of each side of a rectangle has to be an edge, and of all of them on average."""

_LEAST_MEAN_EDGE: Final = 0.78

_PART_SCORE: Final = 1.5
_PART_WHOLE: Final = 0.8
"""What a part is worth, and what it gains if no band divides it; a rectangle's two shares add up to 2."""

_FRAME_SCORE: Final = 1.9
_MOST_FRAME_RATIO: Final = 4
_FRAME_SLACK: Final = 8
"""What a part is worth whose borders were made as wide as the narrowest; how unlike they may have been."""

_CUT_GAIN: Final = 0.05
_AREA_GAIN: Final = 0.1
_DIVIDED_LOSS: Final = 1.0
_OVERLAP_LOSS: Final = 0.35
"""What a rectangle gains for each side that is not the picture's, and for its size; what it loses if a line
divides it, and, as a part does, by what it has in common with a better one."""

_LEAST_SCORE: Final = 1.6
"""What is worth its hash and look-ups. Photographs have straight edges too: lower, and each costs more."""


class _Box(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)


_Interval = tuple[int, int]
_Indices = NDArray[np.int64]


@dataclass(frozen=True)
class _Scene:
    """A picture as the search sees it.

    Attributes:
        whole: all of it.
        columns: evidence of its vertical lines.
        rows: of its horizontal lines, that is, of the transposed picture's.
        least_side: of a region, in pixels.
        least_area: of a region, in pixels.
    """

    whole: _Box
    columns: Edges
    rows: Edges
    least_side: int
    least_area: float

    def holds(self, box: _Box) -> bool:
        """Whether it is large enough for a region."""
        return (
            box.right - box.left >= self.least_side
            and box.bottom - box.top >= self.least_side
            and box.area >= self.least_area
        )


def find(luma: NDArray[np.uint8]) -> Sequence[Region]:
    """The rectangles of a picture that may be pictures themselves, the likeliest first.

    Args:
        luma: uint8 (height, width), at most 2 million pixels, read-only; at most 23 bytes for each may be
            taken at once.

    Returns:
        At most 14 regions, in pixels of ``luma``, each inside of it and none of them all of it.
    """
    height, width = luma.shape
    by = math.ceil(math.sqrt(luma.size / _PIXELS))
    small = _reduced(luma, by)
    if min(small.shape) < _LEAST_SIDE:
        return ()
    whole = _Box(0, 0, width, height)
    boxes = [
        _Box(
            box.left * by,
            box.top * by,
            width if box.right == small.shape[1] else box.right * by,
            height if box.bottom == small.shape[0] else box.bottom * by,
        )
        for box in _boxes(small)
    ]
    return [
        Region(box.left, box.top, box.right - box.left, box.bottom - box.top) for box in boxes if box != whole
    ]


def _reduced(luma: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    if by == 1:
        return np.ascontiguousarray(luma)
    if by > 2:  # noqa: PLR2004 - the half has a way of its own
        return np.asarray(Image.fromarray(luma).reduce(by))
    height, width = luma.shape
    small = np.empty((-(-height // by), -(-width // by)), np.uint8)
    engine.ENGINE.halve(np.ascontiguousarray(luma), width, small)
    return small


def _boxes(luma: NDArray[np.uint8]) -> Sequence[_Box]:
    height, width = luma.shape
    scene = _Scene(
        _Box(0, 0, width, height),
        Edges(luma),
        Edges(np.ascontiguousarray(luma.T)),
        max(_LEAST_SIDE, int(_LEAST_SIDE_SHARE * min(height, width))),
        _LEAST_AREA_SHARE * height * width,
    )
    parts, leaves = _cut(scene)
    found = [(part, score) for part, score in parts.items() if part != scene.whole]
    found += [(frame, _FRAME_SCORE) for part, _ in found for frame in _frames(part, scene.whole)]
    for leaf in sorted(leaves, key=lambda leaf: -leaf.area)[:_MOST_LEAVES]:
        found += _rectangles(scene, leaf)
    found = [(box, score) for box, score in found if box != scene.whole and score >= _LEAST_SCORE]
    return _choose(found) if found else []


def _cut(scene: _Scene) -> tuple[dict[_Box, float], list[_Box]]:
    """Cut a picture at its bands, and the parts again.

    Returns:
        The parts with what each is worth, itself included; and those that nothing divides.
    """
    scores: dict[_Box, float] = {}
    leaves: list[_Box] = []
    seen = {scene.whole}
    waiting = [scene.whole]
    for _ in range(_MOST_CUTS):
        if not waiting:
            break
        part = max(waiting, key=lambda box: box.area)
        waiting.remove(part)
        across, strips_across = _pieces(scene.columns, part.top, part.bottom, part.left, part.right)
        down, strips_down = _pieces(scene.rows, part.left, part.right, part.top, part.bottom)
        widest = max((end - start for start, end in across), default=0)
        highest = max((end - start for start, end in down), default=0)
        if min(widest, highest) < scene.least_side:
            continue  # Empty, or text.
        whole = min(widest / (part.right - part.left), highest / (part.bottom - part.top))
        scores[part] = _PART_SCORE + _PART_WHOLE * whole
        inner = _Box(across[0][0], down[0][0], across[-1][1], down[-1][1])
        smaller = [inner] if inner != part else []
        if inner == part and len(across) == len(down) == 1:
            leaves.append(part)
        smaller += [
            _Box(left, top, right, bottom)
            for left, right in [s for s in strips_across if s[1] - s[0] >= scene.least_side]
            or [(inner.left, inner.right)]
            for top, bottom in [s for s in strips_down if s[1] - s[0] >= scene.least_side]
            or [(inner.top, inner.bottom)]
        ]
        if inner == part and len(down) >= len(across):
            smaller += [part._replace(top=top, bottom=bottom) for top, bottom in down]
        elif inner == part:
            smaller += [part._replace(left=left, right=right) for left, right in across]
        for box in smaller:
            if box not in seen and scene.holds(box):
                seen.add(box)
                waiting.append(box)
    return scores, leaves + waiting


def _pieces(
    edges: Edges, top: int, bottom: int, left: int, right: int
) -> tuple[list[_Interval], list[_Interval]]:
    """What uniform bands leave of a part, along one axis.

    Returns:
        The pieces between the bands. A band that an edge divides ends there: beyond it is a flat margin of
        the piece's own. And the strips from one such edge to the next, which hold a picture that bands of
        its own divide.
    """
    uniform = edges.uniform(top, bottom, left, right)
    if not uniform.any():
        return [(left, right)], []
    if uniform.all():
        return [], []
    steps = edges.steps(top, bottom, left, right)
    changes = np.flatnonzero(np.diff(uniform, prepend=True, append=True)) + left
    starts, ends = changes[::2].tolist(), changes[1::2].tolist()
    pieces = []
    before = left
    for start, end, following in zip(starts, ends, [*starts[1:], right], strict=True):
        margins_before = steps[(steps > before) & (steps < start)].tolist()
        margins_after = steps[(steps > end) & (steps < following)].tolist()
        pieces.append(
            (margins_before[-1] if margins_before else start, margins_after[0] if margins_after else end)
        )
        before = end
    at_bands = steps[uniform[steps - left] | uniform[steps - left - 1]]
    lines = [left, *at_bands[np.diff(at_bands, prepend=left - 1) > 1].tolist(), right]
    strips = list(pairwise(lines)) if 1 < len(lines) - 1 <= _MOST_STEPS else []
    return pieces, strips


def _frames(part: _Box, whole: _Box) -> Iterator[_Box]:
    """The same part with borders that are as wide on both sides, or on all four.

    Where a picture fades into its border, its own margin looks like border.
    """
    margins = (part.left, part.top, whole.right - part.right, whole.bottom - part.bottom)
    for sides in ((0, 1, 2, 3), (0, 2), (1, 3)):
        widths = [margins[side] for side in sides]
        least, most = min(widths), max(widths)
        elsewhere = any(margin for side, margin in enumerate(margins) if side not in sides)
        if not elsewhere and 0 < least < most <= _MOST_FRAME_RATIO * least + _FRAME_SLACK:
            left, top, right, bottom = (least if side in sides else 0 for side in range(4))
            yield _Box(left, top, whole.right - right, whole.bottom - bottom)


def _rectangles(scene: _Scene, leaf: _Box) -> list[tuple[_Box, float]]:
    """Rectangles whose sides are edges, or the ends of the part that they are looked for in."""
    xs = scene.columns.likely(leaf.top, leaf.bottom, leaf.left, leaf.right)
    ys = scene.rows.likely(leaf.left, leaf.right, leaf.top, leaf.bottom)
    if not len(xs) and not len(ys):
        return []
    xs = np.concatenate([[leaf.left], xs, [leaf.right]])
    ys = np.concatenate([[leaf.top], ys, [leaf.bottom]])
    lefts, rights = _pairs(xs, scene.least_side)
    tops, bottoms = _pairs(ys, scene.least_side)
    # One row for each pair of horizontal lines, one column for each pair of vertical ones.
    upright = scene.columns.shares(xs, ys[tops], ys[bottoms])
    level = scene.rows.shares(ys, xs[lefts], xs[rights])
    upright[:, [0, -1]] = level[:, [0, -1]] = 1
    sides = upright[:, lefts], upright[:, rights], level[:, tops].T, level[:, bottoms].T
    least = np.minimum(np.minimum(sides[0], sides[1]), np.minimum(sides[2], sides[3]))
    cuts_across = (lefts > 0).astype(np.float32) + (rights < len(xs) - 1)
    cuts_down = (tops > 0).astype(np.float32) + (bottoms < len(ys) - 1)
    cuts = cuts_down[:, np.newaxis] + cuts_across
    mean = (sides[0] + sides[1] + sides[2] + sides[3] - 4 + cuts) / np.maximum(cuts, 1)
    areas = (ys[bottoms] - ys[tops])[:, np.newaxis] * (xs[rights] - xs[lefts])
    likely = (least >= _LEAST_EDGE) & (mean >= _LEAST_MEAN_EDGE) & (cuts > 0) & (areas >= scene.least_area)
    down, across = np.nonzero(likely)
    if not len(down):
        return []
    scores = least[down, across] + mean[down, across] + _CUT_GAIN * cuts[down, across]
    scores += _AREA_GAIN * areas[down, across] / leaf.area
    lefts, rights, tops, bottoms = lefts[across], rights[across], tops[down], bottoms[down]
    divided = np.maximum(
        _strongest_within(upright[down], xs, lefts, rights),
        _strongest_within(level[across], ys, tops, bottoms),
    )
    scores -= _DIVIDED_LOSS * np.maximum(divided - 0.5, 0)
    best = np.argsort(-scores, kind="stable")[:_MOST_RECTANGLES]
    boxes = np.stack([xs[lefts], ys[tops], xs[rights], ys[bottoms]], axis=1)[best]
    return [(_Box(*box), score) for box, score in zip(boxes.tolist(), scores[best].tolist(), strict=True)]


def _pairs(lines: _Indices, least: int) -> tuple[_Indices, _Indices]:
    """All pairs of lines that are far enough apart: the indices of the first ones, and of the second."""
    first, second = _all_pairs(len(lines))
    apart = lines[second] - lines[first] >= least
    return first[apart], second[apart]


@cache
def _all_pairs(count: int) -> tuple[_Indices, _Indices]:
    """Of so many lines, which are few."""
    first, second = np.triu_indices(count, 1)
    return first, second


def _strongest_within(
    shares: NDArray[np.float32], lines: _Indices, starts: _Indices, ends: _Indices
) -> NDArray[np.float32]:
    """Of each rectangle, the largest share of the lines that divide it, not near its sides."""
    margin = np.maximum(4, (lines[ends] - lines[starts]) // 25)
    within = lines > (lines[starts] + margin)[:, np.newaxis]
    within &= lines < (lines[ends] - margin)[:, np.newaxis]
    strongest: NDArray[np.float32] = np.where(within, shares, np.float32(0)).max(axis=1)
    return strongest


def _choose(found: Sequence[tuple[_Box, float]]) -> list[_Box]:
    """The best ones, each choice making those that overlap it less likely; none of them twice."""
    boxes = np.array([box for box, _ in found], np.float32)
    scores = np.array([score for _, score in found], np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    areas = sizes[:, 0] * sizes[:, 1]
    chosen: list[_Box] = []
    while len(chosen) < _MOST:
        best = int(scores.argmax())
        if scores[best] <= 0:
            break
        chosen.append(found[best][0])
        box = boxes[best]
        overlaps = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
        shared = np.maximum(overlaps, 0).prod(axis=1)
        # To the fourth: several that are nearly right must not keep out the one that is.
        scores -= _OVERLAP_LOSS * (shared / (areas + areas[best] - shared)) ** 4
        # Closer than PDQ can tell apart.
        slack = np.maximum(1, np.tile(sizes[best], 2) / 100)
        scores[(np.abs(boxes - box) <= slack).all(axis=1)] = -np.inf
    return chosen
