"""What the CyberTipline answers, and what follows: one table for every code and every malformed answer.

HTTP status and application code are independent: a failure may come with 200, a body may be a proxy's page.
The code is read where there is one; without one the HTTP status decides.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from lxml import etree

from app.filing.cybertip.reading import UnreadableError, read

OK: Final = 0


class Call(StrEnum):
    """What was asked."""

    STATUS = "status"
    SUBMIT = "submit"
    FINISH = "finish"
    RETRACT = "retract"
    SCHEMA = "xsd"


class Meaning(StrEnum):
    """What follows from an answer."""

    DONE = "done"
    """It happened."""
    FINISHED = "finished"
    """The authority has the finished report, by this call or an earlier one."""
    GONE = "gone"
    """The authority has no such report: nothing of it was filed under this id."""
    RETRY = "retry"
    """Nobody knows, or not now: ask again later."""
    PARK = "park"
    """A person must look at this report."""
    STOP = "stop"
    """Nothing can be filed at all until a person mends it."""


class Trouble(StrEnum):
    """Why an answer has no code that counts."""

    NO_ANSWER = "no_answer"
    UNTRUSTED = "untrusted"
    """Nothing was sent: whoever answered is not the authority by its certificate."""
    TOO_LARGE = "too_large"
    ENCODED = "encoded"
    UNREADABLE = "unreadable"
    WRONG_ROOT = "wrong_root"
    NO_CODE = "no_code"
    NO_REPORT_ID = "no_report_id"
    OTHER_REPORT = "other_report"
    CONTRADICTION = "contradiction"


@dataclass(frozen=True)
class Answer:
    """An answer as far as it could be read.

    Attributes:
        status: of HTTP; None if nothing came.
        code: the application's; None if there is none that counts, ``trouble`` says why.
        report_id: the authority's, opaque.
        request_id: of the header ``Request-ID``, which the authority's support asks for.
        retry_after: seconds to wait at least, as the server asks.
        body: verbatim. It may echo what was sent: it goes to no log.
    """

    status: int | None = None
    code: int | None = None
    report_id: str | None = None
    request_id: str | None = None
    retry_after: float = 0.0
    trouble: Trouble | None = None
    body: bytes = field(default=b"", repr=False)


CODES: Final[Mapping[int, Meaning]] = {
    OK: Meaning.DONE,
    1000: Meaning.RETRY,  # server error
    1100: Meaning.RETRY,  # save failed
    1110: Meaning.RETRY,  # upload failed
    1111: Meaning.RETRY,  # file upload failed
    1210: Meaning.PARK,  # resource not found
    1300: Meaning.RETRY,  # update failed
    2000: Meaning.STOP,  # authentication required
    3000: Meaning.STOP,  # not authorised
    3100: Meaning.STOP,  # to submit
    3300: Meaning.STOP,  # to update
    4000: Meaning.PARK,  # invalid request
    4100: Meaning.PARK,  # validation failed
    4110: Meaning.PARK,  # malformed XML
    4200: Meaning.PARK,  # malformed file
    5001: Meaning.PARK,  # report does not exist
    5002: Meaning.PARK,  # file does not exist
    5101: Meaning.PARK,  # already retracted
    5102: Meaning.PARK,  # already finished
}
"""Every code that is documented; what is not here is unknown, and parks."""

OF_CALL: Final[Mapping[Call, Mapping[int, Meaning]]] = {
    Call.FINISH: {OK: Meaning.FINISHED, 5102: Meaning.FINISHED},
    Call.RETRACT: {5001: Meaning.GONE, 5101: Meaning.DONE, 5102: Meaning.FINISHED},
}
"""Where a code means something else after a certain call. A finish that answers 5001 or 5101 stays parked:
the report may have expired unfiled, or be another's; a person finds out."""

STATUSES: Final[Mapping[int, Meaning]] = {
    400: Meaning.PARK,
    403: Meaning.STOP,
    404: Meaning.STOP,
    405: Meaning.STOP,
    408: Meaning.RETRY,
    413: Meaning.PARK,
    415: Meaning.PARK,
    425: Meaning.RETRY,
    429: Meaning.RETRY,
}
"""HTTP statuses that decide where no code can be read, or the code is no failure; 401 always does."""

MAX_RETRY_AFTER_SECONDS: Final = 24 * 3600.0

_ROOTS: Final = frozenset({"reportResponse", "reportDoneResponse"})
_SUCCESS_ROOT: Final = {Call.FINISH: "reportDoneResponse"}
_CODE: Final = re.compile(r"0|-?[1-9]\d{0,8}", re.ASCII)
_REPORT_ID: Final = re.compile(r"[!-~]{1,64}")
_REQUEST_ID: Final = re.compile(r"[ -~]{1,128}")
_UNAUTHORIZED: Final = 401


