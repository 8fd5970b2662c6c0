"""What decoding and hashing take is no more than what is asked for beforehand."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hashing.drawings import drawing, encoded, turned

SCRIPT = """
import os, sys
from pathlib import Path
from app.hashing import scan
from app.hashing.records import Limits, Need
from app.media import Rendering
scan.preload()
def taken(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024
for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    # As in the sandbox, a fork decodes: its peak starts at what it has.
    medium = Path(path).read_bytes()
    before = taken("VmSize")
    scanning = scan.scan(medium, Limits(10**8, 500, 2**40, frozenset()))
    need = reason = None
    renderings = 0
    while True:
        try:
            told = next(scanning)
        except StopIteration as end:
            reason = end.value
            break
        if isinstance(told, Need):
            need = told.bytes
        else:
            renderings += isinstance(told, Rendering)
    print(Path(path).name, need, taken("VmPeak") - before, renderings, reason, sep="|", flush=True)
    os._exit(0)
"""

SIZE = (1600, 1200)

SLACK_BYTES = 4 * 2**20
"""What allocators round up by."""


@cache
def drawn(seed: int) -> Image.Image:
    return drawing(seed, SIZE)


def translucent() -> Image.Image:
    picture = drawn(2).copy()
    picture.putalpha(drawn(3).convert("L"))
    return picture


def mirrored() -> Image.Image:
    """PDQ's reference is asked for it."""
    half = np.asarray(drawing(4, (768, 1024)))
    return Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))


CASES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(drawn(1), "JPEG", exif=turned(6)),
    "progressive jpeg": lambda: encoded(drawn(1), "JPEG", progressive=True, subsampling=0),
    "png": lambda: encoded(translucent(), "PNG", compress_level=1),
    "palette png": lambda: encoded(drawn(1).quantize(16), "PNG", compress_level=1),
    "apng": lambda: encoded(
        translucent(),
        "PNG",
        compress_level=1,
        append_images=[translucent().transpose(Image.Transpose.ROTATE_180)],
    ),
    "mirrored png": lambda: encoded(mirrored(), "PNG", compress_level=1),
    "gif": lambda: encoded(
        drawn(1).quantize(16),
        "GIF",
        append_images=[drawn(2).quantize(16), drawn(3).quantize(16)],
        disposal=3,
    ),
    "webp": lambda: encoded(translucent(), "WEBP", lossless=True, quality=0, method=0),
    "animated webp": lambda: encoded(drawn(1), "WEBP", method=0, append_images=[translucent()]),
    "turned tiff": lambda: encoded(
        drawn(1), "TIFF", compression="tiff_lzw", tiffinfo={274: 6}, strip_size=2**31 - 1
    ),
    "float tiff": lambda: encoded(drawn(1).convert("F"), "TIFF"),
    "bmp": lambda: encoded(drawn(1), "BMP"),
    "avif": lambda: encoded(translucent(), "AVIF", speed=10, subsampling="4:4:4"),
}


def test_no_medium_takes_more_memory_than_it_asks_for(tmp_path: Path) -> None:
    for name, draw in CASES.items():
        (tmp_path / name).write_bytes(draw())
    outcome = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in CASES)],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line.split("|") for line in outcome.stdout.splitlines()]
    assert [name for name, *_ in told] == list(CASES)
    for name, need, taken, renderings, reason in told:
        assert reason == "None", name
        assert int(renderings) >= 1, name
        assert int(taken) <= int(need) + SLACK_BYTES, name
        # And what is asked for is no fantasy, or few media could be decoded at once.
        assert int(need) <= 4 * int(taken) + 40 * 2**20, name
