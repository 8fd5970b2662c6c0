"""A page to copy from into the CyberTipline's public form: the same facts as the XML, section by section.

NCMEC publishes no list of what the form asks for since it was made anew in 2023. Sections and their order are
those of its help for the form before, "How do I fill out a CyberTipline report form?" (undated, on
netsmartz411.org): the incident and who reports, the Internet, the child and the suspect, and what else there
is. From its "Frequently Asked Questions" (undated, report.cybertip.org/faqs): nobody has to give a name, and
where the reporter is helps. Where the form asks in another order, the headings say what belongs where.

The page is one file without links, pictures, scripts or anything loaded: an address in it cannot be followed
by a slip of the hand.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lxml import etree
from lxml.html import builder as html


class Row(NamedTuple):
    """What the form asks for, and the answer.

    Attributes:
        answer: line by line; None if it is not known.
        keys: the provenance that it is made of, where a custodian can add to it.
    """

    question: str
    answer: str | None
    keys: tuple[str, ...] = ()


Section = tuple[str, list[Row]]

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "th{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;width:14rem;font-weight:600}"
    "td{padding:.3rem 0;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".none{color:#777}"
    # What is copied from the page is copied without it.
    ".added{color:#777;user-select:none}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_NOT_KNOWN = "not known to Cordon; leave it empty"
_ADDED = "  (added by a person of the reporter, not seen by Cordon)"


def page(report_id: str, report: etree._Element, *, added: Mapping[str, str] | None = None) -> bytes:
    """The page, as UTF-8 HTML.

    Args:
        report_id: Cordon's.
        report: the document as ``app.filing.cybertip.document.build`` makes it, parsed.
        added: provenance in it that a custodian added and no sighting tells; it is marked where it stands.
    """
    head = html.HEAD(
        html.META(charset="utf-8"),
        html.META(**{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        html.TITLE(f"Report {report_id}"),
        html.STYLE(_STYLE),
    )
    body = html.BODY(
        html.H1(f"Report {report_id}"),
        html.P(
            "For the public form at report.cybertip.org, section by section. Copy what is here, leave empty "
            "what is not known, and attach nothing: there is no file. Then note the number that you get: "
            f"cordon report filed {report_id} --identity YOUR.key --reference NUMBER"
        ),
        html.P("Do not open the addresses. Destroy this file when you are done: it is not sealed."),
    )
    for heading, rows in sections(report):
        table = html.TABLE()
        for row in rows:
            table.append(html.TR(html.TH(row.question, scope="row"), _cell(row, added or {})))
        body.append(html.H2(heading))
        body.append(table)
    document: bytes = etree.tostring(
        html.HTML(head, body, lang="en"), method="html", doctype="<!DOCTYPE html>", encoding="utf-8"
    )
    return document


def _cell(row: Row, added: Mapping[str, str]) -> etree._Element:
    cell: etree._Element = html.TD()
    if not row.answer:
        cell.append(html.SPAN(_NOT_KNOWN, html.CLASS("none")))
        return cell
    marked = [" ".join(added[key].split()) for key in row.keys if key in added]
    for number, line in enumerate(row.answer.split("\n")):
        cell.append(html.SPAN(f"\n{line}" if number else line))
        if any(line == value or line.startswith(f"{value}, ") for value in marked):
            cell.append(html.SPAN(_ADDED, html.CLASS("added")))
    return cell


def sections(report: etree._Element) -> Iterator[Section]:
    """What the form asks for, in its order; None for what is not known."""

    def text(path: str) -> str | None:
        return "\n".join(each.text or "" for each in report.iterfind(path)) or None

    def told(path: str) -> str | None:
        return "Yes" if report.find(path) is not None else None

    def told_names(path: str) -> str | None:
        return ", ".join(str(each.tag) for each in report.iterfind(path)) or None

    incident, page_incident = "incidentSummary/", "internetDetails/webPageIncident"
    yield (
        "1. The incident",
        [
            Row("Type of incident", text(incident + "incidentType")),
            Row("Date and time (UTC)", text(incident + "incidentDateTime")),
            Row("What that time is", text(incident + "incidentDateTimeDescription")),
            Row("What else is so", told_names(incident + "reportAnnotations/*")),
            Row("Is a child in danger now?", text(incident + "escalateToHighPriority")),
        ],
    )
    person, contact = "reporter/reportingPerson/", "reporter/contactPerson/"
    yield (
        "2. Who reports",
        [
            Row("First name", text(person + "firstName")),
            Row("Last name", text(person + "lastName")),
            Row("Where you are (country, state)", None),
            Row("Telephone", text(person + "phone")),
            Row("E-mail", text(person + "email")),
            Row("Organisation", text("reporter/companyTemplate")),
            Row("Whom to ask: name", _joined(text(contact + "firstName"), text(contact + "lastName"))),
            Row("Whom to ask: e-mail", text(contact + "email")),
            Row("Terms of service", text("reporter/termsOfService")),
            Row("Where legal process is served", text("reporter/legalURL")),
        ],
    )
    third = page_incident + "[@thirdPartyHostedContent='true']"
    yield (
        "3. The Internet",
        [
            Row("Kind of place", "Web page" if report.find(page_incident) is not None else None),
            Row(
                "Addresses (URLs)", text(page_incident + "/url"), ("requested_url", "source_url", "page_url")
            ),
            Row("Website, app or platform", text(incident + "platform"), ("platform",)),
            Row("Hosted by somebody else than the reporter", told(third)),
            Row("About the file", text(page_incident + "/additionalInfo")),
        ],
    )
    yield (
        "4. The child",
        [
            Row("Name", None),
            Row("Age", None),
            Row("Where the child lives", None),
            Row("How to reach the child", None),
        ],
    )
    suspect = "personOrUserReported/"
    events = [_event(each) for each in report.iterfind(suspect + "ipCaptureEvent")]
    yield (
        "5. The suspect",
        [
            Row("Name", None),
            Row("Account id", text(suspect + "espIdentifier"), ("account_id",)),
            Row("Account is with", text(suspect + "espService"), ("platform",)),
            Row("Screen name", text(suspect + "screenName"), ("account_name",)),
            Row("Other names shown", text(suspect + "displayName"), ("account_name",)),
            Row("Profile addresses", text(suspect + "profileUrl"), ("profile_url",)),
            Row("E-mail, telephone, home", None),
            Row("IP addresses", "\n".join(events) or None, ("uploader_ip",)),
            Row("More about the account", text(suspect + "additionalInfo")),
        ],
    )
    yield (
        "6. What else there is",
        [
            Row("Has the police been told?", None),
            Row("Additional information", text("additionalInfo")),
        ],
    )


def _joined(*parts: str | None) -> str | None:
    return " ".join(part for part in parts if part) or None


def _event(event: etree._Element) -> str:
    """An address with what is known of when and through which port."""
    address, at, port = (event.findtext(name) for name in ("ipAddress", "dateTime", "port"))
    told = (address, f"port {port}" if port else None, f"upload at {at}" if at else None)
    return ", ".join(part for part in told if part)