def meaning(call: Call, answer: Answer) -> Meaning:
    """What follows from an answer to a call."""
    if answer.status == _UNAUTHORIZED:
        # Whatever stands in the body: it has been seen with the code of a server error.
        return Meaning.STOP
    if answer.trouble in {Trouble.NO_REPORT_ID, Trouble.OTHER_REPORT}:
        return Meaning.PARK
    if answer.code is not None:
        return OF_CALL.get(call, {}).get(answer.code, CODES.get(answer.code, Meaning.PARK))
    if answer.status is None:
        return Meaning.RETRY
    return STATUSES.get(answer.status, _of_class(answer.status))


def cause(answer: Answer) -> str:
    """A fixed word for why a report is parked after an answer: a code, a status, or a kind of trouble."""
    if answer.trouble in {Trouble.NO_REPORT_ID, Trouble.OTHER_REPORT}:
        return f"authority_{answer.trouble.value}"
    if answer.code is not None:
        return f"authority_{answer.code}" if answer.code in CODES else "authority_unknown_code"
    return f"authority_http_{answer.status}"


def heard(status: int, *, request_id: str | None, retry_after: str | None) -> Answer:
    """An answer of which only the head has come.

    Args:
        status: of HTTP.
        request_id: the header's value.
        retry_after: the header's value.
    """
    return Answer(
        status=status,
        request_id=request_id if request_id and _REQUEST_ID.fullmatch(request_id) else None,
        retry_after=_seconds(retry_after),
    )


def parse(call: Call, told: Answer, untrusted: bytes, *, sent_id: str | None = None) -> Answer:
    """Read an answer; whatever comes, nothing is raised.

    Args:
        call: what was asked.
        told: what its head says.
        untrusted: the body's bytes.
        sent_id: the report that the call was about.
    """
    told = replace(told, body=untrusted)
    try:
        root = read(untrusted)
    except UnreadableError:
        return replace(told, trouble=Trouble.UNREADABLE)
    if root.tag not in _ROOTS:
        return replace(told, trouble=Trouble.WRONG_ROOT)
    code = _only(root, "responseCode")
    if code is None or _CODE.fullmatch(code) is None:
        return replace(told, trouble=Trouble.NO_CODE)
    report_id = _only(root, "reportId")
    return _judged(call, replace(told, report_id=report_id or None), int(code), str(root.tag), sent_id)


def _only(root: etree._Element, name: str) -> str | None:
    """The text of the one child of a name; None if there is none, and something else where there are more."""
    found = root.findall(name)
    return "\n".join("".join(map(str, each.itertext())).strip() for each in found) if found else None


def _judged(call: Call, told: Answer, code: int, root: str, sent_id: str | None) -> Answer:
    """An answer with its code, if that counts: a success must be whole, and about this very report."""
    is_other = sent_id is not None and told.report_id not in {None, sent_id}
    if code != OK:
        # Other than a failure, it would end this report by what became of that one.
        ends = OF_CALL.get(call, {}).get(code) is not None
        return replace(told, trouble=Trouble.OTHER_REPORT) if is_other and ends else replace(told, code=code)
    if root != _SUCCESS_ROOT.get(call, "reportResponse"):
        return replace(told, trouble=Trouble.WRONG_ROOT)
    if told.status is None or told.status // 100 != 2:  # noqa: PLR2004 - 2xx is success
        return replace(told, trouble=Trouble.CONTRADICTION)
    if call is Call.SUBMIT and (told.report_id is None or _REPORT_ID.fullmatch(told.report_id) is None):
        return replace(told, trouble=Trouble.NO_REPORT_ID)
    if is_other:
        return replace(told, trouble=Trouble.OTHER_REPORT)
    return replace(told, code=OK)


def _of_class(status: int) -> Meaning:
    """By the hundreds: what is neither done nor known to be refused is asked again."""
    return {2: Meaning.RETRY, 3: Meaning.STOP, 4: Meaning.PARK}.get(status // 100, Meaning.RETRY)


def _seconds(retry_after: str | None) -> float:
    """A ``Retry-After`` in seconds; a date in its place is not worth a parser."""
    if retry_after is None or not re.fullmatch(r"\d{1,9}", retry_after.strip(), re.ASCII):
        return 0.0
    return min(float(retry_after), MAX_RETRY_AFTER_SECONDS)
