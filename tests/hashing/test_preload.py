"""After ``preload`` nothing is imported, opened or started, whatever is scanned."""

import os
import subprocess
import sys

import pytest

from app.hashing import pdq, samples, scan
from app.hashing.workers import ENVIRONMENT

SCRIPT = """
import os, sys
from app.hashing import samples, scan
from app.hashing.records import Limits
scan.preload()
media = list(samples.every())
media += [medium[: len(medium) // 2] for medium in media]
media += [medium[:-7] + b"damaged" for medium in media]
limits = Limits(2**20, 10, 2**30, frozenset())
happened = []
def watch(event, arguments):
    if event in ("open", "import", "ctypes.dlopen") or event.startswith(("os.", "socket.", "subprocess.")):
        happened.append((event, arguments))
sys.addaudithook(watch)
reasons = []
for medium in media:
    scanning = scan.scan(medium, limits)
    while True:
        try:
            next(scanning)
        except StopIteration as end:
            reasons.append(end.value)
            break
found = list(happened)
threads = len(os.listdir("/proc/self/task"))
whole = len(list(samples.every()))
print(found, threads, all(reason is None for reason in reasons[:whole]), len(reasons) == 4 * whole)
"""


def test_nothing_is_opened_imported_or_started_after_preload() -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.stdout == "[] 1 True True\n", outcome.stderr


def test_a_large_picture_lies_in_one_piece_in_a_decoder() -> None:
    told = (
        "from PIL import Image; from app.hashing.engine import pixels_in_place; "
        "print(pixels_in_place(Image.new('RGB', (6000, 4000))) is not None)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", told],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.stdout == "True\n", outcome.stderr


def test_a_machine_whose_hashes_differ_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdq, "_LUMA", (0.114, 0.587, 0.299))
    with pytest.raises(RuntimeError, match="differs from pdqhash"):
        scan.preload()


def test_a_decoder_that_cannot_read_its_sample_does_not_get_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "HEIC", samples.HEIC[:-100])
    with pytest.raises(RuntimeError, match="its own sample"):
        scan.preload()
