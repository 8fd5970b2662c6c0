"""What a person files by hand with: the form's page and XARF, of fetched and of uploaded media."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
import xarf
from lxml import html

from app.context import Context
from app.errors import InvalidRequestError
from app.filing.cybertip.document import Said, build
from app.filing.cybertip.reading import read
from app.filing.cybertip.reporter import Reporter
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


def _page(*stubs: dict[str, Any], said: Said | None = None, added: Mapping[str, str] | None = None) -> bytes:
    xml = build(
        stubs, REPORTER, said or Said(), role="voluntary", preservation="metadata_only", now=datetime.now(UTC)
    )
    return form.page(REPORT, read(xml), added=added)


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


def test_what_a_custodian_added_is_marked_where_it_stands_and_what_was_seen_is_not() -> None:
    """The mark is not copied with the answer."""
    added = {
        "account_id": "4711",
        "profile_url": "https://chat.example/u/4711",
        "source_url": "https://chat.example/post/1",
        "uploader_ip": "198.51.100.7",
        "uploader_port": "4433",
    }
    seen = Context(platform="Chat", account_name="4711", page_url="https://chat.example/post")
    page = _page(_stub(url=None, context=seen), said=Said(provenance=added), added=added)
    rows = _rows(page)
    mark = "  (added by a person of the reporter, not seen by Cordon)"
    assert rows["Account id"] == f"4711{mark}"
    assert rows["Profile addresses"] == f"https://chat.example/u/4711{mark}"
    assert rows["IP addresses"] == f"198.51.100.7, port 4433{mark}"
    assert rows["Addresses (URLs)"].splitlines() == [
        f"https://chat.example/post/1{mark}",
        "https://chat.example/post",
    ]
    assert (rows["Screen name"], rows["Website, app or platform"]) == ("4711", "Chat")
    assert [each.get("class") for each in html.document_fromstring(page).iter("span")].count("added") == 4
    assert b".added{color:#777;user-select:none}" in page


def test_nothing_on_the_page_loads_leads_away_or_runs() -> None:
    """Whatever an account calls itself."""
    page = _page(_stub(url=None, context=UPLOADED))
    told = html.document_fromstring(page)
    assert not {each.tag for each in told.iter()} & {"a", "img", "script", "link", "iframe", "form", "object"}
    assert not [each for each in told.iter() if set(each.attrib) & {"href", "src", "action", "onclick"}]
    assert _rows(page)["Screen name"] == "<script>alert(1)</script>"


def test_nothing_is_guessed_of_a_child_or_of_haste() -> None:
    rows = _rows(_page(_stub()))
    for name in ("Age", "Name", "What else is so", "Is a child in danger now?", "Has the police been told?"):
        assert rows[name] == "not known to Cordon; leave it empty"
    said = Said(escalation="A child is named on the page.", annotations=("sextortion", "spam"))
    rows = _rows(_page(_stub(), said=said))
    assert rows["Is a child in danger now?"] == "A child is named on the page."
    assert rows["What else is so"] == "sextortion, spam"


@pytest.mark.parametrize("classification", xarf_reports.CLASSIFICATIONS)
def test_the_xarf_package_finds_the_export_valid(classification: str) -> None:
    """Read back as whoever receives it does, with every URL, digest and number in its field."""
    written = xarf_reports.report(_stub(), REPORTER, classification, ncmec_report_id="4711", added={})
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
        xarf_reports.report(_stub(url=None, context=UPLOADED), REPORTER, "A1", ncmec_report_id=None, added={})
    bad = Reporter("Ada", "Nowak", "ada@lab.org", "x" * 300)
    with pytest.raises(InvalidRequestError, match="is not valid") as refused:
        xarf_reports.report(_stub(), bad, "A1", ncmec_report_id=None, added={})
    assert "xxx" not in refused.value.detail
    source = Context(source_url="https://chat.example/post/1")
    uploaded = xarf_reports.report(
        _stub(url=None, context=source), REPORTER, "B2", ncmec_report_id=None, added={}
    )
    assert xarf.parse(uploaded.decode()).errors == []
    assert json.loads(uploaded)["source_identifier"] == "chat.example"


def test_xarf_takes_a_url_that_a_custodian_added_says_so_and_prefers_what_was_seen() -> None:
    added = {"source_url": "https://chat.example/post/1"}
    written = xarf_reports.report(
        _stub(url=None, context=UPLOADED), REPORTER, "A1", ncmec_report_id=None, added=added
    )
    assert xarf.parse(written.decode()).errors == []
    told = json.loads(written)
    assert (told["url"], told["source_identifier"]) == (added["source_url"], "chat.example")
    assert told["description"].endswith("added by a person of the reporter; Cordon did not see it.")
    for seen in (_stub(), _stub(url=None, context=Context(page_url=URL))):
        told = json.loads(xarf_reports.report(seen, REPORTER, "A1", ncmec_report_id=None, added=added))
        assert (told["url"], "added by" in told["description"]) == (URL, False)
