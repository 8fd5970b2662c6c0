"""What a person files by hand with: the form's page and XARF, of fetched and of uploaded media."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import xarf
from lxml import html

from app.context import Context
from app.errors import InvalidRequestError
from app.filing.cybertip.document import Reporter, Said, build
from app.filing.cybertip.reading import read
from app.filing.manual import form
from app.filing.manual import xarf as xarf_reports
from tests.stubs import ACCOUNT, ADDRESS, URL, stub

REPORT = "01J9ZK3V5T8QX2M4N6P8R0S1T2"
REPORTER = Reporter("Ada", "Nowak", "ada@lab.org", "Lab of Letters", phone="+1 202 555 0143")
UPLOADED = Context(
    platform="Chat & <Friends>",
    account_id="4711",
    account_name="<script>alert(1)</script>",
    profile_url="https://chat.example/u/4711",
    uploader_ip="198.51.100.7",
    uploader_port=4433,
)


def _stub(**given: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stub(**given).to_json(REPORT))
    return document


def _page(*stubs: dict[str, Any], said: Said | None = None) -> bytes:
    xml = build(
        stubs, REPORTER, said or Said(), role="voluntary", preservation="metadata_only", now=datetime.now(UTC)
    )
    return form.page(REPORT, read(xml))


def _rows(page: bytes) -> dict[str, str]:
    told = html.document_fromstring(page)
    names, values = (["".join(map(str, each.itertext())) for each in told.iter(tag)] for tag in ("th", "td"))
    return dict(zip(names, values, strict=True))


def test_the_page_has_what_the_form_asks_for_in_its_order() -> None:
    page = _page(_stub())
    told = html.document_fromstring(page)
    assert [each.text for each in told.iter("h2")] == [
        "1. The incident",
        "2. Who reports",
        "3. The Internet",
        "4. The child",
        "5. The suspect",
        "6. What else there is",
    ]
    rows = _rows(page)
    assert rows["Type of incident"].startswith("Child Pornography")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", rows["Date and time (UTC)"])
    assert (rows["First name"], rows["E-mail"]) == ("Ada", "ada@lab.org")
    assert rows["Addresses (URLs)"] == URL
    assert rows["Screen name"] == ACCOUNT
    assert _stub()["signals"]["sha256"] in rows["About the file"]
    assert ADDRESS in rows["Additional information"]
    assert "no person viewed it through Cordon" in rows["Additional information"]


def test_the_page_of_an_upload_names_the_account_and_its_address() -> None:
    rows = _rows(_page(_stub(url=None, context=UPLOADED)))
    assert (rows["Account id"], rows["Account is with"]) == ("4711", "Chat & <Friends>")
    assert rows["Profile addresses"] == "https://chat.example/u/4711"
    assert rows["IP addresses"] == "198.51.100.7, port 4433"


def test_nothing_on_the_page_loads_leads_away_or_runs() -> None:
    """Whatever an account calls itself."""
    page = _page(_stub(url=None, context=UPLOADED))
    told = html.document_fromstring(page)
    assert not {each.tag for each in told.iter()} & {"a", "img", "script", "link", "iframe", "form", "object"}
    assert not [each for each in told.iter() if set(each.attrib) & {"href", "src", "action", "onclick"}]
    assert _rows(page)["Screen name"] == "<script>alert(1)</script>"


def test_nothing_is_guessed_of_a_child_or_of_haste() -> None:
    rows = _rows(_page(_stub()))
    for name in ("Age", "Name", "Is a child in danger now?", "Has the police been told?"):
        assert rows[name] == "not known to Cordon; leave it empty"
    said = Said(escalation="A child is named on the page.")
    assert _rows(_page(_stub(), said=said))["Is a child in danger now?"] == "A child is named on the page."


@pytest.mark.parametrize("classification", xarf_reports.CLASSIFICATIONS)
def test_the_xarf_package_finds_the_export_valid(classification: str) -> None:
    """Read back as whoever receives it does, with every URL, digest and number in its field."""
    written = xarf_reports.report(_stub(), REPORTER, classification, ncmec_report_id="4711")
    result = xarf.parse(written.decode())
    assert (result.errors, type(result.report).__name__) == ([], "CsamReport")
    told = json.loads(written)
    assert (told["category"], told["type"], told["classification"]) == ("content", "csam", classification)
    assert (told["url"], told["source_identifier"], told["source_port"]) == (URL, ADDRESS, 443)
    assert told["detection_method"] == "hash_match"
    signals = _stub()["signals"]
    assert told["hash_values"] == {
        **{name: signals[name] for name in ("md5", "sha1", "sha256")},
        "pdq": signals["renderings"][0]["pdq"],
    }
    assert told["ncmec_report_id"] == "4711"
    assert told["reporter"] == {"org": "Lab of Letters", "contact": "ada@lab.org", "domain": "lab.org"}
    assert "evidence" not in told
    assert abs(datetime.fromisoformat(told["timestamp"]) - datetime.now(UTC)).total_seconds() < 60


def test_xarf_of_what_names_no_url_or_is_not_valid_is_refused_and_tells_no_value() -> None:
    with pytest.raises(InvalidRequestError, match="names none"):
        xarf_reports.report(_stub(url=None, context=UPLOADED), REPORTER, "A1", ncmec_report_id=None)
    bad = Reporter("Ada", "Nowak", "ada@lab.org", "x" * 300)
    with pytest.raises(InvalidRequestError, match="is not valid") as refused:
        xarf_reports.report(_stub(), bad, "A1", ncmec_report_id=None)
    assert "xxx" not in refused.value.detail
    source = Context(source_url="https://chat.example/post/1")
    uploaded = xarf_reports.report(_stub(url=None, context=source), REPORTER, "B2", ncmec_report_id=None)
    assert xarf.parse(uploaded.decode()).errors == []
    assert json.loads(uploaded)["source_identifier"] == "chat.example"
