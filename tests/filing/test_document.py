"""The document of a report: everything that is known, in its place, and nothing that nobody said."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lxml import etree

from app.context import parse_context
from app.errors import InvalidRequestError
from app.filing.cybertip import rules
from app.filing.cybertip.document import Said, build
from app.filing.cybertip.reporter import Reporter, is_placeholder
from app.media import BankAction, BankKind, Match, Region, SignalType, Symmetry, Variant
from app.report.provenance import gaps
from app.settings import FilingSettings
from tests.stubs import ADDRESS, URL, perceptual_of, stub

REPORT_ID = "01JREPORT"
REPORTER = Reporter("Ada", "Lovelace", "ada@analytical.org", "Analytical Society")


def opened(url: str | None = URL, **context: Any) -> dict[str, Any]:
    """A report as its reader gets it."""
    document: dict[str, Any] = json.loads(stub(url=url, context=parse_context(context)).to_json(REPORT_ID))
    return document


def built(*stubs: Mapping[str, Any], said: Said | None = None, now: datetime | None = None) -> etree._Element:
    """The document of a report and its later sightings."""
    document = build(
        stubs or [opened()],
        REPORTER,
        said or Said(),
        role="voluntary",
        preservation="metadata_only",
        now=now or datetime.now(UTC),
    )
    return etree.fromstring(document)


def texts(report: etree._Element, path: str) -> list[str | None]:
    return [each.text for each in report.findall(path)]


def element_of(report: etree._Element, path: str) -> etree._Element:
    """The one element at a path."""
    (found,) = report.findall(path)
    return found


def text_of(report: etree._Element, path: str) -> str:
    """The one text at a path."""
    (found,) = texts(report, path)
    assert found is not None
    return found


def test_a_fetched_sighting_tells_url_host_address_time_and_hashes() -> None:
    """A report without provenance is of use to nobody."""
    document = opened(page_url="https://page.org/gallery")
    report = built(document)
    assert texts(report, "internetDetails/webPageIncident/url") == [URL, "https://page.org/gallery"]
    assert element_of(report, "internetDetails/webPageIncident").items() == [
        ("thirdPartyHostedContent", "true")
    ]
    file = text_of(report, "internetDetails/webPageIncident/additionalInfo").splitlines()
    for name in ("md5", "sha1", "sha256"):
        assert f"{name.upper()}: {document['signals'][name]}" in file
    assert any(line.startswith(f"PDQ: {document['signals']['renderings'][0]['pdq']} ") for line in file)
    told = text_of(report, "additionalInfo").splitlines()
    assert f"Report of the sender: {REPORT_ID}" in told
    assert "Host: canary-host.example" in told
    assert f"Host address: {ADDRESS} port 443" in told
    assert any("no person viewed it" in line for line in told)
    assert any("kept no copy" in line for line in told)


def test_nobody_is_accused_where_the_page_names_no_account() -> None:
    """No invented suspect."""
    assert built(opened(platform="Somewhere")).find("personOrUserReported") is None


def test_an_account_that_the_page_names_is_a_third_partys() -> None:
    """The reporter of a crawl runs no accounts."""
    person = built(opened(account_name="someone", profile_url="https://p.org/u/1")).find(
        "personOrUserReported"
    )
    assert person is not None
    assert [child.tag for child in person] == ["screenName", "profileUrl", "thirdPartyUserReported"]


def test_an_upload_names_its_account_and_the_address_it_came_from() -> None:
    """For uploads the platform is the reporter's own."""
    report = built(
        opened(
            url=None,
            platform="Here",
            account_id="42",
            uploader_ip="2001:db8::7",
            uploader_port=4711,
            uploaded_at="2026-01-31T13:00:00+01:00",
        )
    )
    assert element_of(report, "internetDetails/webPageIncident").items() == []
    assert text_of(report, "incidentSummary/platform") == "Here"
    assert text_of(report, "incidentSummary/incidentDateTime") == "2026-01-31T12:00:00Z"
    person = element_of(report, "personOrUserReported")
    assert [(each.tag, each.text) for each in person.iter() if each.text and each.text.strip()] == [
        ("espIdentifier", "42"),
        ("espService", "Here"),
        ("ipAddress", "2001:db8::7"),
        ("eventName", "Upload"),
        ("dateTime", "2026-01-31T12:00:00Z"),
        ("port", "4711"),
    ]


