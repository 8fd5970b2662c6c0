"""The double: what NCMEC documents of its service, over HTTP as any client would speak it."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from lxml import etree
from ulid import ULID

from app.filing.cybertip.document import Said, build
from app.filing.cybertip.reporter import Reporter
from tests.filing.double import XSD, Double, running_double
from tests.stubs import stub

XML = {"Content-Type": "text/xml; charset=utf-8"}
SUPPLEMENTAL = "<fileRelevance>Supplemental Reported</fileRelevance>"
REPORTER = Reporter("Ada", "Lovelace", "ada@analytical.org", "Analytical Society")


@pytest.fixture
def client(double: Double) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=double.url, auth=("double", "double"), trust_env=False, timeout=10
    ) as authenticated:
        yield authenticated


@pytest.fixture
def sender_id() -> str:
    return str(ULID())


def document(sender_id: str) -> bytes:
    """The document of a report as Cordon builds it."""
    opened = json.loads(stub().to_json(sender_id))
    return build([opened], REPORTER, Said(), role="voluntary", preservation=None, now=datetime.now(UTC))


def code(response: httpx.Response) -> int:
    return int(etree.fromstring(response.content).findtext("responseCode") or "")


def opened(client: httpx.Client, sender_id: str) -> str:
    """The id under which a report was opened."""
    response = client.post("submit", content=document(sender_id), headers=XML)
    assert code(response) == 0
    return etree.fromstring(response.content).findtext("reportId") or ""


def test_the_two_calls_of_a_report_without_files_file_it_exactly_once(
    client: httpx.Client, double: Double, sender_id: str
) -> None:
    """Opened, not filed; finished, filed; finished again, still once; and not to be withdrawn."""
    report_id = opened(client, sender_id)
    assert not double.tell(sender_id)["filed_exactly_once"]
    done = client.post("finish", data={"id": report_id})
    root = etree.fromstring(done.content)
    assert (root.tag, root.findtext("responseCode"), root.findtext("reportId")) == (
        "reportDoneResponse",
        "0",
        report_id,
    )
    told = double.tell(sender_id)
    assert told["filed_exactly_once"]
    assert told["report_ids"] == [report_id]
    assert etree.fromstring(told["document"].encode()).tag == "report"
    assert code(client.post("finish", data={"id": report_id})) == 5102
    assert code(client.post("retract", data={"id": report_id})) == 5102
    assert double.tell(sender_id)["filed_exactly_once"]
    client.post("finish", data={"id": opened(client, sender_id)})
    assert double.tell(sender_id)["finished"] == 2
    assert not double.tell(sender_id)["filed_exactly_once"]


def test_answers_have_a_request_id_and_a_charset_that_is_not_theirs(client: httpx.Client) -> None:
    """Both have been seen: whoever decodes by the header reads wrong words."""
    answer = client.get("status")
    assert answer.headers["Request-ID"]
    assert "balancer" in answer.cookies
    assert answer.headers["Content-Type"] == "application/xml;charset=ISO-8859-1"
    assert answer.content.startswith(b"<?xml version='1.0' encoding='UTF-8'")
    assert "\u2013" in (etree.fromstring(answer.content).findtext("responseDescription") or "")
    assert "\u2013" not in answer.text


@pytest.mark.parametrize("call", ["status", "xsd", "submit", "upload", "fileinfo", "finish", "retract"])
def test_every_call_needs_the_password(double: Double, call: str) -> None:
    method = "GET" if call in {"status", "xsd"} else "POST"
    for auth in (None, ("double", "wrong")):
        refused = httpx.request(method, f"{double.url}/{call}", auth=auth, trust_env=False)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic ")
        assert code(refused) == 2000


def test_a_file_is_described_only_after_its_upload(client: httpx.Client, sender_id: str) -> None:
    """By multipart form; the MD5 of what arrived comes back, and the id of the file is opaque."""
    report_id = opened(client, sender_id)
    details = "<fileDetails><reportId>{}</reportId><fileId>{}</fileId>{}</fileDetails>".format
    early = client.post("fileinfo", content=details(report_id, "0" * 32, ""), headers=XML)
    assert code(early) == 5002
    upload = client.post("upload", files={"id": (None, report_id), "file": ("name", b"drawn")})
    root = etree.fromstring(upload.content)
    file_id = root.findtext("fileId") or ""
    assert root.findtext("hash") == "45cd822043486089c55b2b67c9c2805e"
    more = '<originalFileHash hashType="PDQ">00</originalFileHash>'
    assert code(client.post("fileinfo", content=details(report_id, file_id, more), headers=XML)) == 0
    for wrong in (
        "<fileRelevance>Reported</fileRelevance><fileName>late</fileName>",
        "<uploadedToEspTimestamp>2026-01-31</uploadedToEspTimestamp>",
        "<fileViewedByEsp>perhaps</fileViewedByEsp>",
        "<exifViewedByEsp>true</exifViewedByEsp>",
        "<fileAnnotations><funny/></fileAnnotations>",
        "<potentialMeme>true</potentialMeme><fileAnnotations><viral/></fileAnnotations>",
        SUPPLEMENTAL + "<industryClassification>A1</industryClassification>",
        "<industryClassification>C1</industryClassification>",
        "<originalFileHash>00</originalFileHash>",
        '<details type="OTHER"><nameValuePair><name>a</name><value>b</value></nameValuePair></details>',
        2 * "<ipCaptureEvent><ipAddress>192.0.2.1</ipAddress></ipCaptureEvent>",
    ):
        answer = client.post("fileinfo", content=details(report_id, file_id, wrong), headers=XML)
        assert code(answer) == 4100, wrong
    done = client.post("finish", files={"id": (None, report_id)})
    assert etree.fromstring(done.content).findtext("files/fileId") == file_id
    assert code(client.post("upload", files={"id": (None, report_id), "file": ("name", b"late")})) == 5102


def test_an_open_report_can_be_withdrawn_and_then_not_be_finished(
    client: httpx.Client, double: Double, sender_id: str
) -> None:
    report_id = opened(client, sender_id)
    assert code(client.post("retract", files={"id": (None, report_id)})) == 0
    assert code(client.post("finish", data={"id": report_id})) == 5101
    assert double.tell(sender_id)["retracted"] == 1


def test_an_open_report_expires_after_a_day_by_the_clock_of_the_double(
    client: httpx.Client, double: Double, sender_id: str
) -> None:
    """And an hour after its last upload if that is later; each to the minute."""
    report_id = opened(client, sender_id)
    in_time, uploaded, too_late = (opened(client, str(ULID())) for _ in range(3))
    moved = 0.0

    def wait(span: timedelta) -> None:
        nonlocal moved
        double.advance(span.total_seconds())
        moved += span.total_seconds()

    try:
        wait(timedelta(hours=23, minutes=59))
        assert code(client.post("finish", data={"id": in_time})) == 0
        for each in (uploaded, too_late):
            client.post("upload", files={"id": (None, each), "file": ("name", b"drawn")})
        wait(timedelta(minutes=2))
        assert code(client.post("finish", data={"id": report_id})) == 5001
        wait(timedelta(minutes=57))
        assert code(client.post("finish", data={"id": uploaded})) == 0
        wait(timedelta(minutes=3))
        assert code(client.post("finish", data={"id": too_late})) == 5001
    finally:
        double.advance(-moved)
    assert double.tell(sender_id)["expired"] == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda good: good[:-20], 4110),
        (lambda good: b"<!DOCTYPE report>" + good.split(b"?>", 1)[1], 4110),
        (lambda _: b"", 4110),
        (lambda good: good.replace(b"incidentType", b"incidentKind"), 4100),
        (lambda good: good.replace(b"Child Pornography", b"Something Else"), 4100),
        (lambda good: good.replace(b"<report>", b"<report><additionalInfo>early</additionalInfo>"), 4100),
        (lambda good: good.replace(b"ada@analytical.org", b"nobody"), 4100),
        (lambda good: good.replace(b"<url>https://", b"<url>https://a b"), 4100),
        (lambda good: good.replace(b"<incidentDateTime>20", b"<incidentDateTime>21"), 4100),
        (lambda good: good.replace(b"Z</incidentDateTime>", b"</incidentDateTime>"), 4100),
    ],
    ids=[
        *("cut off", "document type", "empty", "unknown element", "unknown type"),
        *("wrong order", "bad e-mail", "bad url", "future", "no zone"),
    ],
)
def test_documents_are_checked_as_the_server_is_documented_to(
    client: httpx.Client, double: Double, sender_id: str, change: Any, expected: int
) -> None:
    """What is refused opens nothing."""
    answer = client.post("submit", content=change(document(sender_id)), headers=XML)
    assert code(answer) == expected
    assert double.tell(sender_id)["opened"] == (1 if expected == 0 else 0)


def test_calls_with_the_wrong_type_id_or_method_are_refused(client: httpx.Client, sender_id: str) -> None:
    refused = client.post("submit", content=document(sender_id))
    assert (refused.status_code, code(refused)) == (400, 4000)
    assert code(client.post("finish", data={})) == 4000
    assert code(client.post("finish", data={"id": "123"})) == 5001
    assert code(client.post("retract", data={"id": "123"})) == 5001
    assert client.get("submit").status_code == 404
    assert code(client.get("xsd")) == 1210


def test_it_answers_with_a_planned_code_once_and_does_nothing(
    client: httpx.Client, double: Double, sender_id: str
) -> None:
    """The real one has been seen with failures under 400 and under 200."""
    double.fault("submit", code=1000, status=200, times=1)
    planned = client.post("submit", content=document(sender_id), headers=XML)
    assert (planned.status_code, code(planned)) == (200, 1000)
    assert double.tell(sender_id)["opened"] == 0
    assert code(client.post("submit", content=document(sender_id), headers=XML)) == 0


@pytest.mark.parametrize(("fault", "finished"), [("unheard", 0), ("unanswered", 1)])
def test_a_connection_breaks_before_or_after_the_work(
    client: httpx.Client, double: Double, sender_id: str, fault: str, finished: int
) -> None:
    """The client cannot tell which; the double can."""
    report_id = opened(client, sender_id)
    double.fault("finish", fault=fault)
    with pytest.raises(httpx.TransportError):
        client.post("finish", data={"id": report_id})
    assert double.tell(sender_id)["finished"] == finished


def _parses(body: bytes) -> bool:
    try:
        etree.fromstring(body)
    except etree.XMLSyntaxError:
        return False
    return True


FAULTS: dict[str, tuple[int, dict[str, str], Callable[[bytes], bool]]] = {
    "too_many": (429, {"retry-after": "7"}, lambda body: not body),
    "html_502": (502, {"content-type": "text/html"}, lambda body: b"Bad Gateway" in body),
    "empty_500": (500, {}, lambda body: not body),
    "redirect": (302, {"location": "https://elsewhere.invalid/"}, lambda body: not body),
    "huge": (200, {}, lambda body: len(body) > 4 * 1024 * 1024 and _parses(body)),
    "doctype": (200, {}, lambda body: b"<!DOCTYPE" in body and b'SYSTEM "file:' in body and _parses(body)),
    "deep": (200, {}, lambda body: body.startswith(100_000 * b"<a>")),
    "truncated": (200, {}, lambda body: body.startswith(b"<?xml") and not _parses(body)),
    "wrong_root": (200, {}, lambda body: etree.fromstring(body).tag == "someResponse"),
    "no_report_id": (
        200,
        {},
        lambda body: b"<responseCode>0<" in body and b"<reportId>" not in body and _parses(body),
    ),
    "encoded": (200, {"content-encoding": "gzip"}, _parses),
    "html_200": (200, {"content-type": "text/html"}, lambda body: body.startswith(b"<html>")),
    "empty_200": (200, {}, lambda body: not body),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["submit", "finish"])
def test_each_fault_spoils_the_answer_as_its_name_says_and_the_work_is_done(
    client: httpx.Client, double: Double, sender_id: str, call: str, fault: str
) -> None:
    """But for 429, which is answered in the place of doing anything. The next call goes well."""
    status, headers, holds = FAULTS[fault]
    given: dict[str, Any] = (
        {"data": {"id": opened(client, sender_id)}}
        if call == "finish"
        else {"content": document(sender_id), "headers": XML}
    )
    double.fault(call, fault=fault)
    with client.stream("POST", call, **given) as answer:
        body = b"".join(answer.iter_raw())
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in headers} == headers
    assert holds(body)
    assert answer.headers["Request-ID"]
    done = 0 if fault == "too_many" else 1
    assert double.tell(sender_id)["opened" if call == "submit" else "finished"] == done
    assert code(client.post(call, **given)) == (0 if call == "submit" or not done else 5102)


def test_what_is_said_of_a_file_keeps_its_report_open_for_an_hour_too(
    client: httpx.Client, double: Double
) -> None:
    """As its upload does, and no shorter than a day from its opening."""
    early, described = (opened(client, str(ULID())) for _ in range(2))
    details = "<fileDetails><reportId>{}</reportId><fileId>{}</fileId></fileDetails>".format
    files = {}
    for each in (early, described):
        upload = client.post("upload", files={"id": (None, each), "file": ("name", b"drawn")})
        files[each] = etree.fromstring(upload.content).findtext("fileId") or ""
    assert len(files[early]) == 32
    hours = 23.5
    double.advance(hours * 3600)
    try:
        told = client.post("fileinfo", content=details(described, files[described]), headers=XML)
        assert code(told) == 0
        # It was uploaded to a day ago, less half an hour.
        assert code(client.post("finish", data={"id": early})) == 0
        double.advance(3000)
        hours += 3000 / 3600
        assert code(client.post("finish", data={"id": described})) == 0
    finally:
        double.advance(-hours * 3600)


def test_a_fault_that_is_not_known_is_refused(double: Double) -> None:
    for wrong in ({"call": "finish", "fault": "nothing"}, {"call": "none", "code": 1}, {"fault": "slow"}):
        assert double.steering.post("/double/faults", json=wrong).status_code == 400


@pytest.mark.parametrize("seconds", [1e18, 3e11, -1e12, "x", None])
def test_a_time_that_is_none_is_refused_and_its_clock_goes_on(double: Double, seconds: Any) -> None:
    answer = double.steering.post("/double/clock", json={"advance_seconds": seconds})
    assert answer.status_code == 400
    told = double.steering.post("/double/clock", json={"advance_seconds": 0}).json()
    assert abs(datetime.fromisoformat(told["now"]) - datetime.now(UTC)) < timedelta(days=90)


def test_its_failures_come_with_the_http_status_that_it_is_told() -> None:
    """As the real one was recorded: 200 with a code that is no success."""
    with (
        running_double("--error-status", "200") as double,
        httpx.Client(base_url=double.url, auth=("double", "double"), timeout=60, trust_env=False) as client,
    ):
        refused = client.post("finish", data={"id": "123"})
        assert (refused.status_code, code(refused)) == (200, 5001)


@pytest.mark.skipif(not XSD.exists(), reason="NCMEC's schema cannot be shipped")
def test_with_a_schema_it_checks_by_that_too_and_hands_it_out(sender_id: str) -> None:
    with (
        running_double("--xsd", str(XSD)) as double,
        httpx.Client(base_url=double.url, auth=("double", "double"), timeout=60, trust_env=False) as client,
    ):
        assert client.get("xsd").content == XSD.read_bytes()
        assert opened(client, sender_id)
