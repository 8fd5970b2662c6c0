"""All that crosses the border between the trusting side and a decoder: records of fixed layout.

A decoder's answers are numbers and hashes, never text, and ``Answers`` believes none of them unchecked: a
decoder that was taken over can lie about what a picture looks like, and about nothing else. Integers are
little-endian; each record starts with its kind, and those that belong to a medium go on with the medium's
sequence number, so that an answer to one is never taken for an answer to the next.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from app import formats
from app.hashing.lock import Lock, LockStep
from app.media import (
    PDQ_BYTES,
    PHASH_BYTES,
    Background,
    Reason,
    Region,
    Rendering,
    Shape,
    Symmetry,
    Variant,
    VariantKind,
)

MAX_QUALITY: Final = 100
MAX_DOUBTFUL_BITS: Final = 40
"""Most bits of a hash that may be in doubt after a quick look; with more, searching costs too much."""

MAX_REGIONS: Final = 16
"""Most parts of one rendering that are hashed on their own."""

FORMS: Final = tuple((symmetry, negative) for negative in (False, True) for symmetry in Symmetry)
"""In which order the 16 hashes of one picture stand: its eight symmetries, then those of its negative."""


@dataclass(frozen=True)
class Need:
    """Memory in bytes that decoding is going to take; the decoder waits until it is granted."""

    bytes: int


@dataclass(frozen=True)
class Limits:
    """What one medium may ask of the decoder.

    Attributes:
        max_pixels: largest width times height of any frame.
        max_frames: most frames or pages.
        max_decode_bytes: most memory that decoding may take.
        disabled_formats: names of formats that are never decoded.
    """

    max_pixels: int
    max_frames: int
    max_decode_bytes: int
    disabled_formats: frozenset[str]


@dataclass(frozen=True)
class Look:
    """How closely a medium is to be looked at.

    Attributes:
        quick: whether hashes near to the canonical ones are enough, where they cost less.
        parts: whether the pictures within a picture are hashed too.
    """

    quick: bool = False
    parts: bool = True


@dataclass(frozen=True)
class Forms:
    """All hashes of the rendering told last, or of a part of it.

    Attributes:
        region: None for the whole rendering.
        quality: 0 to 100.
        hashes: 16 of 32 bytes, one after the other, in the order of ``FORMS``.
    """

    region: Region | None
    quality: int
    hashes: bytes = field(repr=False)

    def variants(self, kinds: frozenset[VariantKind]) -> Iterator[Variant]:
        """Those of these kinds. The whole, upright, positive picture is none of them."""
        if self.region is not None and VariantKind.REGIONS not in kinds:
            return
        for place, (symmetry, negative) in enumerate(FORMS):
            if (
                (symmetry is Symmetry.ORIGINAL or VariantKind.SYMMETRIES in kinds)
                and (not negative or VariantKind.NEGATIVES in kinds)
                and (self.region is not None or negative or symmetry is not Symmetry.ORIGINAL)
            ):
                value = self.hashes[place * PDQ_BYTES : (place + 1) * PDQ_BYTES]
                yield Variant(value, self.quality, symmetry, negative, self.region)


@dataclass(frozen=True)
class End:
    """The decoder is done with the medium.

    Attributes:
        reason: None if it was fully scanned.
        spent: whether the decoder wants to be replaced, as it did not shrink back to what it was.
    """

    reason: Reason | None
    spent: bool = False


@dataclass(frozen=True)
class Refusal:
    """A worker could not lock itself and is gone."""

    step: LockStep
    code: int


class MisbehaviourError(Exception):
    """An answer is none that an honest decoder gives. The message never quotes it."""


class _Kind(IntEnum):
    LOCK = 1
    REFUSAL = 2
    SHAPE = 3
    NEED = 4
    RENDERING = 5
    END = 6
    FORMS = 7


_LOCK: Final = struct.Struct("<BQB??")
_REFUSAL: Final = struct.Struct("<BBI")
_SHAPE: Final = struct.Struct("<BIBIII")
_NEED: Final = struct.Struct("<BIQ")
_RENDERING: Final = struct.Struct(f"<BIIB{PDQ_BYTES}sB?{PHASH_BYTES}s{len(Symmetry) * PDQ_BYTES}s")
_FORMS: Final = struct.Struct(f"<BI4IB{len(FORMS) * PDQ_BYTES}s")
_END: Final = struct.Struct("<BIB?")

_LAYOUTS: Final = {
    _Kind.SHAPE.value: _SHAPE,
    _Kind.NEED.value: _NEED,
    _Kind.RENDERING.value: _RENDERING,
    _Kind.FORMS.value: _FORMS,
    _Kind.END.value: _END,
}

MAX_RECORD_BYTES: Final = max(layout.size for layout in (_LOCK, _REFUSAL, *_LAYOUTS.values()))

MAX_WORD_BYTES: Final = 16 * 1024
"""Most bytes of records that a decoder says at once."""

FORK: Final = b"\x01"
"""To the fork server: make a worker; the worker's end of its channel goes with it."""