def test_a_value_from_outside_cannot_pretend_to_be_another_line() -> None:
    """A name with a line feed in it stays one value."""
    report = built(
        opened(url=None, account_id="1\nSHA256: 00", account_name="2\r\nHost: x", post_id="3\nHost: y")
    )
    for element in report.iter("additionalInfo"):
        assert not [line for line in (element.text or "").splitlines() if line in {"SHA256: 00", "Host: y"}]
    assert text_of(report, "personOrUserReported/screenName") == "2 Host: x"


def test_the_name_of_a_header_cannot_pretend_to_be_another_line() -> None:
    """A gate that was taken over writes what it likes there."""
    document = opened()
    document["provenance"]["headers"] = {"etag: x\nNote of the reporter: hurry\nx": "1"}
    lines = (text_of(built(document), "additionalInfo") or "").splitlines()
    assert "Header etag: x Note of the reporter: hurry x: 1" in lines


def test_a_name_from_outside_rearranges_nothing_on_the_screen_of_who_approves_it() -> None:
    """What a terminal would obey, or would not show, stands there as a reference: the same document."""
    name = "evil\u202egpj.elif\u200b \u00a0"
    document = build(
        [opened(None, account_id="4711", account_name=name)],
        REPORTER,
        Said(note="Grüße \U0001f600 \u2066x"),
        role="voluntary",
        preservation=None,
        now=datetime.now(UTC),
    )
    written = document.decode()
    assert "evil&#x202e;gpj.elif&#x200b;" in written
    assert "Grüße \U0001f600 &#x2066;x" in written
    assert all(each.isprintable() or each == "\n" for each in written)
    assert text_of(etree.fromstring(document), "personOrUserReported/screenName").startswith("evil\u202egpj")


@pytest.mark.parametrize("bad", ["ftp://h.org/a", "https://h.org/a b", "https://h.org/\u00e9", "not a url"])
def test_what_is_no_valid_url_is_told_in_the_text(bad: str) -> None:
    """The server refuses a report for one bad URL; the URL must not be lost either."""
    report = built(opened(source_url=bad))
    assert texts(report, "internetDetails/webPageIncident/url") == [URL]
    assert f"URL not valid as such: {bad}" in text_of(report, "additionalInfo").splitlines()


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (Variant(bytes(32), 77, Symmetry.FLIP_Y, negative=False, region=None), "turned or flipped (flipy)"),
        (Variant(bytes(32), 77, Symmetry.ORIGINAL, negative=True, region=None), "as a negative"),
        (
            Variant(bytes(32), 77, Symmetry.ORIGINAL, negative=False, region=Region(1, 2, 30, 40)),
            "in a part of the picture (30 x 40 pixels of it)",
        ),
    ],
)
def test_a_match_of_a_changed_picture_can_be_reported_and_says_what_was_changed(
    variant: Variant, said: str
) -> None:
    """As the stub of the draft tells it."""
    found = Match(
        bank="list",
        kind=BankKind.CSAM,
        action=BankAction.REPORT,
        entry_id=1,
        type=SignalType.PDQ,
        entry_value=bytes(32),
        query_value=variant.pdq,
        distance=5,
        threshold=31,
        rendering=perceptual_of("a"),
        variant=variant,
    )
    document = json.loads(stub(matches=(found,)).to_json(REPORT_ID))
    file = text_of(built(document), "internetDetails/webPageIncident/additionalInfo").splitlines()
    assert (
        f"Matched: pdq 5 bits apart, at most 31 match, quality 77, frame 1, {said}; list 'list', entry 1"
        in file
    )


def test_sightings_share_one_document() -> None:
    """Later sightings of a report add their URLs and times."""
    later = opened(page_url="https://page.org/second")
    later["provenance"]["fetched_at"] = "2026-01-02T03:04:05Z"
    report = built(opened(page_url="https://page.org/first"), later)
    assert texts(report, "internetDetails/webPageIncident/url") == [
        URL,
        "https://page.org/first",
        "https://page.org/second",
    ]
    assert "Fetched: 2026-01-02T03:04:05Z" in text_of(report, "additionalInfo")


