"""What plain PDQ finds of an edited picture, and what Cordon finds, side by side.

A bank holds the PDQ of each picture as it is, by ``pdqhash``. The picture is then edited, saved anew and
hashed by Cordon's decoder. Plain PDQ is the hash of the whole, whose bits are those of ``pdqhash``; Cordon is
that hash and all variants. Found means within 31 bits, at quality 50 or more. Then: do pictures that have
nothing to do with each other stay apart?

Drawn pictures come with it. Photographs say more: name folders of some.
"""

import argparse
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

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
DISTINCT: Final = 1_000_000
"""Seeds from here on are of pictures that are used nowhere else."""

BLOCK: Final = 2048
TOLD_DISTANCE: Final = 80
"""Farther pairs of unrelated pictures are too many to keep."""

OTHERS: Final = (400, 300)
LIMITS: Final = Limits(
    max_pixels=100_000_000, max_frames=1, max_decode_bytes=2**30, disabled_formats=frozenset()
)

TARGETS: Final[Mapping[str, float]] = {
    **dict.fromkeys(edits.SYMMETRIES, 100),
    **dict.fromkeys(("border of 2 %", "border of 5 %", "border of 10 %"), 95),
    **dict.fromkeys(("letterbox", "pillarbox", "caption bar"), 95),
    **dict.fromkeys((name for name in edits.FRAMES if name.startswith("screenshot")), 90),
    "collage of 2 by 2": 80,
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


class Figures(NamedTuple):
    """A table: what its columns are, and its rows."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        """As documentation holds it."""
        lines = [self.columns, ["---", *["--:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def as_table(self) -> Table:
        """As a terminal shows it."""
        table = Table(self.columns[0])
        for column in self.columns[1:]:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*row)
        return table


def main() -> None:
    """Measure, and print two tables."""
    arguments = argparse.ArgumentParser(
        prog="python -m bench.detection", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    arguments.add_argument("folders", nargs="*", type=Path, help="folders of photographs")
    arguments.add_argument("--photographs", type=int, default=100, help="most of them (100)")
    arguments.add_argument("--drawn", type=int, default=40, help="drawn ones beside them (40)")
    arguments.add_argument("--benign", type=int, default=2000, help="pictures for the false matches (2000)")
    arguments.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = arguments.parse_args()
    for folder in asked.folders:
        if not folder.is_dir():
            arguments.error(f"{folder}: no such folder")
    console = Console()
    files = [
        path
        for folder in asked.folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    random.Random(SEED).shuffle(files)
    real = list(islice(photographs(files), asked.photographs))
    every = (photograph(pictures.photograph(seed)) for seed in range(asked.drawn))
    drawn = [each for each in every if each is not None]
    print(f"{len(real)} photographs, {len(drawn)} drawn pictures")
    for figures in (counted(real, drawn), apart(asked.benign, files[::-1])):
        if asked.markdown:
            print(figures.as_markdown(), end="\n\n")
        else:
            console.print(figures.as_table())


def photographs(files: Iterable[Path]) -> Iterator[Photograph]:
    """What files hold that are distinct pictures of fair size and quality."""
    seen: set[bytes] = set()
    for path in files:
        try:
            picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except (UnidentifiedImageError, OSError):
            continue
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        found = photograph(picture)
        if min(picture.size) >= SMALLEST_SIDE and found is not None and found.value not in seen:
            seen.add(found.value)
            yield found


def photograph(picture: Image.Image) -> Photograph | None:
    """With its hash; None if no bank would take it for want of quality."""
    vector, quality = pdqhash.compute(np.asarray(picture))
    value = np.packbits(vector.astype(bool)).tobytes()
    return Photograph(picture, value) if quality >= PDQ_MINIMUM_QUALITY else None


@dataclass(frozen=True)
class Searched:
    """What a medium is looked up by, as far as its quality allows.

    Attributes:
        plain: the hash of the whole picture, if any.
        values: that and the hashes of all variants.
        regions: how many parts they come from.
    """

    plain: Sequence[bytes] = field(repr=False)
    values: Sequence[bytes] = field(repr=False)
    regions: int


def searched(medium: bytes) -> Searched:
    """Hash a medium as the decoder does."""
    plain: list[bytes] = []
    variants: list[bytes] = []
    regions = 0
    for told in scan(medium, LIMITS):
        if isinstance(told, Rendering) and told.quality >= PDQ_MINIMUM_QUALITY:
            plain.append(told.pdq)
        if isinstance(told, Forms) and told.quality >= PDQ_MINIMUM_QUALITY:
            regions += told.region is not None
            variants += [told.hashes[at : at + PDQ_BYTES] for at in range(0, len(told.hashes), PDQ_BYTES)]
    return Searched(plain, [*plain, *variants], regions)


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
    found_of = Count()
    for place, subject in enumerate(subjects):
        rest = [*subjects[:place], *subjects[place + 1 :]]
        others = [each.picture for each in chance.sample(rest, min(8, len(rest)))]
        hashed = searched(edited(name, subject, others, chance))
        found_of.pictures += 1
        found_of.plain += found(subject.value, hashed.plain)
        found_of.own += found(subject.value, hashed.values)
        found_of.regions += hashed.regions
    return found_of


def counted(real: Sequence[Photograph], drawn: Sequence[Photograph]) -> Figures:
    """All edits, for the photographs and for the drawn pictures."""
    groups = {"photographs": real, "drawn pictures": drawn}
    present = {name: group for name, group in groups.items() if group}
    columns = [f"{name}: {what}" for name in present for what in ("plain PDQ", "Cordon", "regions")]
    rows = []
    names = [*edits.SYMMETRIES, *edits.FRAMES, *edits.ENCODINGS, *edits.DEGRADATIONS, *edits.EVASIONS]
    for name in track(names, "Editing"):
        row = [name]
        for group in present.values():
            found_of = count(name, group)
            row += [percent(found_of.plain, found_of), percent(found_of.own, found_of)]
            row.append(f"{found_of.regions / found_of.pictures:.1f}")
        rows.append((*row, f"{TARGETS[name]:.0f} %" if name in TARGETS else ""))
    return Figures(("edit", *columns, "target"), rows)


def percent(some: int, of: Count) -> str:
    """A share of the pictures."""
    return f"{100 * some / of.pictures:.1f} %"


def apart(most: int, files: Sequence[Path]) -> Figures:
    """False matches among all pairs of distinct benign pictures: each looked up in a bank of the others.

    A third are photographs, some of them in screenshots and collages, a third pages, a third screens.
    """
    entries: list[bytes] = []
    holders: list[int] = []
    queries: list[bytes] = []
    owners: list[int] = []
    given = photographs(files)
    for number in track(range(most), "Hashing benign pictures"):
        hashed = searched(edits.encode(benign(number, given)))
        entries += hashed.plain
        holders += [number] * len(hashed.plain)
        queries += hashed.values
        owners += [number] * len(hashed.values)
    bank = words(entries), np.array(holders)
    plainly = distances(*bank, *bank)
    every = distances(words(queries), np.array(owners), *bank)
    columns = "distinct benign pictures", "hashed as", "values", "false pairs", "nearest pair"
    rows = []
    for name, values, found_of in (("plain PDQ", entries, plainly), ("Cordon", queries, every)):
        near = [pair for pair, distance in found_of.items() if distance <= PDQ_DEFAULT_THRESHOLD]
        nearest = str(min(found_of.values())) if found_of else f"{TOLD_DISTANCE} or more"
        rows.append((f"{most:,}", name, f"{len(values):,}", str(len(near)), f"{nearest} bits"))
    alone = [
        pair for pair in every if every[pair] <= PDQ_DEFAULT_THRESHOLD < plainly.get(pair, TOLD_DISTANCE)
    ]
    return Figures(columns, [*rows, (f"{most:,}", "Cordon alone", "", str(len(alone)), "")])


def benign(number: int, given: Iterator[Photograph]) -> Image.Image:
    """One of endlessly many pictures that have nothing in common."""
    chance = random.Random(number)
    if number % 3:
        return (pictures.document, pictures.screen)[number % 3 - 1](DISTINCT + number)
    real = next(given, None)
    picture = real.picture if real else pictures.photograph(DISTINCT + number)
    if number % 12:
        return picture
    others = [pictures.photograph(DISTINCT * (2 + part) + number, OTHERS) for part in range(8)]
    return chance.choice(list(edits.FRAMES.values()))(picture, others, chance)


def words(values: Sequence[bytes]) -> NDArray[np.uint64]:
    """Values as rows of four words."""
    return np.frombuffer(b"".join(values), np.uint64).reshape(-1, 4)


def distances(
    queries: NDArray[np.uint64],
    owners: NDArray[np.int64],
    bank: NDArray[np.uint64],
    holders: NDArray[np.int64],
) -> dict[tuple[int, int], int]:
    """The smallest distance of each pair of a picture and another's entry, where it is not large."""
    smallest: dict[tuple[int, int], int] = {}
    for begin in range(0, len(queries), BLOCK):
        block = queries[begin : begin + BLOCK]
        bits = np.zeros((len(block), len(bank)), np.uint16)
        for word in range(PDQ_BYTES // 8):
            bits += np.bitwise_count(block[:, word, np.newaxis] ^ bank[:, word])
        for query, entry in np.argwhere(bits < TOLD_DISTANCE).tolist():
            pair = int(owners[begin + query]), int(holders[entry])
            if pair[0] != pair[1]:
                smallest[pair] = min(int(bits[query, entry]), smallest.get(pair, TOLD_DISTANCE))
    return smallest


if __name__ == "__main__":
    main()
