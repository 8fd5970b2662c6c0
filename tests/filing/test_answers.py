"""What the authority answers, read: whole and about this very report, or no success."""

import random

import pytest

from app.filing.cybertip.answers import CODES, Answer, Call, Meaning, Trouble, cause, heard, meaning, parse
from app.filing.cybertip_double.service import Reply, write

DONE = write(Reply(0, report_id="123", done=True))
OPENED = write(Reply(0, report_id="123"))


def answered(call: Call, untrusted: bytes, status: int = 200) -> Answer:
    """An answer about report 123."""
    sent_id = "123" if call in {Call.FINISH, Call.RETRACT} else None
    return parse(call, heard(status, request_id="r", retry_after=None), untrusted, sent_id=sent_id)


@pytest.mark.parametrize(
    ("call", "untrusted", "found"),
    [
        (Call.FINISH, DONE, Meaning.FINISHED),
        (Call.FINISH, DONE.decode().replace("UTF-8", "UTF-16").encode("utf-16"), Meaning.FINISHED),
        (Call.FINISH, b"\xef\xbb\xbf" + DONE, Meaning.FINISHED),
        (Call.FINISH, OPENED, Meaning.RETRY),
        (Call.FINISH, DONE[:-1], Meaning.RETRY),
        (Call.FINISH, DONE + b"<p>proxy</p>", Meaning.RETRY),
        (Call.FINISH, b"<!DOCTYPE a>" + DONE.partition(b"?>")[2], Meaning.RETRY),
        (Call.FINISH, DONE.replace(b"UTF-8", b"EBCDIC-CP-US"), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b"Response>", b"Response >", 1) + b"\x00", Meaning.RETRY),
        (Call.FINISH, DONE.replace(b"<reportDoneResponse", b'<reportDoneResponse xmlns="a"'), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b">0<", b">-0<"), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b">0<", b">00<"), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b">0<", b">0<!-- -->1<"), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b">0<", b">0<b>1</b><"), Meaning.RETRY),
        (Call.FINISH, DONE.replace(b">0</responseCode>", b"/><responseCode>0</responseCode>"), Meaning.RETRY),
        (
            Call.FINISH,
            DONE.replace(b"<reportId>", b"<responseCode>4100</responseCode><reportId>"),
            Meaning.RETRY,
        ),
        (Call.FINISH, DONE.replace(b">123<", b">124<"), Meaning.PARK),
        (Call.FINISH, DONE.replace(b"<files/>", b"<reportId>124</reportId>"), Meaning.PARK),
        (Call.FINISH, write(Reply(5102, report_id="123")), Meaning.FINISHED),
        (Call.FINISH, write(Reply(5102, report_id="124")), Meaning.PARK),
        (Call.RETRACT, write(Reply(5001, report_id="124")), Meaning.PARK),
        (Call.RETRACT, write(Reply(5101, report_id="124")), Meaning.PARK),
        (Call.RETRACT, write(Reply(5102, report_id="124")), Meaning.PARK),
        (Call.RETRACT, write(Reply(1000, report_id="124")), Meaning.RETRY),
        (Call.SUBMIT, OPENED, Meaning.DONE),
        (Call.SUBMIT, DONE, Meaning.RETRY),
        (Call.SUBMIT, OPENED.replace(b"<reportId>123</reportId>", b""), Meaning.PARK),
        (Call.SUBMIT, OPENED.replace(b">123<", b"> <"), Meaning.PARK),
        (
            Call.SUBMIT,
            OPENED.replace(b"<reportId>", b"<reportId>9</reportId><reportId>"),
            Meaning.PARK,
        ),
        (Call.RETRACT, OPENED, Meaning.DONE),
        (Call.RETRACT, OPENED.replace(b">123<", b">124<"), Meaning.PARK),
        (Call.RETRACT, DONE, Meaning.RETRY),
    ],
)
def test_a_success_is_whole_and_about_this_very_report(call: Call, untrusted: bytes, found: Meaning) -> None:
    """Two codes are none, two ids are another report's, and what cannot be read to its end says nothing."""
    assert meaning(call, answered(call, untrusted)) is found


@pytest.mark.parametrize("status", [100, 204, 301, 400, 500])
def test_a_success_under_a_status_that_is_none_is_no_success(status: int) -> None:
    answer = answered(Call.FINISH, DONE, 199 if status == 100 else status)
    assert (answer.trouble is Trouble.CONTRADICTION) == (status != 204)
    assert (meaning(Call.FINISH, answer) is Meaning.FINISHED) == (status == 204)


def test_a_refusal_of_cordon_itself_stops_whatever_the_body_says() -> None:
    """HTTP 401 has been seen with the code of a server error."""
    for body in (DONE, b"", write(Reply(1000))):
        assert meaning(Call.FINISH, answered(Call.FINISH, body, 401)) is Meaning.STOP


