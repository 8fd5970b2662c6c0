"""List files: what is read, what is a bad line, and that no message repeats a value."""

import hashlib
import io
import json
import re
import tracemalloc
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.banks import lists
from app.banks.lists import (
    MOMENT_PATTERN,
    BadLine,
    BadSignalError,
    ListError,
    new_signal,
    read_list,
    summarize,
)
from app.entries import NewSignal, Origin
from app.media import SignalType

MD5, SHA1, SHA256 = (hashlib.new(name, b"some").hexdigest() for name in ("md5", "sha1", "sha256"))
PHASH = "a1b2c3d4e5f60718"
PDQ = "f" * 32 + "0" * 31 + "0"


def read(
    text: str | bytes, of: SignalType | None = None, *, force: bool = False
) -> tuple[list[tuple[str, str, str | None]], list[BadLine]]:
    content = text.encode() if isinstance(text, str) else text
    signals: list[tuple[str, str, str | None]] = []
    bad: list[BadLine] = []
    for chunk in read_list(io.BytesIO(content), of=of, force=force):
        signals += [(signal.type.value, signal.value.hex(), signal.note) for signal in chunk.signals]
        bad += chunk.bad
    return signals, bad


def good(text: str | bytes, of: SignalType | None = None) -> list[tuple[str, str, str | None]]:
    signals, bad = read(text, of)
    assert bad == []
    return signals


def test_csv_with_a_header_is_read() -> None:
    assert good(f"type,value\nmd5,{MD5}\npdq,{PDQ}\n") == [("md5", MD5, None), ("pdq", PDQ, None)]


def test_csv_with_notes_is_read_quotes_and_all() -> None:
    text = f'type,value,note\nmd5,{MD5},\nsha1,{SHA1},a note\nphash,{PHASH},"one, ""two"""\n'
    assert good(text) == [("md5", MD5, None), ("sha1", SHA1, "a note"), ("phash", PHASH, 'one, "two"')]


@pytest.mark.parametrize("header", ["TYPE,VALUE", '"type","value"', " type , value ", "\ufefftype,value"])
def test_the_header_is_known_however_it_is_written(header: str) -> None:
    assert good(f"{header}\nmd5,{MD5}\n") == [("md5", MD5, None)]


