"""Where no hash is told, a quick look may decide; the verdict is the canonical one, at every distance."""

import asyncio
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from app.context import Context
from app.hashing import fallback, pdq
from app.hashing.sandbox import Sandbox
from app.matching.loaded import LoadedBanks
from app.media import (
    PDQ_DEFAULT_THRESHOLD,
    BankAction,
    Provenance,
    Scan,
    SignalType,
    VariantKind,
    Verdict,
)
from app.pipeline import Arrived, Gate, Receipt, Submission, ingest
from app.quarantine import Quarantine, QuarantinedMedia
from app.settings import HashingSettings, Profile
from tests.hashing.drawings import drawing, encoded, turned
from tests.matching.test_loaded import bank, held, loaded

PICTURES = 200
EVERYTHING = 256 * 1024 * 1024


@dataclass(frozen=True)
class Planted:
    """A picture, and an entry so many bits from one of its canonical forms."""

    jpeg: bytes
    entry: bytes
    distance: int


def planted() -> Iterator[Planted]:
    """JPEGs of many kinds; half of the entries hardest to find by a hash that is off."""
    chance = np.random.default_rng(11)
    sizes = [(1280, 900), (800, 600), (641, 479), (900, 1201), (400, 300)]
    distances = [*range(20, 41), 30, 31, 32, 33]
    for number in range(PICTURES):
        picture = drawing(1000 + number, sizes[number % len(sizes)])
        if number % 6 == 5:
            # Little contrast, so that much is in doubt.
            picture = Image.fromarray((np.asarray(picture, np.float32) / 2 + 60).astype(np.uint8))
        jpeg = encoded(
            picture,
            "JPEG",
            quality=int(chance.integers(35, 97)),
            subsampling=int(chance.integers(0, 3)),
            progressive=number % 4 == 3,
            exif=turned(1 + number % 8 if number % 3 == 0 else 1),
        )
        form, margins = canonical_form(
            jpeg, turned_as=1 + number % 8 if number % 3 == 0 else 1, which=number % 8
        )
        distance = distances[number % len(distances)]
        bits = np.unpackbits(np.frombuffer(form, np.uint8))
        # Bits that the quick look cannot have wrong, or those that it may.
        order = np.argsort(-margins if number % 2 else margins)
        bits[order[:distance]] ^= 1
        yield Planted(jpeg, np.packbits(bits).tobytes(), distance)


