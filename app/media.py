"""The frozen values that all stages speak. No type here can hold media bytes.

Values that fingerprint a medium are masked in ``repr``, so that no log line, traceback or debugger
view shows them by accident (promise 6).
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

PDQ_BITS: Final = 256
PDQ_BYTES: Final = 32
PHASH_BYTES: Final = 8

PDQ_MINIMUM_QUALITY: Final = 50
"""Below this PDQ quality (0 to 100) a hash says too little to match by (PDQ reference, 'hashing.pdf')."""

PDQ_DEFAULT_THRESHOLD: Final = 31
"""Largest Hamming distance of 256 bits that still matches (PDQ reference)."""

PDQ_STRONG_DISTANCE: Final = 16
"""Largest PDQ distance of a strong match: what saving a picture anew does to its hash stays within it."""

PARKED_WITH_ITS_ENTRY: Final = "bank_entry_parked"
"""The cause of a parked report whose bank entry waits for a person."""

PHASH_DEFAULT_THRESHOLD: Final = 6
"""Largest Hamming distance of 64 bits that still matches."""


class SignalType(StrEnum):
    """The kinds of fingerprint that a bank can hold."""

    PDQ = "pdq"
    PHASH = "phash"
    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"

    @property
    def size_bytes(self) -> int:
        """Length of a value of this type in bytes."""
        return _SIZES[self]

    @property
    def is_digest(self) -> bool:
        """Whether only the very same bytes match."""
        return self in DIGEST_TYPES


_SIZES: Final = {
    SignalType.PDQ: PDQ_BYTES,
    SignalType.PHASH: PHASH_BYTES,
    SignalType.MD5: 16,
    SignalType.SHA1: 20,
    SignalType.SHA256: 32,
}
DIGEST_TYPES: Final = frozenset({SignalType.MD5, SignalType.SHA1, SignalType.SHA256})
DEFAULT_THRESHOLDS: Final = {
    SignalType.PDQ: PDQ_DEFAULT_THRESHOLD,
    SignalType.PHASH: PHASH_DEFAULT_THRESHOLD,
}


class BankKind(StrEnum):
    """The kind of harm a bank lists, most severe first; ``test`` matches can never be filed."""

    CSAM = "csam"
    NCII = "ncii"
    TERRORISM = "terrorism"
    OTHER = "other"
    TEST = "test"


class BankAction(StrEnum):
    """What a match in a bank does: drop and report, drop only, only count, or cancel others' near matches."""

    REPORT = "report"
    BLOCK = "block"
    OBSERVE = "observe"
    SUPPRESS = "suppress"


class Tier(StrEnum):
    """How close a perceptual match is: PDQ up to 16 bits is strong, all else near, pHash at any distance."""

    STRONG = "strong"
    NEAR = "near"


def tier_of(of: SignalType, distance: int) -> Tier | None:
    """The tier of a match at a distance in bits; None for digests, which match or do not."""
    if of.is_digest:
        return None
    return Tier.STRONG if of is SignalType.PDQ and distance <= PDQ_STRONG_DISTANCE else Tier.NEAR


class Verdict(StrEnum):
    """What was concluded of a medium."""

    UNDECIDABLE = "undecidable"
    MATCH = "match"
    CLEAR = "clear"


class Disposition(StrEnum):
    """What was done with the bytes."""

    WITHHELD = "withheld"
    DROPPED = "dropped"
    RELEASED = "released"


class Reason(StrEnum):
    """Why a medium is undecidable."""

    EMPTY = "empty"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_FRAMES = "too_many_frames"
    LOW_QUALITY = "low_quality"
    DECODE_TIMEOUT = "decode_timeout"
    SCAN_TIMEOUT = "scan_timeout"
    DECODER_FAILED = "decoder_failed"
    NO_BANK = "no_bank"


class Background(StrEnum):
    """What stood behind a rendering's transparent pixels."""

    NONE = "none"
    WHITE = "white"
    BLACK = "black"


