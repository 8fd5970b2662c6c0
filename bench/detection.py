"""What plain PDQ finds of an edited picture, and what Cordon finds, side by side.

The bank holds the PDQ of each picture as it is. Each is then edited, saved anew and hashed: once as a peer
does (``pdqhash`` on the decoded pixels), once as Cordon's decoder does, with every variant on. Found means
within 31 bits at quality 50 or more. Then: do pictures that have nothing to do with each other stay apart?

``python -m bench.detection`` uses drawn pictures; real photographs say more, so name folders of some.
"""

import argparse
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.hashing.records import Forms, Limits
from app.hashing.scan import scan
from app.media import PDQ_BYTES, PDQ_DEFAULT_THRESHOLD, PDQ_MINIMUM_QUALITY, Rendering
from bench import edits, pictures

SEED: Final = 20_260_101
SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp"}
LARGEST_SIDE: Final = 2000
SMALLEST_SIDE: Final = 300
LIMITS: Final = Limits(
    max_pixels=100_000_000, max_frames=1, max_decode_bytes=2**30, disabled_formats=frozenset()
)

TARGETS: Final[Mapping[str, float]] = {
    **dict.fromkeys(edits.SYMMETRIES, 100),
    **dict.fromkeys(("border of 2 %", "border of 5 %", "border of 10 %"), 95),
    **dict.fromkeys(("letterbox", "pillarbox", "caption bar"), 95),
    **dict.fromkeys((name for name in edits.FRAMES if name.startswith("screenshot")), 90),
    "collage of 2 × 2": 80,
    **dict.fromkeys((name for name in edits.ENCODINGS if name != "JPEG, quality 30"), 100),
}
"""In percent of the pictures."""


@dataclass(frozen=True)
class Photograph:
    """A picture and what a bank would hold of it."""

    picture: Image.Image
    value: bytes = field(repr=False)


@dataclass
class Count:
    """How many of the pictures were found, and how many regions it took."""

    pictures: int = 0
    plain: int = 0
    own: int = 0
    regions: int = 0