def canonical_form(jpeg: bytes, *, turned_as: int, which: int) -> tuple[bytes, np.ndarray]:
    """One of the eight symmetries' hashes, and how far each bit's coefficient is from the median."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image = image.transpose(_TRANSPOSITIONS[turned_as]) if turned_as in _TRANSPOSITIONS else image
    pixels = np.asarray(image)
    downsampler = pdq.Downsampler(*pixels.shape[:2])
    downsampler.add(pixels)
    spectrum = pdq.analyse(downsampler.finish(), *pixels.shape[:2])
    form = spectrum.forms[which * 32 : which * 32 + 32]
    coefficients = fallback.symmetries(spectrum.coefficients)[which]
    margins = np.abs(coefficients - np.sort(coefficients)[127])[::-1]
    return form, margins


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass
class CountingHasher:
    """A sandbox, and how often it was asked to look quickly, and closely."""

    sandbox: Sandbox
    looks: Counter[bool] = field(default_factory=Counter)

    async def scan(
        self, media: QuarantinedMedia, variants: frozenset[VariantKind], *, quick: bool = False
    ) -> Scan:
        self.looks[quick] += 1
        return await self.sandbox.scan(media, variants, quick=quick)


@dataclass(frozen=True)
class FixedBanks:
    """Banks that are always ready."""

    banks: LoadedBanks

    def ready(self, _names: frozenset[str] | None) -> LoadedBanks:
        return self.banks


@dataclass
class Judge:
    """A gate without a store, and what it says."""

    gate: Gate

    async def verdict(self, medium: bytes, *, tell_signals: bool) -> Receipt:
        async def arrive(media: QuarantinedMedia) -> Arrived:
            media.write(medium)
            return Arrived(Provenance(datetime.now(UTC)), Context())

        submission = Submission("01J", "http", None, Profile())
        return await ingest(self.gate, submission, arrive, tell_signals=tell_signals)


def judge(sandbox: Sandbox, banks: LoadedBanks) -> tuple[Judge, CountingHasher]:
    hasher = CountingHasher(sandbox)
    gate = Gate(
        quarantine=Quarantine(EVERYTHING),
        hasher=hasher,
        banks=FixedBanks(banks),
        outbox=None,
        max_bytes=EVERYTHING,
        max_video_bytes=EVERYTHING,
        low_quality="withhold",
    )
    return Judge(gate), hasher


BLOCKING = replace(bank(1, "known"), action=BankAction.BLOCK)


def test_a_quick_verdict_is_the_canonical_one() -> None:
    """200 varied JPEGs, each with an entry planted 20 to 40 bits from one of its forms."""
    pictures = list(planted())
    banks = loaded([BLOCKING], [held(SignalType.PDQ, 1, *(each.entry for each in pictures))])

    async def judged() -> tuple[list[tuple[Receipt, Receipt]], Counter[bool]]:
        async with Sandbox(HashingSettings.model_validate({"decoders": 2})) as sandbox:
            deciding, hasher = judge(sandbox, banks)
            quick = [await deciding.verdict(each.jpeg, tell_signals=False) for each in pictures]
            looks = hasher.looks.copy()
            told = [await deciding.verdict(each.jpeg, tell_signals=True) for each in pictures]
            return list(zip(quick, told, strict=True)), looks

    receipts, looks = asyncio.run(judged())
    for each, (quick, told) in zip(pictures, receipts, strict=True):
        assert (quick.verdict, quick.disposition, quick.reason, quick.matched_banks) == (
            told.verdict,
            told.disposition,
            told.reason,
            told.matched_banks,
        )
        right = Verdict.MATCH if each.distance <= PDQ_DEFAULT_THRESHOLD else Verdict.CLEAR
        assert told.verdict in {right, Verdict.UNDECIDABLE}
        assert quick.signals is None
    # Those that PDQ cannot speak for are few.
    assert sum(told.verdict is Verdict.UNDECIDABLE for _, told in receipts) < PICTURES / 10
    assert looks[True] == PICTURES
    # What is near, or in doubt, was looked at again; much of the rest was not.
    assert looks[False] < PICTURES


def test_what_is_near_nothing_is_looked_at_once() -> None:
    picture = encoded(drawing(7, (1200, 800)), "JPEG", quality=85)
    banks = loaded([BLOCKING], [held(SignalType.PDQ, 1, bytes(range(32)))])

    async def judged() -> tuple[Receipt, Counter[bool]]:
        async with Sandbox(HashingSettings()) as sandbox:
            deciding, hasher = judge(sandbox, banks)
            return await deciding.verdict(picture, tell_signals=False), hasher.looks

    receipt, looks = asyncio.run(judged())
    assert receipt.verdict is Verdict.CLEAR
    assert looks == {True: 1}


@pytest.mark.parametrize("of", [SignalType.PHASH, SignalType.MD5, SignalType.SHA1, SignalType.SHA256])
def test_other_types_that_a_bank_holds_are_not_forgotten_by_a_quick_look(of: SignalType) -> None:
    """An exact copy is found by each digest alone, and a pHash only ever by a canonical look."""
    picture = encoded(drawing(8, (1200, 800)), "JPEG", quality=85)

    async def judged() -> Receipt:
        async with Sandbox(HashingSettings()) as sandbox:
            knowing, _ = judge(sandbox, loaded([BLOCKING], [held(SignalType.PDQ, 1, bytes(32))]))
            signals = (await knowing.verdict(picture, tell_signals=True)).signals
            assert signals is not None
            value = (
                signals.renderings[0].phash if of is SignalType.PHASH else getattr(signals.digests, of.value)
            )
            deciding, _ = judge(sandbox, loaded([BLOCKING], [held(of, 1, value)]))
            return await deciding.verdict(picture, tell_signals=False)

    assert asyncio.run(judged()).verdict is Verdict.MATCH
