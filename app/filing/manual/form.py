"""A page to copy from into the CyberTipline's public form: the same facts as the XML, section by section.

Sections and their order are those of NCMEC's own help, "How do I fill out a CyberTipline report form?": the
incident and who reports, the Internet, the child, the suspect, and what else there is. The form was made anew
in 2023 and changes without notice: where it asks in another order, the headings say what belongs where.

The page is one file without links, pictures, scripts or anything loaded: an address in it cannot be followed
by a slip of the hand.
"""

from collections.abc import Iterator

from lxml import etree
from lxml.html import builder as html

Row = tuple[str, str | None]
Section = tuple[str, list[Row]]

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "th{text-align:left;vertical-align:top;padding:.3rem 1rem .3rem 0;width:14rem;font-weight:600}"
    "td{padding:.3rem 0;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".none{color:#777}"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_NOT_KNOWN = "not known to Cordon; leave it empty"


def page(report_id: str, report: etree._Element) -> bytes:
    """The page, as UTF-8 HTML.

    Args:
        report_id: Cordon's.
        report: the document as ``app.filing.cybertip.document.build`` makes it, parsed.
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
        for name, value in rows:
            cell = html.TD(value) if value else html.TD(_NOT_KNOWN, html.CLASS("none"))
            table.append(html.TR(html.TH(name, scope="row"), cell))
        body.append(html.H2(heading))
        body.append(table)
    document: bytes = etree.tostring(
        html.HTML(head, body, lang="en"), method="html", doctype="<!DOCTYPE html>", encoding="utf-8"
    )
    return document


def sections(report: etree._Element) -> Iterator[Section]:
    """What the form asks for, in its order; None for what is not known."""

    def text(path: str) -> str | None:
        return "\n".join(each.text or "" for each in report.iterfind(path)) or None

    def told(path: str) -> str | None:
        return "Yes" if report.find(path) is not None else None

    incident, page_incident = "incidentSummary/", "internetDetails/webPageIncident"
    yield (
        "1. The incident",
        [
            ("Type of incident", text(incident + "incidentType")),
            ("Date and time (UTC)", text(incident + "incidentDateTime")),
            ("What that time is", text(incident + "incidentDateTimeDescription")),
            ("Is a child in danger now?", text(incident + "escalateToHighPriority")),
        ],
    )
    person, contact = "reporter/reportingPerson/", "reporter/contactPerson/"
    yield (
        "2. Who reports",
        [
            ("First name", text(person + "firstName")),
            ("Last name", text(person + "lastName")),
            ("Telephone", text(person + "phone")),
            ("E-mail", text(person + "email")),
            ("Organisation", text("reporter/companyTemplate")),
            ("Whom to ask: name", _joined(text(contact + "firstName"), text(contact + "lastName"))),
            ("Whom to ask: e-mail", text(contact + "email")),
            ("Terms of service", text("reporter/termsOfService")),
            ("Where legal process is served", text("reporter/legalURL")),
        ],
    )
    third = page_incident + "[@thirdPartyHostedContent='true']"
    yield (
        "3. The Internet",
        [
            ("Kind of place", "Web page" if report.find(page_incident) is not None else None),
            ("Addresses (URLs)", text(page_incident + "/url")),
            ("Website, app or platform", text(incident + "platform")),
            ("Hosted by somebody else than the reporter", told(third)),
            ("About the file", text(page_incident + "/additionalInfo")),
        ],
    )
    yield (
        "4. The child",
        [
            ("Name", None),
            ("Age", None),
            ("Where the child lives", None),
            ("How to reach the child", None),
        ],
    )
    suspect = "personOrUserReported/"
    events = [_event(each) for each in report.iterfind(suspect + "ipCaptureEvent")]
    yield (
        "5. The suspect",
        [
            ("Name", None),
            ("Account id", text(suspect + "espIdentifier")),
            ("Account is with", text(suspect + "espService")),
            ("Screen name", text(suspect + "screenName")),
            ("Other names shown", text(suspect + "displayName")),
            ("Profile addresses", text(suspect + "profileUrl")),
            ("E-mail, telephone, home", None),
            ("IP addresses", "\n".join(events) or None),
            ("More about the account", text(suspect + "additionalInfo")),
        ],
    )
    yield (
        "6. What else there is",
        [
            ("Has the police been told?", None),
            ("Additional information", text("additionalInfo")),
        ],
    )


def _joined(*parts: str | None) -> str | None:
    return " ".join(part for part in parts if part) or None


def _event(event: etree._Element) -> str:
    """An address with what is known of when and through which port."""
    address, at, port = (event.findtext(name) for name in ("ipAddress", "dateTime", "port"))
    told = (address, f"port {port}" if port else None, f"upload at {at}" if at else None)
    return ", ".join(part for part in told if part)