def test_the_incident_lies_in_the_past_whatever_the_clocks_say() -> None:
    """The server refuses a time in its future."""
    now = datetime.now(UTC) - timedelta(days=1)
    report = built(opened(), now=now)
    moment = rules.read_moment(text_of(report, "incidentSummary/incidentDateTime"))
    assert moment is not None
    assert moment < now
    assert "ahead" in text_of(report, "incidentSummary/incidentDateTimeDescription")


def test_only_what_a_person_said_is_said() -> None:
    """No escalation, class, intent or annotation by itself."""
    silent = built(opened())
    assert silent.find("incidentSummary/escalateToHighPriority") is None
    assert silent.find("incidentSummary/reportAnnotations") is None
    assert "lassification" not in text_of(silent, "additionalInfo")
    said = Said(
        incident_type="Child Sex Trafficking",
        escalation="a child is in danger now",
        annotations=("sextortion",),
        classification="B2",
        intent="commercial",
        note="seen twice",
    )
    report = built(opened(), said=said)
    summary = element_of(report, "incidentSummary")
    assert [child.tag for child in summary][:3] == [
        "incidentType",
        "escalateToHighPriority",
        "reportAnnotations",
    ]
    assert text_of(report, "incidentSummary/incidentType") == "Child Sex Trafficking"
    told = text_of(report, "additionalInfo")
    assert "person of the reporter: B2" in told
    assert "malicious, commercial offender" in told
    assert "seen twice" in told


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"incident_type": "Something"}, "incident type"),
        ({"annotations": ("informational",)}, "annotation"),
        ({"classification": "C1"}, "classification"),
        ({"intent": "evil"}, "intent"),
        ({"escalation": "x" * 3001}, "escalate"),
        ({"note": " "}, "note"),
        ({"provenance": {"colour": "red"}}, "'colour'"),
        ({"provenance": {"uploader_ip": "1.2.3"}}, "'uploader_ip'"),
        ({"provenance": {"fetched_at": "yesterday"}}, "'fetched_at'"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    """The error names the field and the mend, before anything is signed."""
    with pytest.raises(InvalidRequestError, match=named):
        Said(**wrong)


def test_missing_provenance_is_named_and_can_be_added_or_explained() -> None:
    """Nothing becomes impossible to report, and nothing goes out thin by accident."""
    thin = opened(url=None)
    (gap,) = gaps(thin)
    assert gap.any_of == ("account_id", "profile_url", "uploader_ip", "source_url")
    with pytest.raises(
        InvalidRequestError, match=r"'--add account_id=VALUE', or .* '--provenance-unknown REASON'"
    ):
        built(thin)
    added = Said(provenance={"uploader_ip": "203.0.113.5"})
    assert gaps(thin, added.provenance) == ()
    report = built(thin, said=added)
    assert text_of(report, "personOrUserReported/ipCaptureEvent/ipAddress") == "203.0.113.5"
    assert "Added by a person, not seen by Cordon: uploader_ip" in text_of(report, "additionalInfo")
    explained = built(thin, said=Said(provenance_unknown="the platform keeps no logs"))
    assert "Provenance not known: the platform keeps no logs" in text_of(explained, "additionalInfo")


def test_a_fetched_sighting_lacks_what_a_person_took_out_of_it() -> None:
    """A fetched sighting needs URL, host and time."""
    thin = opened()
    thin["provenance"] |= {"requested_url": None, "fetched_at": None}
    assert [gap.any_of for gap in gaps(thin)] == [("requested_url",), ("host",), ("fetched_at",)]
    assert gaps(thin, {"requested_url": "https://h.org/", "fetched_at": "2026-01-01T00:00:00Z"}) == ()


def test_what_a_custodian_adds_never_replaces_what_was_seen() -> None:
    """The record stays what Cordon saw."""
    report = built(opened(), said=Said(provenance={"requested_url": "https://other.org/"}))
    assert texts(report, "internetDetails/webPageIncident/url") == [URL]


@pytest.mark.parametrize(
    ("lacks", "added"),
    [
        ("uploaded_at", {"uploaded_at": "2026-01-31T12:00:00Z", "account_id": "4711"}),
        ("received_at", {"received_at": "2026-01-31T12:00:00Z", "account_id": "4711"}),
        ("fetched_at", {"fetched_at": "2026-01-31T12:00:00Z"}),
    ],
)
def test_a_time_that_a_custodian_adds_is_not_said_to_be_told_or_seen_by_another(
    lacks: str, added: dict[str, str]
) -> None:
    """Neither the platform nor Cordon told it, and the authority must know who did."""
    incomplete = opened(url=URL if lacks == "fetched_at" else None)
    incomplete["provenance"].pop(lacks, None)
    report = built(incomplete, said=Said(provenance=added))
    assert text_of(report, "incidentSummary/incidentDateTime") == "2026-01-31T12:00:00Z"
    words = text_of(report, "incidentSummary/incidentDateTimeDescription")
    assert words.endswith("as a person of the reporter added it.")
    lines = text_of(report, "additionalInfo").splitlines()
    assert [line for line in lines if "2026-01-31" in line] == [f"Added {lacks}: 2026-01-31T12:00:00Z"]


def test_an_account_id_that_its_element_cannot_hold_stands_in_the_text_too() -> None:
    """What is cut off names another account."""
    account_id = "a" * 256
    report = built(opened(url=None, account_id=account_id))
    assert text_of(report, "personOrUserReported/espIdentifier") == "a" * 255
    assert text_of(report, "personOrUserReported/additionalInfo") == f"Account id: {account_id}"


def test_an_address_that_is_no_valid_url_is_told_before_a_hundred_sightings() -> None:
    """Without it nobody knows where to look, and the room for text is short."""
    sightings = [opened(url=None, account_id="4711", source_url="magnet:?xt=urn") for _ in range(100)]
    for number, sighting in enumerate(sightings):
        sighting["provenance"]["received_at"] = f"2026-01-31T12:{number // 60:02}:{number % 60:02}Z"
    text = text_of(built(*sightings), "additionalInfo")
    assert "Left out for want of room" in text
    assert "URL not valid as such: magnet:?xt=urn" in text


def test_whom_to_ask_is_told_without_an_address_too() -> None:
    """What an operator sets is not left out without a word."""
    asked = replace(REPORTER, contact_first_name="Grace", contact_last_name="Hopper")
    document = build([opened()], asked, Said(), role="voluntary", preservation=None, now=datetime.now(UTC))
    assert text_of(etree.fromstring(document), "reporter/contactPerson/lastName") == "Hopper"


def test_the_texts_keep_within_their_limits() -> None:
    """What finds no room is counted, never cut in the middle and never sent too long."""
    document = opened(source_url="ftp://" + "a" * 2000, page_url="ftp://" + "b" * 2000)
    report = built(document, said=Said(note="n" * 1000))
    for element in report.iter("additionalInfo"):
        assert rules.units(element.text or "") < rules.MAX_INFORMATION
    assert "Left out for want of room: 2 more" in text_of(report, "additionalInfo")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Placeholder", True),
        ("a@reporter.example", True),
        ("a@sub.example.com", True),
        ("https://localhost/legal", True),
        ("<name>", True),
        ("xxx", True),
        ("TODO", True),
        ("Example Company", True),
        ("Ada", False),
        ("ada@analytical.org", False),
        ("Todorov", False),
        ("Mastodon of the Lab", False),
        ("admin@mastodon.social", False),
    ],
)
def test_placeholders_are_recognised(value: str, *, expected: bool) -> None:
    """Nobody files for real as Jane Doe."""
    assert is_placeholder(value) is expected


def test_terms_of_service_may_give_an_example() -> None:
    """Prose is a placeholder only if it begins as one."""
    prose = "We may change methods, for example yours. Your name is kept."
    assert replace(REPORTER, about=prose, terms_of_service=prose).placeholders == ()
    assert replace(REPORTER, about="Lorem ipsum dolor").placeholders == ("CORDON_REPORTER_ABOUT",)


def test_the_defaults_are_placeholders_all() -> None:
    """Whoever sets nothing cannot file for real."""
    assert set(Reporter.of(FilingSettings()).placeholders) == {
        "CORDON_REPORTER_FIRST_NAME",
        "CORDON_REPORTER_LAST_NAME",
        "CORDON_REPORTER_EMAIL",
        "CORDON_REPORTER_COMPANY",
    }
    assert REPORTER.placeholders == ()
