from typing import Self

import numpy as np
from numpy.typing import NDArray

class Pixels:
    def __new__(cls, capsule: object, size: int, /) -> Self: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def add_rows(
    sums: NDArray[np.float32],
    rows: NDArray[np.uint8],
    top: int,
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    /,
) -> None: ...
def gather(
    sums: NDArray[np.float32],
    channels: NDArray[np.float32],
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    reduced: NDArray[np.float64],
    /,
) -> None: ...
def box_means(vectors: NDArray[np.float32], count: int, means: NDArray[np.float32], /) -> None: ...
def step_sums(reduced: NDArray[np.float64], noise: float, /) -> tuple[int, int, int]: ...
def forms_of(coefficients: NDArray[np.float64], doubt: float, /) -> tuple[bytes, bytes]: ...
def grey_of(pixels: NDArray[np.uint8], grey: NDArray[np.uint8], /) -> None: ...
def filter_for(length: int, /) -> bytes: ...
def shrink(rows: NDArray[np.uint8], by: bytes, shrunk: NDArray[np.uint8], /) -> None: ...
def halve(grey: NDArray[np.uint8], width: int, halved: NDArray[np.uint8], /) -> None: ...
def find_edges(
    luma: NDArray[np.uint8],
    width: int,
    most_flat: int,
    most_smooth: int,
    step: int,
    lasting_step: int,
    sums: NDArray[np.int16],
    flat: NDArray[np.bool_],
    edges: NDArray[np.int16],
    smooth: NDArray[np.int16],
    /,
) -> None: ...
def find_uniform(
    sums: NDArray[np.int16],
    flat: NDArray[np.bool_],
    width: int,
    first: int,
    last: int,
    left: int,
    right: int,
    near: int,
    outliers: int,
    share: float,
    uniform: NDArray[np.bool_],
    /,
) -> None: ...
def score_lines(
    edges: NDArray[np.int16],
    lines: int,
    first: int,
    last: int,
    left: int,
    right: int,
    window: int,
    scores: NDArray[np.float64],
    /,
) -> None: ...