BURY: Final = struct.Struct("<i")
"""To the fork server: collect the worker with this process id, which is dead or about to be."""

PRELOADED: Final = b"\x01"
"""From the fork server: ready to make workers."""

FORKED: Final = struct.Struct("<i")
"""From the fork server: a worker's process id, with a descriptor of the process; 0 if none could be made."""

BURIED: Final = struct.Struct("<ii")
"""From the fork server: a worker's process id and how it ended, as ``os.waitpid`` tells both."""

JOB: Final = struct.Struct("<IQQ??")
"""To a worker: the medium's sequence number, its size and the memory granted beforehand, both in bytes, then
the fields of ``Look``; its memory file goes with it."""

GO: Final = b"\x01"
"""To a worker: what it needs, beyond what was granted beforehand, was granted."""

SEQUENCE_NUMBERS: Final = 1 << 32

FORMATS: Final = formats.IMAGES + formats.VIDEOS
_NO_DOUBTS: Final = bytes(len(Symmetry) * PDQ_BYTES)
_WHOLE: Final = Region(0, 0, 0, 0)
_BACKGROUNDS: Final = (Background.NONE, Background.WHITE, Background.BLACK)
_REASONS: Final = (
    None,
    Reason.UNSUPPORTED_FORMAT,
    Reason.CORRUPT,
    Reason.TOO_MANY_PIXELS,
    Reason.TOO_MANY_FRAMES,
    Reason.DECODER_FAILED,
)
"""What a decoder may conclude. The other reasons are for the trusting side alone to give."""

_FORMAT_NUMBERS: Final = {told.name: number for number, told in enumerate(FORMATS)}


def pack_lock(lock: Lock) -> bytes:
    """A worker's first word: it is locked, and ready."""
    return _LOCK.pack(
        _Kind.LOCK,
        lock.address_space_bytes,
        lock.landlock_abi,
        lock.own_network,
        lock.memory_locked,
    )


def pack_refusal(refusal: Refusal) -> bytes:
    """The last word of a worker that cannot lock itself."""
    return _REFUSAL.pack(_Kind.REFUSAL, refusal.step, refusal.code)


def pack(sequence: int, found: Shape | Need | Rendering | Forms | End) -> bytes:
    """One answer about a medium.

    Raises:
        struct.error, KeyError, ValueError: the answer does not fit; an honest decoder gives none such.
    """
    match found:
        case Shape():
            return _SHAPE.pack(
                _Kind.SHAPE,
                sequence,
                _FORMAT_NUMBERS[found.format],
                found.width,
                found.height,
                found.frames,
            )
        case Need():
            return _NEED.pack(_Kind.NEED, sequence, found.bytes)
        case Rendering():
            return _RENDERING.pack(
                _Kind.RENDERING,
                sequence,
                found.frame,
                _BACKGROUNDS.index(found.background),
                found.pdq,
                found.quality,
                bool(found.phash),
                found.phash,
                found.doubts or _NO_DOUBTS,
            )
        case Forms():
            return _FORMS.pack(_Kind.FORMS, sequence, *(found.region or _WHOLE), found.quality, found.hashes)
        case End():
            return _END.pack(_Kind.END, sequence, _REASONS.index(found.reason), found.spent)