def test_json_lines_as_bank_hash_prints_them_are_read() -> None:
    lines = [
        {"source": "a.png", "type": "md5", "value": MD5, "quality": None},
        {"source": "a.png", "type": "pdq", "value": PDQ, "quality": 87},
        {"type": "sha256", "value": SHA256, "note": "seen twice"},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    assert good(text) == [("md5", MD5, None), ("pdq", PDQ, None), ("sha256", SHA256, "seen twice")]


@pytest.mark.parametrize(("value", "of"), [(MD5, "md5"), (SHA1, "sha1"), (PHASH, "phash")])
def test_in_a_plain_list_the_length_tells_the_type(value: str, of: str) -> None:
    assert good(f"{value}\n") == [(of, value, None)]


def test_plain_lists_may_mix_lengths() -> None:
    assert [of for of, _, _ in good(f"{MD5}\n{SHA1}\n{PHASH}\n")] == ["md5", "sha1", "phash"]


@pytest.mark.parametrize(("of", "value"), [(SignalType.PDQ, PDQ), (SignalType.SHA256, SHA256)])
def test_64_digits_are_what_the_type_says(of: SignalType, value: str) -> None:
    assert good(f"{value}\n", of) == [(of.value, value, None)]


def test_64_digits_without_a_type_are_refused_and_the_way_out_is_said() -> None:
    with pytest.raises(ListError, match="'--type'"):
        read(f"{MD5}\n{SHA256}\n")


def test_with_a_type_other_lengths_are_bad_lines() -> None:
    _, bad = read(f"{SHA256}\n{MD5}\n", SignalType.SHA256)
    assert [line.number for line in bad] == [2]


def test_lines_that_tell_another_type_than_the_one_given_are_bad() -> None:
    _, bad = read(f"type,value\nsha256,{SHA256}\nmd5,{MD5}\n", SignalType.SHA256)
    assert [str(line) for line in bad] == ["line 3: of type md5, and '--type' says sha256"]
    _, bad = read(json.dumps({"type": "md5", "value": MD5}), SignalType.SHA256)
    assert [line.number for line in bad] == [1]


def test_case_is_ignored_in_types_and_values() -> None:
    assert good(f"type,value\nMD5,{MD5.upper()}\n") == [("md5", MD5, None)]
    assert good(f"{SHA1.upper()}\n") == [("sha1", SHA1, None)]


def test_blank_lines_and_remarks_are_skipped_and_still_counted() -> None:
    text = f"# a list, with a comma\n\n   \n#{SHA256}\n{MD5}\n\nxx\n# end\n{SHA1}"
    signals, bad = read(text)
    assert [value for _, value, _ in signals] == [MD5, SHA1]
    assert [line.number for line in bad] == [7]


def test_a_remark_may_stand_before_a_header() -> None:
    assert good(f"# exported, today\ntype,value\nmd5,{MD5}\n") == [("md5", MD5, None)]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_end_as_on_any_system_and_the_last_may_not_end_at_all(ending: str) -> None:
    assert len(good(f"type,value{ending}md5,{MD5}{ending}sha1,{SHA1}")) == 2
    assert len(good(f"{MD5}{ending}{SHA1}")) == 2


@pytest.mark.parametrize("of", SignalType)
def test_all_zero_values_are_bad(of: SignalType) -> None:
    _, bad = read(f"type,value\n{of.value},{'0' * of.size_bytes * 2}\n")
    assert [line.number for line in bad] == [2]


@pytest.mark.parametrize("of", ["md5", "sha1", "sha256"])
def test_the_digests_of_an_empty_file_are_bad(of: str) -> None:
    _, bad = read(f"type,value\n{of},{hashlib.new(of).hexdigest()}\n")
    assert [str(line) for line in bad] == ["line 2: is the digest of an empty file"]


BAD_LINES = {
    "no hex": "md5," + "g" * 32,
    "too short": f"md5,{MD5[:-1]}",
    "too long": f"md5,{MD5}0",
    "spaces among the digits": "md5," + " ".join(MD5[:16]) + "a",
    "other digits": "md5," + "\u0661" * 32,
    "unknown type": f"md4,{MD5}",
    "no type": f",{MD5}",
    "no value": "md5,",
    "one field": MD5,
    "three fields": f"md5,{MD5},note",
    "open quote": f'md5,"{MD5}',
    "a prefix": f"md5,0x{MD5}",
    "a sign": f"md5,+{MD5[1:]}",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_csv_line_is_named_by_number_and_never_repeated(line: str) -> None:
    signals, bad = read(f"type,value\nmd5,{MD5}\n{line}\nsha1,{SHA1}\n")
    assert [value for _, value, _ in signals] == [MD5, SHA1]
    assert [told.number for told in bad] == [3]
    assert MD5[:8] not in str(bad[0])
    assert line not in str(bad[0])


BAD_JSON = {
    "not JSON": "{",
    "a list": "[1]",
    "no value": '{"type": "md5"}',
    "a number": '{"type": "md5", "value": 12}',
    "no type": json.dumps({"value": MD5}),
    "type of another kind": json.dumps({"type": ["md5"], "value": MD5}),
    "note of another kind": json.dumps({"type": "md5", "value": MD5, "note": {}}),
    "note with a NUL": json.dumps({"type": "md5", "value": MD5, "note": "a\0b"}),
    "note with half a character": json.dumps({"type": "md5", "value": MD5, "note": "\ud800"}),
    "note too long": json.dumps({"type": "md5", "value": MD5, "note": "n" * 1001}),
    "nested deep": "[" * 60_000,
}


@pytest.mark.parametrize("line", BAD_JSON.values(), ids=BAD_JSON)
def test_a_bad_json_line_is_named_by_number(line: str) -> None:
    whole = json.dumps({"type": "sha1", "value": SHA1})
    signals, bad = read(f"{whole}\n{line}\n{whole}\n")
    assert len(signals) == 2
    assert [told.number for told in bad] == [2]


def test_bytes_that_are_no_text_are_a_bad_line() -> None:
    _, bad = read(MD5.encode() + b"\n\xff\xfe\n")
    assert [str(line) for line in bad] == ["line 2: not UTF-8 text"]


class Repeated(io.RawIOBase):
    """A file that says the same so many times, and is never in memory as a whole."""

    def __init__(self, said: bytes, times: int) -> None:
        self._said, self._left = said, times

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer) // len(self._said), self._left)
        self._left -= count
        buffer[: count * len(self._said)] = self._said * count
        return count * len(self._said)


def read_flat(said: bytes, times: int) -> tuple[int, list[int], int]:
    """How many signals there are, the numbers of bad lines, and the peak of memory in bytes."""
    tracemalloc.start()
    signals, bad = 0, []
    for chunk in read_list(io.BufferedReader(Repeated(said, times), 1 << 20)):
        signals += len(chunk.signals)
        bad += [line.number for line in chunk.bad]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return signals, bad, peak


def test_a_line_without_end_is_one_bad_line_and_is_not_held_in_memory() -> None:
    signals, bad, peak = read_flat(b"a" * 1024, 100 * 1024)
    assert (signals, bad) == (0, [1])
    assert peak < 8 * 1024 * 1024


def test_memory_stays_flat_however_long_a_list_is() -> None:
    signals, bad, peak = read_flat(f"{SHA1}\n".encode(), 200_000)
    assert (signals, bad) == (200_000, [])
    assert peak < 8 * 1024 * 1024


def test_a_csv_file_without_the_header_is_refused() -> None:
    with pytest.raises(ListError, match="header"):
        read(f"md5,{MD5}\n")
    with pytest.raises(ListError, match="header"):
        read(f"value,type\n{MD5},md5\n")


def test_a_list_of_sha256_is_not_taken_for_pdq() -> None:
    text = "\n".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(200))
    with pytest.raises(ListError, match="looks like SHA-256"):
        read(text, SignalType.PDQ)
    signals, bad = read(text, SignalType.PDQ, force=True)
    assert (len(signals), bad) == (200, [])
    assert len(good(text, SignalType.SHA256)) == 200


