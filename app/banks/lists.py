"""List files of signals: CSV, JSON lines or plain values, read as a stream.

- CSV begins with the header ``type,value``, and maybe more columns: ``note``, and what a source says of each
  signal, ``source``, ``reference`` (its id there), ``classification``, ``restrictions``, ``listed_at``.
- JSON lines are objects with the same members: what ``bank hash --json`` prints among them.
- Anything else is a plain list, one value a line. 32 hex digits are md5, 40 sha1, 16 phash; 64 may be PDQ or
  SHA-256, and the type has to be given.

Blank lines and lines that begin with ``#`` are skipped, and case is ignored. A bad line is a value, no error.
No message repeats what a line says: it is an entry of a bank, or may be (promise 6).
"""

import binascii
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import numpy as np

from app.entries import NewSignal, Origin, is_plain_text
from app.media import PDQ_BITS, SignalType

MAX_LINE_BYTES: Final = 64 * 1024
MAX_NOTE_CHARACTERS: Final = 1000
MAX_ORIGIN_CHARACTERS: Final = {
    "source": 100,
    "reference": 256,
    "classification": 100,
    "restrictions": 1000,
    "listed_at": 40,
}
"""Of what a source says of a signal."""

_LEAP_YEAR: Final = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
MOMENT_PATTERN: Final = (
    r"^([0-9]{4}-((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    rf"|{_LEAP_YEAR}-02-29)"
    r"(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))?$"
)
"""A date of the calendar, or one with a time and its offset from UTC, as RFC 3339 writes them."""

EMPTY_FILE: Final = {
    SignalType.MD5: bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"),
    SignalType.SHA1: bytes.fromhex("da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    SignalType.SHA256: bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
}
"""What a file of no bytes hashes to: such an entry would match every empty file."""

_MOMENT: Final = re.compile(MOMENT_PATTERN)
_BY_DIGITS: Final = {of.size_bytes * 2: of for of in (SignalType.MD5, SignalType.SHA1, SignalType.PHASH)}
_AMBIGUOUS_DIGITS: Final = PDQ_BITS // 4
_TYPES: Final = {of.value: of for of in SignalType}
_HEADER: Final = ["type", "value"]
_COLUMNS: Final = frozenset({*_HEADER, "note", *MAX_ORIGIN_CHARACTERS})
_OTHERWISE_SEPARATED: Final = re.compile(r'["\s]*(type|value)["\s]*[;\t|]', re.IGNORECASE)
_BOM: Final = b"\xef\xbb\xbf"
_BLOCK_BYTES: Final = 1 << 19

_SIMPLE_PLAIN: Final = re.compile(rb"^()([0-9a-fA-F]+)\r?\n", re.MULTILINE)
_SIMPLE_CSV: Final = re.compile(rb"^([a-z0-9]+),([0-9a-fA-F]+)\r?\n", re.MULTILINE)
_SIMPLE_CSV_NOTED: Final = re.compile(rb"^([a-z0-9]+),([0-9a-fA-F]+),\r?\n", re.MULTILINE)


class BadSignalError(ValueError):
    """A signal is wrong; the message says how, and never repeats it."""


class ListError(Exception):
    """A list as a whole is refused; the message says why and what to do."""


class UnlikelyPdqError(ListError):
    """Most values of a list that should hold PDQ are not balanced as PDQ is."""

    def __init__(self) -> None:
        super().__init__(
            "looks like SHA-256: fewer than half of the values have exactly 128 bits set, as PDQ has; "
            "use '--type sha256'"
        )


@dataclass(frozen=True)
class BadLine:
    """A line that is no signal: its number, counted from 1, and what is wrong with it."""

    number: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.problem}"


@dataclass(frozen=True)
class ListChunk:
    """What some lines hold.

    Attributes:
        lines: how many lines were read so far.
    """

    signals: list[NewSignal]
    bad: list[BadLine]
    lines: int


