"""Documents of generated reports: good by Cordon's grammar, and by NCMEC's schema where there is one."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from lxml import etree

from app.context import parse_context
from app.filing.cybertip import grammar, rules
from app.filing.cybertip.document import INTENTS, Said, build
from app.filing.cybertip.reading import UnreadableError, read
from app.filing.cybertip.reporter import Reporter
from app.filing.cybertip.schema import Schema, load
from app.settings import SettingsError
from tests.filing.double import XSD
from tests.stubs import stub

STUBS = 200

PIECES = (
    *(
        "a",
        "Zürich",
        "日本",
        "🖼",
        "\u202e",
        "\x07",
        "\x00",
        "\ufffe",
        "<b>&amp;]]>",
        "' \"",
        "\r\n",
    ),
    *("x" * 90, "Host: forged", "--", "\u2028", "%00", " "),
)
URLS = (
    *("https://host.example/a?b=c#d", "http://192.0.2.1:8080/", "https://[2001:db8::1]/x", "ftp://host/file"),
    *("https://host.example/a b", "https://hôst.example/ü", "javascript:alert(1)", "https://host.example:0/"),
    *("https://host.example/" + "p" * 2060, "https://user:pass@host.example/\t", "x" * 2083),
)


def drawn_text(drawn: random.Random) -> str:
    """A text that somebody chose badly, or well."""
    return ("".join(drawn.choices(PIECES, k=drawn.randint(1, 12))))[:256]


def drawn_context(drawn: random.Random, now: datetime) -> dict[str, Any]:
    """A context that a gate takes, with any of its keys."""
    moment = (now + timedelta(hours=drawn.randint(-9000, 48))).isoformat()
    context: dict[str, Any] = {
        **{key: drawn.choice(URLS) for key in ("source_url", "page_url", "profile_url")},
        **{key: drawn_text(drawn) for key in ("platform", "account_id", "account_name", "post_id")},
        "posted_at": moment,
        "uploaded_at": moment,
        "uploader_ip": drawn.choice(("203.0.113.9", "2001:db8::9", "::ffff:203.0.113.9")),
        "uploader_port": drawn.randint(1, 65535),
        "client_ref": drawn_text(drawn),
        "tags": [drawn_text(drawn)[:64]],
    }
    return {key: value for key, value in context.items() if drawn.random() < 0.6}


def drawn_document(seed: int, now: datetime) -> bytes:
    """The document of a report with up to three sightings, and of what a custodian said."""
    drawn = random.Random(seed)
    fetched = drawn.random() < 0.5
    stubs = []
    for number in range(drawn.randint(1, 3)):
        url = drawn.choice(URLS[:4]) if fetched else None
        context = parse_context(drawn_context(drawn, now))
        stubs.append(json.loads(stub(f"{seed}-{number}", url=url, context=context).to_json(f"R{seed}")))
    said = Said(
        incident_type=drawn.choice(rules.INCIDENT_TYPES),
        escalation=drawn.choice((None, "A child is in danger now.", "e" * 3000)),
        annotations=tuple(drawn.sample(rules.REPORT_ANNOTATIONS, drawn.randint(0, 3))),
        classification=drawn.choice((None, *rules.CLASSIFICATIONS)),
        intent=drawn.choice((None, *INTENTS)),
        note=drawn.choice((None, "n" * 1000, "Größe & <Maß>")),
        provenance_unknown="It is not known.",
    )
    reporter = Reporter(
        *("Ada", "Lovelace", "ada@analytical.org", "Analytical Society"),
        phone=drawn.choice((None, "+44 20 7946 0000")),
        about=drawn.choice((None, "A laboratory.")),
        legal_url=drawn.choice((None, "https://analytical.org/legal")),
        contact_first_name="Charles",
        contact_email=drawn.choice((None, "charles@analytical.org")),
    )
    return build(stubs, reporter, said, role="provider", preservation="metadata_only", now=now)


def test_documents_of_generated_reports_break_no_rule() -> None:
    """Whatever a page or a caller wrote: order, words, lengths, URLs and times are right, and it is XML."""
    now = datetime.now(UTC) + timedelta(seconds=1)
    for seed in range(STUBS):
        root = read(drawn_document(seed, now))
        assert [str(problem) for problem in grammar.problems(root, now)] == [], seed
        for information in root.iter("additionalInfo"):
            # No value begins a line of its own.
            assert not any(line.startswith("Host: forged") for line in str(information.text).split("\n"))


@pytest.mark.skipif(not XSD.exists(), reason="NCMEC's schema cannot be shipped")
def test_documents_of_generated_reports_pass_ncmecs_schema() -> None:
    """By libxml2; and Cordon's own grammar refuses what the schema refuses."""
    now = datetime.now(UTC) + timedelta(seconds=1)
    schema = load(XSD)
    refused = 0
    for seed in range(STUBS):
        document = drawn_document(seed, now)
        assert schema.problem(read(document)) is None, seed
        broken = mutated(document, random.Random(seed))
        if schema.problem(broken) is not None:
            refused += 1
            assert grammar.problems(broken, now) != (), etree.tostring(broken)
    assert refused > STUBS / 2