def balanced(seed: int) -> str:
    """A value with exactly half of its bits set, as PDQ gives."""
    bits = np.repeat(np.array([0, 1], np.uint8), 128)
    return np.packbits(np.random.default_rng(seed).permutation(bits)).tobytes().hex()


@pytest.mark.parametrize(("odd", "refused"), [(10, False), (11, True)])
def test_a_pdq_list_is_refused_only_if_fewer_than_half_are_balanced(odd: int, *, refused: bool) -> None:
    values = [balanced(number) for number in range(10)] + [
        "f" * 10 + f"{number:054x}" for number in range(odd)
    ]
    if refused:
        with pytest.raises(ListError, match="looks like SHA-256"):
            read("\n".join(values), SignalType.PDQ)
    else:
        assert len(good("\n".join(values), SignalType.PDQ)) == 20


def test_typed_lines_are_believed() -> None:
    assert len(good("type,value\npdq," + "f" * 64 + "\n")) == 1


def test_nothing_is_an_empty_list() -> None:
    assert read("") == ([], [])
    assert read("\n# nothing\n\n") == ([], [])
    assert read("type,value\n") == ([], [])


def test_a_summary_counts_types_and_names_the_first_bad_lines() -> None:
    text = f"type,value\nmd5,{MD5}\nmd5,{MD5}\nx\ny\nz\nsha1,{SHA1}\n"
    done: list[int] = []
    summary = summarize(read_list(io.BytesIO(text.encode())), bad_kept=2, progress=done.append)
    assert summary.counts == {SignalType.MD5: 2, SignalType.SHA1: 1}
    assert summary.bad == 3
    assert [line.number for line in summary.first_bad] == [4, 5]
    assert done == [7]