@dataclass
class ListSummary:
    """What a whole list holds.

    Attributes:
        counts: number of signals by type, repeated ones included.
        bad: number of bad lines.
        first_bad: the first of them.
    """

    counts: Counter[SignalType] = field(default_factory=Counter)
    bad: int = 0
    first_bad: list[BadLine] = field(default_factory=list)


def new_signal(
    untrusted_type: object,
    untrusted_value: object,
    untrusted_note: object = None,
    untrusted_origin: Mapping[str, object] | None = None,
) -> NewSignal:
    """Check a signal that came as text or decoded JSON.

    Args:
        untrusted_type: one of ``SignalType``.
        untrusted_value: hex digits.
        untrusted_note: text, or None.
        untrusted_origin: as ``new_origin`` takes it; other members are passed over.

    Raises:
        BadSignalError: saying what is wrong with it.
    """
    of = _TYPES.get(untrusted_type.strip().lower()) if isinstance(untrusted_type, str) else None
    if of is None:
        raise BadSignalError(f"the type must be one of {', '.join(_TYPES)}")
    if not isinstance(untrusted_value, str):
        raise BadSignalError("the value must be hex digits in a string")
    return NewSignal(
        of, _raw(of, untrusted_value.strip()), _note(untrusted_note), new_origin(untrusted_origin or {})
    )


def new_origin(untrusted: Mapping[str, object]) -> Origin | None:
    """Check what is said of where a signal comes from; None if nothing is.

    Raises:
        BadSignalError: saying what is wrong with it.
    """
    said: dict[str, str] = {}
    for name, most in MAX_ORIGIN_CHARACTERS.items():
        value = untrusted.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise BadSignalError(f"the {name} must be a string")
        if len(value) > most or not is_plain_text(value):
            raise BadSignalError(f"the {name} may have {most} characters, and no control character")
        if value.strip():
            said[name] = value.strip()
    if "listed_at" in said and not _MOMENT.fullmatch(said["listed_at"]):
        raise BadSignalError(
            "the listed_at must be a date of the calendar, or one with time and offset (RFC 3339)"
        )
    return Origin(**said) if said else None


def check_source(signal: NewSignal, source: str | None) -> None:
    """Return only if it is plain whose word a signal comes with.

    Args:
        signal: a checked one.
        source: the one of all signals, if one was named for them.

    Raises:
        BadSignalError: nobody is named, or two are.
    """
    if signal.origin is None:
        return
    if signal.origin.source is None and source is None:
        raise BadSignalError("tells what a source says of it, and no source; name that too")
    if signal.origin.source is not None and source is not None:
        raise BadSignalError("names a source of its own, and one is named for all")


def read_list(
    untrusted: BinaryIO, *, of: SignalType | None = None, force: bool = False, source: str | None = None
) -> Iterator[ListChunk]:
    """Read a list, some thousand lines at a time, in flat memory.

    Args:
        untrusted: the file, at its beginning.
        of: the type of all values, where the lines do not tell it; lines that tell another are bad.
        force: take values for PDQ although they look like SHA-256.
        source: who gives all of them; lines that name another are bad.

    Raises:
        ListError: the list as a whole is refused.
        UnlikelyPdqError: at its end, its values look like another type.
    """
    balanced = total = lines = 0
    form: _Form | None = None
    for block in _blocks(untrusted):
        form = form or _form(block, of, source)
        if form is None:
            lines += block.count(b"\n")
            continue
        chunk = _chunk(form, block, lines)
        lines = chunk.lines
        if of is SignalType.PDQ:
            total += len(chunk.signals)
            balanced += _balanced(chunk.signals)
        yield chunk
    # PDQ compares with the median, so all but odd pictures set half of the bits; one SHA-256 in twenty does.
    if not force and balanced * 2 < total:
        raise UnlikelyPdqError


def summarize(
    chunks: Iterable[ListChunk], *, bad_kept: int = 1000, progress: Callable[[int], None] | None = None
) -> ListSummary:
    """What a whole list holds.

    Args:
        chunks: from ``read_list``.
        bad_kept: how many bad lines to name.
        progress: told the number of lines read, now and then.
    """
    summary = ListSummary()
    for chunk in chunks:
        summary.counts.update(signal.type for signal in chunk.signals)
        summary.bad += len(chunk.bad)
        summary.first_bad += chunk.bad[: bad_kept - len(summary.first_bad)]
        if progress is not None:
            progress(chunk.lines)
    return summary