def unpack_first_word(untrusted: bytes) -> Lock | Refusal:
    """Read what a worker says before it has seen any medium.

    Raises:
        MisbehaviourError: it is neither.
    """
    if len(untrusted) == _LOCK.size and untrusted[0] == _Kind.LOCK:
        _, *found = _LOCK.unpack(untrusted)
        return Lock(*found)
    if len(untrusted) == _REFUSAL.size and untrusted[0] == _Kind.REFUSAL:
        _, step, code = _REFUSAL.unpack(untrusted)
        if step in iter(LockStep):
            return Refusal(LockStep(step), code)
    raise MisbehaviourError("neither locked nor refused")


def split(untrusted: bytes) -> Iterator[bytes]:
    """The records of which a worker's word about a medium is made, one after the other.

    Raises:
        MisbehaviourError: what comes next is no record.
    """
    begin = 0
    while begin < len(untrusted):
        layout = _LAYOUTS.get(untrusted[begin])
        if layout is None or begin + layout.size > len(untrusted):
            raise MisbehaviourError("no known record")
        yield untrusted[begin : begin + layout.size]
        begin += layout.size


def most_doubted(doubts: bytes) -> int:
    """How many bits of a hash are in doubt, in the symmetry in which they are most."""
    return max(
        int.from_bytes(doubts[begin : begin + PDQ_BYTES]).bit_count()
        for begin in range(0, len(doubts), PDQ_BYTES)
    )