LINES = st.sampled_from(
    [
        f"md5,{MD5}",
        f"md5,{MD5.upper()}",
        f"pdq,{PDQ}",
        f"sha256,{SHA256}",
        f"SHA1,{SHA1}",
        "",
        "#",
        "md5," + "0" * 32,
        f"md5,{MD5},",
        f"md5,{SHA1}",
        "md5," + hashlib.md5().hexdigest(),  # noqa: S324 - a digest that lists hold
        "nothing",
        f" md5 , {MD5} ",
    ]
)


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(LINES, max_size=30),
    header=st.sampled_from(["type,value", "type,value,note"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    block=st.integers(1, 400),
)
def test_reading_many_lines_at_once_gives_what_reading_line_by_line_gives(
    lines: list[str], header: str, ending: str, block: int
) -> None:
    text = ending.join([header, *lines, ""])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "_BLOCK_BYTES", block)
        at_once = read(text)
        patch.setattr(lists, "_read_simple", lambda *_: None)
        patch.setattr(lists, "_BLOCK_BYTES", 1 << 20)
        line_by_line = read(text)
    assert at_once == line_by_line


def test_long_lists_are_not_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an import of millions takes minutes."""
    values = [balanced(number) for number in range(300)]

    def refuse(_: object) -> str:
        raise AssertionError

    monkeypatch.setattr(lists, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(lists, "_text", refuse)
    assert len(good("\n".join(values), SignalType.PDQ)) == 300
    assert len(good("\n".join(value[:40] for value in values))) == 300
    monkeypatch.undo()
    monkeypatch.setattr(lists, "_BLOCK_BYTES", 2000)
    monkeypatch.setattr(lists, "new_signal", refuse_after(31))
    assert len(good("type,value\n" + "".join(f"pdq,{value}\n" for value in values))) == 300


def refuse_after(calls: int) -> Callable[..., NewSignal]:
    left = iter(range(calls))

    def checked(*untrusted: Any) -> NewSignal:
        assert next(left, None) is not None
        return new_signal(*untrusted)

    return checked


@pytest.mark.parametrize(
    ("of", "value", "note", "said"),
    [
        ("md6", MD5, None, "the type must be one of"),
        (None, MD5, None, "the type must be one of"),
        ("md5", None, None, "hex digits in a string"),
        ("md5", MD5[1:], None, "has 31 characters"),
        ("md5", MD5, 5, "the note must be a string"),
    ],
)
def test_a_signal_of_a_request_is_checked_in_the_same_way(
    of: object, value: object, note: object, said: str
) -> None:
    with pytest.raises(BadSignalError, match=said):
        new_signal(of, value, note)


def test_a_good_signal_of_a_request_is_taken() -> None:
    assert new_signal("PDQ", PDQ.upper(), " note ") == NewSignal(SignalType.PDQ, bytes.fromhex(PDQ), "note")


def signals_in(text: str) -> list[NewSignal]:
    return [signal for chunk in read_list(io.BytesIO(text.encode())) for signal in chunk.signals]


def test_what_a_source_says_is_read_from_columns_in_any_order() -> None:
    """What a line leaves empty, it does not say."""
    text = (
        "type,value,listed_at,source,note,reference,classification,restrictions\n"
        f'md5,{MD5},2026-01-31,hotline,mine,X-17,A1,"reports, no more"\n'
        f"md5,{'ab' * 16},,,,,,\n"
    )
    first, second = signals_in(text)
    assert first.note == "mine"
    assert first.origin == Origin("hotline", "X-17", "A1", "reports, no more", "2026-01-31")
    assert (second.note, second.origin) == (None, None)


def test_what_a_source_says_is_read_from_json_lines_too() -> None:
    """But the source that 'bank hash' tells is a file, and none."""
    line = {"type": "md5", "value": MD5, "source": "hotline", "classification": "A1"}
    (read,) = signals_in(json.dumps(line))
    assert read.origin == Origin("hotline", None, "A1")
    (hashed,) = signals_in(
        json.dumps({"source": "/home/a.jpg", "type": "md5", "value": MD5, "quality": None})
    )
    assert hashed.origin is None


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"classification": "A1"}, "no source"),
        ({"source": "hotline", "listed_at": "yesterday"}, "listed_at"),
        ({"source": "hotline", "listed_at": "2026-01-31T10:00:00"}, "listed_at"),
        ({"source": "hotline", "listed_at": "2026-1-31"}, "listed_at"),
        ({"source": "hotline", "listed_at": "2026-02-31"}, "date of the calendar"),
        ({"source": "hotline", "listed_at": "2026-04-31T10:00:00Z"}, "date of the calendar"),
        ({"source": "x" * 101}, "source may have 100"),
        ({"source": "a\u0000b"}, "no control character"),
        ({"source": 7}, "source must be a string"),
    ],
)
def test_what_a_source_says_wrongly_makes_a_bad_line(said: dict[str, object], wrong: str) -> None:
    chunks = list(read_list(io.BytesIO(json.dumps({"type": "md5", "value": MD5} | said).encode())))
    (bad,) = [each for chunk in chunks for each in chunk.bad]
    assert wrong in str(bad)


def test_dates_are_those_of_the_calendar() -> None:
    """By the pattern that the description of the API shows as well, leap years and all."""
    pattern = re.compile(MOMENT_PATTERN)
    for year in (1900, 1996, 2000, 2004, 2023, 2026, 2100, 2104, 2400):
        for month in range(14):
            for day in range(33):
                try:
                    there_is = bool(date(year, month, day))
                except ValueError:
                    there_is = False
                told = f"{year:04}-{month:02}-{day:02}"
                for moment in (told, f"{told}T23:59:59+01:00"):
                    assert bool(pattern.fullmatch(moment)) is there_is, moment


@pytest.mark.parametrize(
    ("begins", "said"),
    [
        (b"Type;Value\nmd5;", "separated by commas"),
        (b'"type"\t"value"\nmd5\t', "separated by commas"),
        (b'[{"type": "md5", "value": "', "one object a line"),
        ("type,value\nmd5,".encode("utf-16"), "UTF-8"),
    ],
)
def test_a_file_of_another_form_is_refused_and_what_to_do_is_said(begins: bytes, said: str) -> None:
    """Not line by line, as if all of its lines were bad values."""
    with pytest.raises(ListError, match=said):
        list(read_list(io.BytesIO(begins + MD5.encode() + b"\n")))


def test_a_line_names_no_source_where_one_is_named_for_all() -> None:
    """And needs none to say more of its signal."""
    text = f"type,value,reference,source\nmd5,{MD5},X-1,\nmd5,{MD5},X-2,other\n"
    chunks = list(read_list(io.BytesIO(text.encode()), source="hotline"))
    assert [each.origin for chunk in chunks for each in chunk.signals] == [Origin(None, "X-1")]
    assert [each.number for chunk in chunks for each in chunk.bad] == [3]


@pytest.mark.parametrize("header", ["type,value,colour", "type,value,note,note", "value,type"])
def test_a_header_of_unknown_columns_is_refused(header: str) -> None:
    with pytest.raises(ListError, match="header"):
        list(read_list(io.BytesIO(f"{header}\n".encode())))