def main() -> None:
    """Measure, and print two tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("folders", nargs="*", type=Path, help="folders of photographs")
    arguments.add_argument("--photographs", type=int, default=100, help="most of them (100)")
    arguments.add_argument("--drawn", type=int, default=40, help="drawn ones beside them (40)")
    arguments.add_argument("--benign", type=int, default=2000, help="pictures for the false matches (2000)")
    asked = arguments.parse_args()
    console = Console()
    files = [
        path
        for folder in asked.folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    random.Random(SEED).shuffle(files)
    real = take(files, asked.photographs)
    drawn = [photograph(pictures.photograph(seed)) for seed in range(asked.drawn)]
    console.print(f"{len(real)} photographs, {len(drawn)} drawn pictures")
    console.print(table(real, drawn))
    console.print(apart(asked.benign))


def take(files: Sequence[Path], most: int) -> list[Photograph | None]:
    """The first files that hold distinct pictures of fair size and quality."""
    taken: list[Photograph | None] = []
    seen: set[bytes] = set()
    for path in files:
        if len(taken) == most:
            break
        try:
            picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except (UnidentifiedImageError, OSError):
            continue
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        found = photograph(picture)
        if min(picture.size) >= SMALLEST_SIDE and found is not None and found.value not in seen:
            seen.add(found.value)
            taken.append(found)
    return taken


def photograph(picture: Image.Image) -> Photograph | None:
    """With its hash; None if no bank would take it for want of quality."""
    value, quality = plain(picture)
    return Photograph(picture, value) if quality >= PDQ_MINIMUM_QUALITY else None


def plain(picture: Image.Image) -> tuple[bytes, int]:
    """As a peer hashes it."""
    vector, quality = pdqhash.compute(np.asarray(picture.convert("RGB")))
    return np.packbits(vector.astype(bool)).tobytes(), int(quality)


def own(medium: bytes) -> tuple[list[bytes], int]:
    """All values that Cordon would look up, and of how many regions."""
    values: list[bytes] = []
    regions = 0
    for told in scan(medium, LIMITS):
        if isinstance(told, Rendering) and told.quality >= PDQ_MINIMUM_QUALITY:
            values.append(told.pdq)
        if isinstance(told, Forms) and told.quality >= PDQ_MINIMUM_QUALITY:
            regions += told.region is not None
            values += [told.hashes[at : at + PDQ_BYTES] for at in range(0, len(told.hashes), PDQ_BYTES)]
    return values, regions


def found(entry: bytes, values: Sequence[bytes]) -> bool:
    """Whether one of the values is within the threshold."""
    return any(
        (int.from_bytes(entry) ^ int.from_bytes(value)).bit_count() <= PDQ_DEFAULT_THRESHOLD
        for value in values
    )


def edited(name: str, subject: Photograph, others: Sequence[Image.Image], chance: random.Random) -> bytes:
    """The file that comes in."""
    if name in edits.ENCODINGS:
        return edits.encode(subject.picture, **edits.ENCODINGS[name])
    every = {**edits.SYMMETRIES, **edits.FRAMES, **edits.DEGRADATIONS, **edits.EVASIONS}
    return edits.encode(every[name](subject.picture, others, chance))


def count(name: str, subjects: Sequence[Photograph]) -> Count:
    """Edit each picture, and look for it."""
    chance = random.Random(f"{SEED} {name}")
    counted = Count()
    for place, subject in enumerate(subjects):
        others = [each.picture for each in chance.sample([*subjects[:place], *subjects[place + 1 :]], 8)]
        medium = edited(name, subject, others, chance)
        value, quality = plain(Image.open(io.BytesIO(medium)))
        values, regions = own(medium)
        counted.pictures += 1
        counted.plain += quality >= PDQ_MINIMUM_QUALITY and found(subject.value, [value])
        counted.own += found(subject.value, values)
        counted.regions += regions
    return counted


def table(real: Sequence[Photograph | None], drawn: Sequence[Photograph | None]) -> Table:
    """All edits, for the photographs and for the drawn pictures."""
    groups = [[each for each in group if each is not None] for group in (real, drawn)]
    shown = Table("edit")
    for name, group in zip(("photographs", "drawn pictures"), groups, strict=True):
        if group:
            for column in ("plain PDQ", "Cordon", "regions"):
                shown.add_column(f"{name}: {column}", justify="right")
    shown.add_column("target", justify="right")
    names = [*edits.SYMMETRIES, *edits.FRAMES, *edits.ENCODINGS, *edits.DEGRADATIONS, *edits.EVASIONS]
    for name in track(names, "Editing"):
        row = []
        for group in groups:
            if group:
                counted = count(name, group)
                row += [percent(counted.plain, counted), percent(counted.own, counted)]
                row.append(f"{counted.regions / counted.pictures:.1f}")
        shown.add_row(name, *row, f"{TARGETS[name]:.0f} %" if name in TARGETS else "")
    return shown


def percent(some: int, counted: Count) -> str:
    """A share of the pictures."""
    return f"{100 * some / counted.pictures:.1f} %"


def apart(most: int) -> Table:
    """False matches among all pairs of distinct benign pictures, each against each as a bank holds it."""
    entries, queries, owners = [], [], []
    kinds = (pictures.photograph, pictures.document, pictures.screen)
    for seed in track(range(most), "Drawing"):
        picture = kinds[seed % 3](100_000 + seed)
        if seed % 12 == 0:
            name = random.Random(seed).choice(list(edits.FRAMES))
            others = [pictures.photograph(10**6 * (part + 1) + seed) for part in range(8)]
            picture = edits.FRAMES[name](picture, others, random.Random(seed))
        medium = edits.encode(picture)
        value, quality = plain(Image.open(io.BytesIO(medium)))
        entries.append((value, quality))
        values, _ = own(medium)
        queries += values
        owners += [seed] * len(values)
    counted = quality_entries = np.array([quality >= PDQ_MINIMUM_QUALITY for _, quality in entries])
    bank = words([value for value, _ in entries])
    plainly = pairs(bank, np.arange(len(entries)), bank, counted, counted)
    every = pairs(words(queries), np.array(owners), bank, np.ones(len(queries), bool), quality_entries)
    shown = Table(
        "distinct benign pictures", "values looked up", "pairs: plain PDQ", "pairs: Cordon", "Cordon alone"
    )
    shown.add_row(
        f"{most:,}", f"{len(queries):,}", str(len(plainly)), str(len(every)), str(len(every - plainly))
    )
    return shown


def words(values: Sequence[bytes]) -> NDArray[np.uint64]:
    """Values as rows of four words."""
    return np.frombuffer(b"".join(values), np.uint64).reshape(-1, 4)


def pairs(
    queries: NDArray[np.uint64],
    owners: NDArray[np.int64],
    bank: NDArray[np.uint64],
    asked: NDArray[np.bool_],
    held: NDArray[np.bool_],
) -> set[tuple[int, int]]:
    """Which pictures match which others' entries: pairs of the query's owner and the entry."""
    return set(_pairs(queries, owners, bank, asked, held))


def _pairs(
    queries: NDArray[np.uint64],
    owners: NDArray[np.int64],
    bank: NDArray[np.uint64],
    asked: NDArray[np.bool_],
    held: NDArray[np.bool_],
) -> Iterator[tuple[int, int]]:
    for begin in range(0, len(queries), 4096):
        block = queries[begin : begin + 4096]
        distances = sum(
            np.bitwise_count(block[:, word, np.newaxis] ^ bank[np.newaxis, :, word]).astype(np.uint16)
            for word in range(4)
        )
        near = (distances <= PDQ_DEFAULT_THRESHOLD) & held & asked[begin : begin + 4096, np.newaxis]
        for query, entry in np.argwhere(near).tolist():
            owner = int(owners[begin + query])
            if owner != entry:
                yield owner, entry


if __name__ == "__main__":
    main()