def _blocks(untrusted: BinaryIO) -> Iterator[bytes]:
    """A file in blocks of ended lines; a line that is far too long is cut, and too long still."""
    block = untrusted.read(_BLOCK_BYTES).removeprefix(_BOM)
    while block:
        if not block.endswith(b"\n"):
            rest = untrusted.readline(MAX_LINE_BYTES + 1)
            block += rest
            while rest and not rest.endswith(b"\n"):
                rest = untrusted.readline(MAX_LINE_BYTES)
        yield block if block.endswith(b"\n") else block + b"\n"
        block = untrusted.read(_BLOCK_BYTES)


@dataclass(frozen=True)
class _Form:
    """How the lines of a list are written.

    Attributes:
        parse: reads any one line, and tells what is wrong with it.
        simple: matches the plain run of lines, of one value each, that ``_read_simple`` reads at once.
        header: the line to be skipped.
        of: the type of all values, if it was given.
    """

    parse: Callable[[str], NewSignal]
    simple: re.Pattern[bytes] | None
    header: str | None
    of: SignalType | None


def _form(block: bytes, of: SignalType | None, source: str | None) -> _Form | None:
    """What form a list has, as its first line tells that is neither blank nor a remark; None without one."""
    # What is wrong with a line is told when it is read.
    texts = (line[:MAX_LINE_BYTES].decode(errors="replace").strip() for line in block.split(b"\n"))
    first = next((text for text in texts if text and not text.startswith("#")), None)
    if first is None:
        return None

    def typed(signal: NewSignal) -> NewSignal:
        if of is not None and signal.type is not of:
            raise BadSignalError(f"of type {signal.type.value}, and '--type' says {of.value}")
        check_source(signal, source)
        return signal

    if first.startswith("{"):
        return _Form(lambda text: typed(_from_json(text)), None, None, of)
    if (reason := _no_list(first)) is not None:
        raise ListError(reason)
    if "," not in first:
        plain = _from_plain if of is None else lambda text: NewSignal(of, _raw(of, text))
        return _Form(plain, _SIMPLE_PLAIN, None, of)
    names = [name.strip(' "').lower() for name in first.split(",")]
    if names[:2] != _HEADER or len(names) != len(set(names)) or not _COLUMNS.issuperset(names):
        more = ", ".join(sorted(_COLUMNS.difference(_HEADER)))
        raise ListError(
            f"the first line of a CSV file must be the header 'type,value', and may go on with {more}"
        )
    simple = {2: _SIMPLE_CSV, 3: _SIMPLE_CSV_NOTED if names[-1] == "note" else None}.get(len(names))
    return _Form(lambda text: typed(_from_csv(text, names)), simple, first, of)


def _no_list(first: str) -> str | None:
    """Why a file of this first line is no list, where that is plain; else None."""
    if first.startswith("["):
        return "JSON is read as one object a line, not as one array"
    if "\0" in first:
        return "it is no UTF-8 text; save it as CSV or as a plain list in UTF-8"
    if _OTHERWISE_SEPARATED.match(first):
        return "the fields of a CSV file are separated by commas, and its header is 'type,value'"
    return None


def _chunk(form: _Form, block: bytes, before: int) -> ListChunk:
    """Read a block, after so many lines."""
    simple = _read_simple(form, block)
    if simple is not None:
        return ListChunk(simple, [], before + len(simple))
    signals: list[NewSignal] = []
    bad: list[BadLine] = []
    lines = block.removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, before + 1):
        try:
            text = _text(line)
            if text and not text.startswith("#") and text != form.header:
                signals.append(form.parse(text))
        except BadSignalError as error:
            bad.append(BadLine(number, str(error)))
    return ListChunk(signals, bad, before + len(lines))