@dataclass(frozen=True)
class Digests:
    """The digests of all bytes of a medium: raw values of 16, 20 and 32 bytes, empty if not computed."""

    md5: bytes = field(default=b"", repr=False)
    sha1: bytes = field(default=b"", repr=False)
    sha256: bytes = field(default=b"", repr=False)


class Symmetry(StrEnum):
    """What was done to a picture before it was hashed: the dihedral group of the square, as PDQ names it."""

    ORIGINAL = "original"
    ROTATE_90 = "rotate90"
    """Counterclockwise."""
    ROTATE_180 = "rotate180"
    ROTATE_270 = "rotate270"
    FLIP_X = "flipx"
    """Top to bottom."""
    FLIP_Y = "flipy"
    """Left to right."""
    FLIP_PLUS_1 = "flipplus1"
    """Transposed: over the diagonal from top left to bottom right."""
    FLIP_MINUS_1 = "flipminus1"
    """Over the other diagonal."""


class Region(NamedTuple):
    """A part of a rendering, in pixels of it as a viewer sees it."""

    left: int
    top: int
    width: int
    height: int


class VariantKind(StrEnum):
    """What a profile may have searched beside the whole, upright, positive picture."""

    SYMMETRIES = "symmetries"
    NEGATIVES = "negatives"
    REGIONS = "regions"


class Variant(NamedTuple):
    """A PDQ hash of a rendering, or of a part of it, after an edit that plain PDQ does not see through.

    Attributes:
        pdq: 32 bytes, the first holding bits 255 to 248.
        quality: PDQ quality, 0 to 100; that of the picture, or of its part.
        symmetry: how it was flipped or turned.
        negative: whether its brightness was inverted.
        region: the part that was hashed; None for the whole picture.
    """

    pdq: bytes
    quality: int
    symmetry: Symmetry
    negative: bool
    region: Region | None

    def __repr__(self) -> str:
        return f"<Variant {self.symmetry} negative={self.negative} region={self.region}>"


SPARE_BITS: Final = 7
"""How many bits of a quick look's hash may be wrong beside those that it doubts.

Three were at most, of 3,201, and five in odd files (``docs/decisions/0010-a-quick-look-first.md``).
"""


@dataclass(frozen=True)
class Rendering:
    """The perceptual hashes of one frame or page, upright, as seen on one background.

    Attributes:
        frame: 0-based index of the frame or page.
        background: what transparent pixels were laid on.
        pdq: 32 bytes, the first holding bits 255 to 248, as PDQ's hex text reads.
        quality: PDQ quality, 0 to 100.
        phash: 8 bytes, imagehash's 64-bit pHash; none after a quick look.
        variants: further hashes to search by; the whole, upright, positive picture is not among them.
        doubts: after a quick look, which bits a canonical one may give otherwise, beside ``SPARE_BITS``
            others: 32 bytes for each symmetry of the whole picture, positive or negative, in the order of
            ``Symmetry``. Empty after a canonical look.
    """

    frame: int
    background: Background
    pdq: bytes = field(repr=False)
    quality: int
    phash: bytes = field(repr=False)
    variants: tuple[Variant, ...] = field(default=(), repr=False)
    doubts: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Shape:
    """What a medium is, as told from its bytes: kind ``image`` or ``video``, sizes in pixels as seen."""

    kind: str
    format: str
    width: int
    height: int
    frames: int


@dataclass(frozen=True)
class Scan:
    """What the sandbox found in a medium.

    Attributes:
        shape: None if nothing could be decoded.
        renderings: hashes of all frames that differ, in order; possibly partial if ``undecidable`` is set.
        undecidable: None only if the medium was fully scanned.
    """

    shape: Shape | None
    renderings: tuple[Rendering, ...]
    undecidable: Reason | None

    @property
    def is_canonical(self) -> bool:
        """Whether all hashes are those that a bank would hold of the very same pixels."""
        return all(rendering.phash for rendering in self.renderings)


