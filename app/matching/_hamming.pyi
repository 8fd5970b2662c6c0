import numpy as np
from numpy.typing import NDArray

def search(
    rows: NDArray[np.uint64],
    words: int,
    directory: NDArray[np.uint32],
    postings: NDArray[np.uint32],
    cuts: NDArray[np.int32],
    queries: NDArray[np.uint64],
    doubts: NDArray[np.uint64],
    threshold: int,
    limit: int,
    most: int,
    number: int,
    row: int,
    /,
) -> tuple[bytes, int, int]: ...
def build_band(
    rows: NDArray[np.uint64],
    words: int,
    start: int,
    width: int,
    next_start: int,
    next_width: int,
    directory: NDArray[np.uint32],
    postings: NDArray[np.uint32],
    /,
) -> None: ...
def shuffle(
    values: NDArray[np.uint8], words: int, table: NDArray[np.uint64], rows: NDArray[np.uint64], /
) -> None: ...