TOLD: dict[int, Meaning] = {
    **dict.fromkeys((1000, 1100, 1110, 1111, 1300), Meaning.RETRY),
    **dict.fromkeys((2000, 3000, 3100, 3300), Meaning.STOP),
    **dict.fromkeys((1210, 4000, 4100, 4110, 4200, 5001, 5002, 5101, 5102), Meaning.PARK),
    # As codes were years ago, and as they may be tomorrow.
    **dict.fromkeys((-1, 1, 1001, 2001, 3200, 4101, 5000, 5103, 999_999_999), Meaning.PARK),
}
"""The documented codes, and some that are not, by what follows where a call says nothing else of them."""

SAID_BY_CALL: dict[tuple[Call, int], Meaning] = {
    (Call.FINISH, 5102): Meaning.FINISHED,
    (Call.RETRACT, 5001): Meaning.GONE,
    (Call.RETRACT, 5101): Meaning.DONE,
    (Call.RETRACT, 5102): Meaning.FINISHED,
}


@pytest.mark.parametrize("call", [Call.STATUS, Call.SUBMIT, Call.FINISH, Call.RETRACT])
@pytest.mark.parametrize("status", [200, 400, 403, 500, 503])
def test_every_code_has_its_class_under_whatever_status_and_root(call: Call, status: int) -> None:
    """As docs/filing.md has them; after an attempted finish only 0 and 5102 mean filed."""
    assert set(CODES) <= {0, *TOLD}
    for code, told in TOLD.items():
        for done in (False, True):
            answer = answered(call, write(Reply(code, report_id="123", done=done)), status)
            assert meaning(call, answer) is SAID_BY_CALL.get((call, code), told), code
            assert cause(answer) == (f"authority_{code}" if code in CODES else "authority_unknown_code")


@pytest.mark.parametrize("untrusted", [b"", b"<html><body>Bad Gateway", b"<report/>"])
def test_without_a_code_the_status_decides(untrusted: bytes) -> None:
    """As docs/filing.md has it, whatever the call; a success that cannot be read is asked for again."""
    told = {
        **dict.fromkeys((100, 199, 200, 202, 204, 299, 408, 425, 429), Meaning.RETRY),
        **dict.fromkeys((500, 502, 503, 504, 599, 600), Meaning.RETRY),
        **dict.fromkeys((301, 302, 307, 399, 401, 403, 404, 405), Meaning.STOP),
        **dict.fromkeys((400, 402, 406, 409, 410, 413, 415, 422, 451, 499), Meaning.PARK),
    }
    for call in Call:
        for status, found in told.items():
            answer = answered(call, untrusted, status)
            assert meaning(call, answer) is found, status
            assert cause(answer) == f"authority_http_{status}"


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        *((None, 0), ("", 0), ("soon", 0), ("-1", 0), ("1.5", 0), ("1e9", 0), ("٣", 0), ("9" * 10, 0)),
        *(("Fri, 27 Nov 2026 12:00:00 GMT", 0), ("0", 0), (" 7 ", 7), ("86400", 86_400), ("86401", 86_400)),
    ],
)
def test_the_time_to_wait_is_believed_up_to_a_day(said: str | None, seconds: int) -> None:
    """In seconds alone; whoever asks for a year would keep a report from being filed."""
    assert heard(503, request_id=None, retry_after=said).retry_after == seconds


def test_whatever_bytes_come_nothing_is_raised_and_nothing_else_is_a_success() -> None:
    """Bits turned, bytes lost and put in between, other encodings: three thousand answers from one seed."""
    drawn = random.Random(7)
    for _ in range(3000):
        untrusted = bytearray(drawn.choice((DONE, OPENED, write(Reply(5102)))))
        for _ in range(drawn.randint(1, 5)):
            at = drawn.randrange(len(untrusted) + 1)
            match drawn.choice(("turn", "lose", "put", "cut", "name")):
                case "turn":
                    untrusted[at : at + 1] = drawn.randbytes(1)
                case "lose":
                    del untrusted[at : at + drawn.randint(1, 9)]
                case "put":
                    untrusted[at:at] = drawn.randbytes(drawn.randint(1, 5))
                case "cut":
                    del untrusted[at + 60 :]
                case "name":
                    encoding = drawn.choice((b"UTF-16", b"none", b"UTF-7", b"IBM037", b"ISO-8859-1"))
                    untrusted = untrusted.replace(b"UTF-8", encoding)
        call = drawn.choice(list(Call))
        answer = answered(call, bytes(untrusted), drawn.choice((200, 200, 400, 502)))
        found = meaning(call, answer)
        assert cause(answer)
        if found is Meaning.FINISHED:
            assert answer.code in {0, 5102}
            assert answer.report_id in {None, "123"}