def _read_simple(form: _Form, block: bytes) -> list[NewSignal] | None:
    """All signals of a block that has nothing but good lines of one type; None if it has anything else.

    Ten times as fast as reading line by line, and what most blocks of long lists are.
    """
    if form.simple is None:
        return None
    found = form.simple.findall(block)
    if len(found) != block.count(b"\n"):
        return None
    names, lengths = {name.decode() for name, _ in found}, {len(value) for _, value in found}
    if len(names) != 1 or len(lengths) != 1:
        return None
    name, digits = names.pop(), lengths.pop()
    of = _TYPES.get(name) if name else form.of or _BY_DIGITS.get(digits)
    if of is None or form.of not in {None, of} or digits != of.size_bytes * 2:
        return None
    raw = binascii.unhexlify(b"".join([value for _, value in found]))
    values = [raw[begin : begin + of.size_bytes] for begin in range(0, len(raw), of.size_bytes)]
    if bytes(of.size_bytes) in values or EMPTY_FILE.get(of) in values:
        return None
    return [NewSignal(of, value) for value in values]


def _balanced(signals: list[NewSignal]) -> int:
    """How many 256-bit values have exactly half of their bits set."""
    words = np.frombuffer(b"".join([signal.value for signal in signals]), "<u8").reshape(-1, PDQ_BITS // 64)
    return int((np.bitwise_count(words).sum(axis=1, dtype=np.int64) == PDQ_BITS // 2).sum())


def _text(line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise BadSignalError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return line.decode().strip()
    except UnicodeDecodeError:
        raise BadSignalError("not UTF-8 text") from None


def _from_json(text: str) -> NewSignal:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise BadSignalError("not JSON") from None
    if not isinstance(said, dict):
        raise BadSignalError("not a JSON object")
    # What 'bank hash' prints names the file it hashed as its source.
    hashed = "quality" in said and "source" in said
    origin = {name: value for name, value in said.items() if name != "source"} if hashed else said
    return new_signal(said.get("type"), said.get("value"), said.get("note"), origin)


def _from_csv(text: str, names: Sequence[str]) -> NewSignal:
    fields = _fields(text) if '"' in text else text.split(",")
    if len(fields) != len(names):
        raise BadSignalError(f"has {len(fields)} fields, and the header {len(names)}")
    said = dict(zip(names, fields, strict=True))
    return new_signal(said["type"], said["value"], said.get("note"), said)


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        raise BadSignalError("its quotes do not match; a note cannot span lines") from None


def _from_plain(text: str) -> NewSignal:
    of = _BY_DIGITS.get(len(text))
    if of is None and len(text) == _AMBIGUOUS_DIGITS:
        raise ListError("values of 64 hex digits may be PDQ or SHA-256: say which with '--type'")
    if of is None:
        raise BadSignalError(f"has {len(text)} characters; a value has 16, 32, 40 or 64 hex digits")
    return NewSignal(of, _raw(of, text))


def _raw(of: SignalType, text: str) -> bytes:
    if len(text) != of.size_bytes * 2:
        raise BadSignalError(f"has {len(text)} characters, and {of.value} {of.size_bytes * 2} hex digits")
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise BadSignalError("has characters that are no hex digits") from None
    if len(raw) != of.size_bytes:
        # bytes.fromhex skips spaces.
        raise BadSignalError("has characters that are no hex digits")
    if not any(raw):
        raise BadSignalError("is all zero, as the hash of a blank picture or a failed one")
    if EMPTY_FILE.get(of) == raw:
        raise BadSignalError("is the digest of an empty file")
    return raw


def _note(untrusted: object) -> str | None:
    if untrusted is None or untrusted == "":
        return None
    if not isinstance(untrusted, str):
        raise BadSignalError("the note must be a string")
    if len(untrusted) > MAX_NOTE_CHARACTERS or not is_plain_text(untrusted):
        raise BadSignalError(f"the note may have {MAX_NOTE_CHARACTERS} characters, and no control character")
    return untrusted.strip() or None
