"""Draws the pictures of docs/detection.md: ``python -m bench.sheets``.

Each shows edits of one drawn photograph, and how near the nearest variant came to the entry in the bank. The
region whose hash matched is outlined, unless that was the whole picture.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from app.hashing.records import Forms
from app.hashing.scan import scan
from app.media import PDQ_BYTES, PDQ_DEFAULT_THRESHOLD, PDQ_MINIMUM_QUALITY, Region
from bench import edits, pictures
from bench.detection import LIMITS, Photograph, photograph

SUBJECT: Final = 10
CELL: Final = (220, 210)
CAPTION: Final = 34
COLUMNS: Final = 4
COLOURS: Final = 160
FOUND: Final = (20, 140, 60)
MISSED: Final = (190, 40, 30)

LEFT_OUT: Final = ("border of 2 %", "border of 10 %", "paused video on a page", "crop of 2 %")
SHOWN: Final[Mapping[str, Mapping[str, edits.Edit]]] = {
    "found": {
        "flipped and turned": edits.SYMMETRIES["flipped and turned"],
        "negative": edits.SYMMETRIES["negative"],
        **{name: edit for name, edit in edits.FRAMES.items() if name not in LEFT_OUT},
    },
    "missed": {name: edit for name, edit in edits.EVASIONS.items() if name not in LEFT_OUT},
}


def main() -> None:
    """Write both sheets."""
    argparse.ArgumentParser(prog="python -m bench.sheets", description=__doc__).parse_args()
    folder = Path(__file__).parent.parent / "docs" / "images"
    subject = photograph(pictures.photograph(SUBJECT))
    if subject is None:
        raise SystemExit("the subject has too little structure to be hashed")
    others = [pictures.photograph(SUBJECT + place) for place in range(1, 9)]
    for sheet, shown in SHOWN.items():
        cells = [cell(name, edit, subject, others) for name, edit in shown.items()]
        path = folder / f"detection-{sheet}.png"
        arranged(cells).quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
        print(path)


def cell(name: str, edit: edits.Edit, subject: Photograph, others: Sequence[Image.Image]) -> Image.Image:
    """One edit, what was found in it, and how near that came."""
    edited = edit(subject.picture, others, random.Random(name))
    distance, region = nearest(edits.encode(edited), subject.value)
    matched = distance <= PDQ_DEFAULT_THRESHOLD
    scale = min(CELL[0] / edited.width, CELL[1] / edited.height)
    size = round(edited.width * scale), round(edited.height * scale)
    small = edited.resize(size, Image.Resampling.LANCZOS)
    drawn = Image.new("RGB", (CELL[0], CELL[1] + CAPTION), (255, 255, 255))
    left = (CELL[0] - small.width) // 2
    drawn.paste(small, (left, CELL[1] - small.height))
    pen = ImageDraw.Draw(drawn)
    if matched and region is not None:
        top = CELL[1] - small.height
        corners = (region.left, region.top, region.left + region.width, region.top + region.height)
        box = [round(corner * scale) + (left, top)[at % 2] for at, corner in enumerate(corners)]
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=FOUND, width=3)
    words = f"{name}: {distance} bits"
    font = ImageFont.load_default(13)
    pen.text((CELL[0] // 2, CELL[1] + 6), words, FOUND if matched else MISSED, font, anchor="ma")
    return drawn


def nearest(medium: bytes, entry: bytes) -> tuple[int, Region | None]:
    """The smallest distance of any variant, and the part that it is of."""
    found: list[tuple[int, Region | None]] = []
    for forms in scan(medium, LIMITS):
        if isinstance(forms, Forms) and forms.quality >= PDQ_MINIMUM_QUALITY:
            for at in range(0, len(forms.hashes), PDQ_BYTES):
                value = int.from_bytes(forms.hashes[at : at + PDQ_BYTES])
                found.append(((value ^ int.from_bytes(entry)).bit_count(), forms.region))
    return min(found, key=lambda each: each[0])


def arranged(cells: Sequence[Image.Image]) -> Image.Image:
    """Cells in rows."""
    rows = -(-len(cells) // COLUMNS)
    gap = 12
    width, height = CELL[0] + gap, CELL[1] + CAPTION + gap
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), (255, 255, 255))
    for place, each in enumerate(cells):
        sheet.paste(each, ((place % COLUMNS) * width + gap // 2, (place // COLUMNS) * height + gap // 2))
    return sheet


if __name__ == "__main__":
    main()