class Answers:
    """A decoder's answers about one medium: each is checked, and what is valid is kept.

    An honest decoder gives the shape, then what it needs, then, once that is granted, the renderings in
    order, each followed by its forms, the whole's before those of its parts, then the end, which may come at
    any point. A shape of more pixels than allowed is only there to be told, so nothing but the end with that
    reason may follow it. What is not canonical is only there for a quick look at a single frame.

    Attributes:
        sequence: the medium's number.
        shape: None until it was told.
        renderings: all valid ones so far, with their variants of the kinds that were asked for.
    """

    def __init__(
        self,
        sequence: int,
        *,
        max_pixels: int,
        max_frames: int,
        variants: frozenset[VariantKind] = frozenset(VariantKind),
        look: Look = Look(),
    ) -> None:
        self.sequence = sequence
        self._look = look
        self._variants = variants
        self._max_pixels = max_pixels
        self._max_frames = max_frames
        self._needs_told = False
        self._frames_seen = 0
        self._last_place = (-1, 0)
        self._last_regions: set[Region | None] = set()
        self._ended = False
        self.shape: Shape | None = None
        self.renderings: list[Rendering] = []

    def accept(self, untrusted: bytes) -> Shape | Need | Rendering | Forms | End:
        """Check one answer and keep it.

        Raises:
            MisbehaviourError: no honest decoder gives it; nothing of it was kept.
        """
        kind = untrusted[0] if untrusted else 0
        layout = _LAYOUTS.get(kind)
        if layout is None or len(untrusted) != layout.size:
            raise MisbehaviourError("no known record")
        _, sequence, *untrusted_fields = layout.unpack(untrusted)
        if sequence != self.sequence:
            raise MisbehaviourError("an answer to another medium")
        if self._ended:
            raise MisbehaviourError("an answer after the end")
        match kind:
            case _Kind.SHAPE:
                return self._accept_shape(*untrusted_fields)
            case _Kind.NEED:
                return self._accept_need(*untrusted_fields)
            case _Kind.RENDERING:
                return self._accept_rendering(*untrusted_fields)
            case _Kind.FORMS:
                return self._accept_forms(Region(*untrusted_fields[:4]), *untrusted_fields[4:])
        return self._accept_end(*untrusted_fields)

    def _accept_shape(
        self, untrusted_format: int, untrusted_width: int, untrusted_height: int, untrusted_frames: int
    ) -> Shape:
        if self.shape is not None:
            raise MisbehaviourError("a second shape")
        if untrusted_format >= len(FORMATS) or 0 in {untrusted_width, untrusted_height, untrusted_frames}:
            raise MisbehaviourError("no possible shape")
        told = FORMATS[untrusted_format]
        self.shape = Shape(told.kind, told.name, untrusted_width, untrusted_height, untrusted_frames)
        return self.shape

    def _accept_need(self, untrusted_bytes: int) -> Need:
        if self._needs_told or self._may_not_go_on():
            raise MisbehaviourError("a need out of turn")
        self._needs_told = True
        return Need(untrusted_bytes)

    def _accept_rendering(  # noqa: PLR0917 - as unpacked
        self,
        untrusted_frame: int,
        untrusted_background: int,
        untrusted_pdq: bytes,
        untrusted_quality: int,
        untrusted_is_canonical: bool,  # noqa: FBT001 - as unpacked
        untrusted_phash: bytes,
        untrusted_doubts: bytes,
    ) -> Rendering:
        if self.shape is None or not self._needs_told:
            raise MisbehaviourError("a rendering out of turn")
        if untrusted_background >= len(_BACKGROUNDS) or untrusted_quality > MAX_QUALITY:
            raise MisbehaviourError("no possible rendering")
        if untrusted_is_canonical:
            may_doubt = 0
        elif self._look.quick and self.shape.frames == 1:
            may_doubt = MAX_DOUBTFUL_BITS
        else:
            raise MisbehaviourError("a quick look where a canonical one was due")
        if most_doubted(untrusted_doubts) > may_doubt:
            raise MisbehaviourError("more doubt than there may be")
        place = (untrusted_frame, untrusted_background)
        if untrusted_frame >= self.shape.frames or place <= self._last_place:
            raise MisbehaviourError("a rendering out of order")
        is_next_frame = untrusted_frame > self._last_place[0]
        if self._frames_seen + is_next_frame > self._max_frames:
            raise MisbehaviourError("more frames than allowed")
        self._frames_seen += is_next_frame
        self._last_place = place
        self._last_regions = set()
        rendering = Rendering(
            untrusted_frame,
            _BACKGROUNDS[untrusted_background],
            untrusted_pdq,
            untrusted_quality,
            untrusted_phash if untrusted_is_canonical else b"",
            doubts=b"" if untrusted_is_canonical else untrusted_doubts,
        )
        self.renderings.append(rendering)
        return rendering

    def _accept_forms(
        self, untrusted_region: Region, untrusted_quality: int, untrusted_hashes: bytes
    ) -> Forms:
        region = None if untrusted_region == _WHOLE else untrusted_region
        if not self.renderings:
            raise MisbehaviourError("forms out of turn")
        if untrusted_quality > MAX_QUALITY or (region is not None and not self._holds(region)):
            raise MisbehaviourError("no possible forms")
        if region in self._last_regions or (region is None and self._last_regions):
            raise MisbehaviourError("forms out of order")
        if len(self._last_regions - {None}) + (region is not None) > MAX_REGIONS:
            raise MisbehaviourError("more regions than allowed")
        self._last_regions.add(region)
        forms = Forms(region, untrusted_quality, untrusted_hashes)
        last = self.renderings[-1]
        self.renderings[-1] = replace(last, variants=(*last.variants, *forms.variants(self._variants)))
        return forms

    def _holds(self, region: Region) -> bool:
        """Whether a region lies in the last rendering, as far as its size is known."""
        if not (region.width and region.height and self.shape):
            return False
        # A later frame's size is told by nobody; none may have more pixels than allowed.
        right, bottom = region.left + region.width, region.top + region.height
        if self._last_place[0] == 0:
            return right <= self.shape.width and bottom <= self.shape.height
        return right * bottom <= self._max_pixels

    def _accept_end(self, untrusted_reason: int, untrusted_spent: bool) -> End:  # noqa: FBT001 - as unpacked
        if untrusted_reason >= len(_REASONS):
            raise MisbehaviourError("no possible reason")
        reason = _REASONS[untrusted_reason]
        if reason is None and not (self.renderings and self.renderings[0].frame == 0):
            # Fully scanned with nothing to show for it would pass as clear where no bank holds PDQ.
            raise MisbehaviourError("done without the first frame")
        self._ended = True
        return End(reason, untrusted_spent)

    def _may_not_go_on(self) -> bool:
        return self.shape is None or self.shape.width * self.shape.height > self._max_pixels