@dataclass(frozen=True)
class Signals:
    """All fingerprints of one medium."""

    digests: Digests
    renderings: tuple[Rendering, ...]


@dataclass(frozen=True)
class Suppressor:
    """An entry of a suppression bank that is nearer to a medium than the entry of a match.

    Attributes:
        entry_id: its id in the store.
        named: whether it was named for the very entry that matched.
    """

    entry_id: int
    named: bool


@dataclass(frozen=True)
class Match:
    """One bank entry within its bank's threshold of one of the medium's signals.

    Attributes:
        bank: name of the bank.
        kind: the bank's kind.
        action: what the bank does on a match of this tier.
        entry_id: id of the entry in the store.
        type: the signal's type.
        entry_value: the bank's value, raw.
        query_value: the medium's value, raw.
        distance: Hamming distance in bits; 0 for digests.
        threshold: the largest distance at which the bank still matches; 0 for digests.
        rendering: the rendering that matched; None for digests.
        variant: which form of it matched; None for the whole, upright, positive picture, and for other types.
        suppressors: what is nearer to the medium than this entry, wherever this entry matched.
        parked: whether the entry waits for a person, because it matched very many different media.
    """

    bank: str
    kind: BankKind
    action: BankAction
    entry_id: int
    type: SignalType
    entry_value: bytes = field(repr=False)
    query_value: bytes = field(repr=False)
    distance: int
    threshold: int
    rendering: Rendering | None = None
    variant: Variant | None = None
    suppressors: tuple[Suppressor, ...] = ()
    parked: bool = False

    @property
    def tier(self) -> Tier | None:
        """How close it is; None for digests."""
        return tier_of(self.type, self.distance)

    @property
    def exact(self) -> bool:
        """Whether the medium has the very value of the entry: a digest, or a perceptual hash bit for bit."""
        return self.distance == 0


@dataclass(frozen=True)
class Consulted:
    """Which banks were asked about a medium.

    Attributes:
        banks: how many; those that only suppress do not count.
        holds_pdq: whether one of them holds PDQ entries.
        all_told: whether all matches are told, none left out for their number or for want of time.
        in_time: whether they were asked about all of the medium; there is a limit to how long that may take.
    """

    banks: int
    holds_pdq: bool
    all_told: bool = True
    in_time: bool = True


@dataclass(frozen=True)
class Decision:
    """The verdict on a medium.

    Attributes:
        reason: why it is undecidable, else None.
        matches: those that stand, observing banks included.
        cancelled: those that a suppression bank cancelled.
        parked: whether all that is to be reported was matched by parked entries alone.
    """

    verdict: Verdict = Verdict.UNDECIDABLE
    reason: Reason | None = None
    matches: tuple[Match, ...] = ()
    cancelled: tuple[Match, ...] = ()
    parked: bool = False

    @property
    def to_report(self) -> tuple[Match, ...]:
        """The matches that oblige someone to act."""
        return tuple(match for match in self.matches if match.action is BankAction.REPORT)


@dataclass(frozen=True)
class Provenance:
    """Where a medium came from and when it arrived (UTC).

    An upload has only ``received_at``. A fetched medium tells its whole journey. ``headers`` holds the
    answer's Date, Last-Modified, ETag, Content-Type and Content-Length as sent, untrusted.
    """

    received_at: datetime
    requested_url: str | None = field(default=None, repr=False)
    redirects: tuple[str, ...] = field(default=(), repr=False)
    final_url: str | None = field(default=None, repr=False)
    resolved_address: str | None = field(default=None, repr=False)
    resolved_port: int | None = field(default=None, repr=False)
    via_proxy: bool = False
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class ReportReference:
    """The report that a match was stored in.

    Attributes:
        joined: whether the report was there before: this is a later sighting, or a caller's retry.
    """

    id: str
    joined: bool