def mutated(document: bytes, drawn: random.Random) -> etree._Element:
    """A document with one element moved, doubled, renamed, emptied or with another text."""
    root = etree.fromstring(document)
    element = drawn.choice([each for each in root.iter() if each is not root])
    parent = element.getparent()
    assert parent is not None
    match drawn.choice(("moved", "doubled", "renamed", "removed", "text")):
        case "moved":
            parent.append(element)
            parent.insert(0, parent[-1])
        case "doubled":
            parent.insert(parent.index(element), etree.fromstring(etree.tostring(element).strip()))
        case "renamed":
            element.tag = "other"
        case "removed":
            parent.remove(element)
        case "text":
            element.text = "something else"
    return root


SMALL = b"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="report">
<xs:complexType><xs:sequence><xs:element name="age" type="xs:int"/></xs:sequence></xs:complexType>
</xs:element></xs:schema>"""


def test_a_schema_judges_without_repeating_what_it_read() -> None:
    """Its words go to logs and people; the document's values do not."""
    schema = Schema(SMALL)
    assert schema.problem(read(b"<report><age>7</age></report>")) is None
    problem = schema.problem(read(b"<report><age>canary</age></report>"))
    assert problem is not None
    assert "report/age" in problem
    assert "canary" not in problem


@pytest.mark.parametrize("content", [None, b"", b"<report/>", b"<!DOCTYPE a><a/>"])
def test_what_is_no_schema_is_refused_by_name(tmp_path: Any, content: bytes | None) -> None:
    path = tmp_path / "cybertip.xsd"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="CORDON_CYBERTIP_XSD"):
        load(path)


@pytest.mark.parametrize(
    "untrusted",
    [
        *(b"", b"  ", b"<a>", b"<a/><b/>", b"\xff\xfe", b"<a>" * 300 + b"</a>" * 300),
        *(b"<!DOCTYPE a><a/>", b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/hostname">]><a>&e;</a>'),
        b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        b"<a>" + b"x" * (1024 * 1024) + b"</a>",
    ],
    ids=[
        *("empty", "blank", "cut off", "two roots", "no text", "deep"),
        *("document type", "outside entity", "entities in entities", "large"),
    ],
)
def test_xml_that_could_do_harm_is_not_read(untrusted: bytes) -> None:
    with pytest.raises(UnreadableError):
        read(untrusted)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ("<emailIncident><emailAddress>ada@analytical.org</emailAddress></emailIncident>", "emailAddress"),
        ("<emailIncident><emailAddress>s@a.org</emailAddress></emailIncident>", None),
    ],
)
def test_an_address_of_a_mail_must_be_of_somebody_in_the_report_and_not_of_its_reporter(
    element: str, expected: str | None
) -> None:
    """The server's rule, which its schema does not know."""
    root = read(
        f"<report><incidentSummary><incidentType>Child Sex Tourism</incidentType>"
        f"<incidentDateTime>2026-01-31T12:00:00Z</incidentDateTime></incidentSummary>"
        f"<internetDetails>{element}</internetDetails><reporter><reportingPerson>"
        f"<email>ada@analytical.org</email></reportingPerson></reporter><personOrUserReported>"
        f"<personOrUserReportedPerson><email>s@a.org</email></personOrUserReportedPerson>"
        f"</personOrUserReported></report>".encode()
    )
    found = [problem.path.rpartition("/")[2] for problem in grammar.problems(root, datetime.now(UTC))]
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("notified", "expected"), [("2026-01-31T12:00:00Z", 0), ("2026-01-31T12:00:00+01:00", 1)]
)
def test_nobody_is_told_of_a_closed_account_before_it_is_closed(notified: str, expected: int) -> None:
    """By the moment, whatever the offset."""
    root = read(
        f"<report><incidentSummary><incidentType>Child Sex Tourism</incidentType>"
        f"<incidentDateTime>2026-01-31T12:00:00Z</incidentDateTime></incidentSummary>"
        f"<reporter><reportingPerson><email>ada@analytical.org</email></reportingPerson></reporter>"
        f'<personOrUserReported><accountPermanentlyDisabled disabledDate="2026-01-31T11:30:00Z" '
        f'userNotifiedDate="{notified}">true</accountPermanentlyDisabled></personOrUserReported>'
        f"</report>".encode()
    )
    found = [str(problem) for problem in grammar.problems(root, datetime.now(UTC))]
    assert len(found) == expected
    assert all("userNotifiedDate must not lie before disabledDate" in problem for problem in found)
