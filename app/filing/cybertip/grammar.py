"""The tree of a report, and everything that a document breaks of it.

Written from the schema's structure and the rules of the server beyond it (see ``rules``); it needs no copy
of the schema. ``problems`` is what stands before every sending; the double applies it too. Of the elements
that Cordon never writes, ``associatedAccount`` alone is left out: schema and documentation differ on it.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, auto
from typing import Final

from lxml import etree

from app.filing.cybertip import rules
from app.filing.cybertip.rules import Rule


class Arrangement(Enum):
    """How the parts of an element stand."""

    SEQUENCE = auto()
    CHOICE = auto()
    ANY = auto()


@dataclass(frozen=True)
class Element:
    """What an element may hold.

    Attributes:
        least: how often it must stand there.
        most: how often it may; None for any number.
        rule: of its text, if it holds text; None if it holds elements.
    """

    name: str
    least: int = 0
    most: int | None = 1
    rule: Rule | None = None
    parts: tuple["Element", ...] = ()
    arrangement: Arrangement = Arrangement.SEQUENCE
    attributes: Mapping[str, Rule] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a document.

    Attributes:
        path: of the element, by the names of the schema.
        mend: what it must be instead; never its value.
    """

    path: str
    mend: str

    def __str__(self) -> str:
        words = next((words for end, words in WORDS.items() if self.path.endswith(end)), None)
        return f"{words} ({self.path}) {self.mend}" if words else f"{self.path} {self.mend}"


WORDS: Final[Mapping[str, str]] = {
    "incidentSummary/incidentType": "the type of incident",
    "incidentSummary/platform": "the platform's name",
    "incidentSummary/escalateToHighPriority": "the reason to escalate",
    "incidentSummary/reportAnnotations": "the annotations",
    "incidentSummary/incidentDateTime": "the time it was found",
    "incidentSummary/incidentDateTimeDescription": "what that time is",
    "webPageIncident/url": "a URL of the file or its page",
    "webPageIncident/additionalInfo": "what is known of the file",
    "reportingPerson/firstName": "the reporter's first name, CORDON_REPORTER_FIRST_NAME,",
    "reportingPerson/lastName": "the reporter's last name, CORDON_REPORTER_LAST_NAME,",
    "reportingPerson/email": "the reporter's e-mail address, CORDON_REPORTER_EMAIL,",
    "reportingPerson/phone": "the reporter's telephone, CORDON_REPORTER_PHONE,",
    "contactPerson/firstName": "the contact's first name, CORDON_REPORTER_CONTACT_FIRST_NAME,",
    "contactPerson/lastName": "the contact's last name, CORDON_REPORTER_CONTACT_LAST_NAME,",
    "contactPerson/email": "the contact's e-mail address, CORDON_REPORTER_CONTACT_EMAIL,",
    "reporter/legalURL": "the address for legal process, CORDON_REPORTER_LEGAL_URL,",
    "personOrUserReported/espIdentifier": "the account's id",
    "personOrUserReported/espService": "the service's name",
    "personOrUserReported/profileUrl": "the account's profile",
    "ipCaptureEvent/ipAddress": "the uploader's address",
    "ipCaptureEvent/port": "the uploader's port",
    "ipCaptureEvent/dateTime": "the time of upload",
    "report/additionalInfo": "how it was found",
}
"""Our words for what Cordon writes, by the end of the path."""

MAX_PROBLEMS: Final = 20

_STATES: Final = (
    *("AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "GU", "HI", "ID"),
    *("IL", "IN", "IA", "KS", "KY", "LA", "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT"),
    *("NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR", "PA", "PR", "RI"),
    *("SC", "SD", "TN", "TX", "UT", "VT", "VA", "VI", "WA", "WV", "WI", "WY"),
)


def problems(root: etree._Element, now: datetime) -> tuple[Problem, ...]:
    """All that is wrong with a report, in its order, at most ``MAX_PROBLEMS``; nothing if it is good.

    Args:
        root: the document's root.
        now: every time must lie before it.
    """
    found = itertools.chain(_check(root, report(now), ""), _across(root))
    return tuple(itertools.islice(found, MAX_PROBLEMS))


def report(now: datetime) -> Element:
    """The whole tree of a report, for documents sent at ``now``."""
    moment = rules.past(now)
    person = _person(moment)
    return Element(
        "report",
        1,
        parts=(
            Element("batchedReport", attributes={"reason": rules.one_of("VIRAL_POTENTIAL_MEME")}),
            _incident_summary(moment),
            _internet_details(moment),
            _law_enforcement(moment),
            Element(
                "reporter",
                1,
                parts=(
                    Element("reportingPerson", 1, parts=person),
                    Element("contactPerson", parts=person[:5]),
                    _text("companyTemplate"),
                    _text("termsOfService"),
                    Element("legalURL", rule=rules.url),
                ),
            ),
            # The schema takes any number; the server one, but for batched reports.
            Element(
                "personOrUserReported", parts=_account(moment, "personOrUserReportedPerson", suspect=True)
            ),
            Element("intendedRecipient", most=None, parts=_account(moment, "intendedRecipientPerson")),
            Element("victim", most=None, parts=_account(moment, "victimPerson", victim=True)),
            _text("additionalInfo", rules.MAX_INFORMATION),
        ),
    )


def file_problems(root: etree._Element, now: datetime) -> tuple[Problem, ...]:
    """The same of the details of an uploaded file, which Cordon never sends and the double checks."""
    found = itertools.chain(_check(root, _file_details(rules.past(now)), ""), _across_file(root))
    return tuple(itertools.islice(found, MAX_PROBLEMS))


def _file_details(moment: Rule) -> Element:
    return Element(
        "fileDetails",
        1,
        parts=(
            Element("reportId", 1, rule=rules.number),
            Element("fileId", 1, rule=rules.text()),
            _text("fileName"),
            _text("originalFileName", rules.MAX_FILE_NAME),
            Element("uploadedToEspTimestamp", rule=moment),
            Element("locationOfFile", rule=rules.url),
            Element("fileViewedByEsp", rule=rules.boolean),
            Element("exifViewedByEsp", rule=rules.boolean),
            Element("publiclyAvailable", rule=rules.boolean),
            Element("fileRelevance", rule=rules.one_of("Reported", _SUPPLEMENTAL)),
            Element("potentialMeme", rule=rules.boolean),
            Element(
                "fileAnnotations",
                parts=tuple(Element(name, rule=rules.flag) for name in rules.FILE_ANNOTATIONS),
                arrangement=Arrangement.ANY,
            ),
            Element("industryClassification", rule=rules.one_of(*rules.CLASSIFICATIONS)),
            Element(
                "originalFileHash",
                most=None,
                rule=rules.text(),
                attributes={"hashType": rules.text(rules.MAX_HASH_TYPE)},
            ),
            replace(_event(moment), most=1),
            _device(moment),
            Element(
                "details",
                most=None,
                attributes={"type": rules.one_of("EXIF", "HASH")},
                parts=(
                    Element(
                        "nameValuePair",
                        1,
                        most=None,
                        parts=(
                            Element("name", 1, rule=rules.text(rules.MAX_PAIR_NAME)),
                            Element("value", 1, rule=rules.text(needed=False)),
                        ),
                    ),
                ),
            ),
            _text("additionalInfo", rules.MAX_INFORMATION, most=None),
        ),
    )


_SUPPLEMENTAL: Final = "Supplemental Reported"


def _check_location(location: etree._Element) -> Iterator[Problem]:
    country = location.findtext("countryCode")
    if not country:
        yield Problem("estimatedLocation/countryCode", "is missing")
    elif country == "US" and location.findtext("city") and not location.findtext("region"):
        yield Problem("estimatedLocation/region", "is missing; a city in the US needs it")


def _check_notified(element: etree._Element) -> Iterator[Problem]:
    disabled = rules.read_moment(element.get("disabledDate", ""))
    notified = rules.read_moment(element.get("userNotifiedDate", ""))
    if disabled is not None and notified is not None and notified < disabled:
        yield Problem(f"{element.tag!s}/@userNotifiedDate", "must not lie before disabledDate")


_ACCOUNTS: Final = ("personOrUserReported", "intendedRecipient", "victim")
_TRUE: Final = frozenset({"true", "1"})


def _text(name: str, limit: int | None = None, *, most: int | None = 1) -> Element:
    return Element(name, most=most, rule=rules.text(limit))


def _incident_summary(moment: Rule) -> Element:
    return Element(
        "incidentSummary",
        1,
        parts=(
            Element("incidentType", 1, rule=rules.one_of(*rules.INCIDENT_TYPES)),
            _text("platform", rules.MAX_PLATFORM),
            Element("escalateToHighPriority", rule=rules.text(rules.MAX_ESCALATION, needed=False)),
            Element(
                "reportAnnotations",
                parts=tuple(Element(name, rule=rules.flag) for name in rules.REPORT_ANNOTATIONS),
                arrangement=Arrangement.ANY,
            ),
            Element("incidentDateTime", 1, rule=moment),
            _text("incidentDateTimeDescription", rules.MAX_DATE_DESCRIPTION),
        ),
    )


def _internet_details(moment: Rule) -> Element:
    more = _text("additionalInfo", rules.MAX_INFORMATION)
    emails = Element("emailAddress", most=None, rule=rules.email, attributes=_contact_attributes(moment))
    content = _text("content")
    incidents = {
        "webPageIncident": (Element("url", most=None, rule=rules.url), more),
        "emailIncident": (emails, content, more),
        "newsgroupIncident": (_text("name"), emails, content, more),
        "chatImIncident": (_text("chatClient"), _text("chatRoomName"), content, more),
        "onlineGamingIncident": (_text("gameName"), _text("console"), content, more),
        "cellPhoneIncident": (_phone(moment), _degrees("latitude"), _degrees("longitude"), more),
        "nonInternetIncident": (_text("locationName"), _address("incidentAddress"), more),
        "peer2peerIncident": (_text("client"), _event(moment), _text("fileNames"), more),
    }
    return Element(
        "internetDetails",
        most=None,
        arrangement=Arrangement.CHOICE,
        parts=tuple(
            Element(
                name,
                parts=parts,
                attributes={"thirdPartyHostedContent": rules.boolean} if name == "webPageIncident" else {},
            )
            for name, parts in incidents.items()
        ),
    )


def _law_enforcement(moment: Rule) -> Element:
    return Element(
        "lawEnforcement",
        parts=(
            Element("agencyName", 1, rule=rules.text()),
            _text("caseNumber"),
            Element("officerContact", parts=_person(moment)[:5]),
            Element("reportedToLe", rule=rules.boolean),
            Element("servedLegalProcessDomestic", rule=rules.boolean),
            Element(
                "servedLegalProcessInternational",
                rule=rules.boolean,
                attributes={"fleaCountry": _country},
            ),
        ),
    )


def _account(
    moment: Rule, person: str, *, suspect: bool = False, victim: bool = False
) -> tuple[Element, ...]:
    """The three kinds of accounts in a report: nearly alike, each with an order of its own."""
    disabled = {"disabledDate": moment, "userNotified": rules.boolean, "userNotifiedDate": moment}
    parts = (
        Element(person, 1 if victim else 0, parts=_person(moment)),
        _text("vehicleDescription") if suspect else None,
        _text("espIdentifier", rules.MAX_ESP_IDENTIFIER),
        _text("espService", rules.MAX_ESP_SERVICE),
        Element("compromisedAccount", rule=rules.boolean),
        _text("screenName"),
        _text("displayName", most=None),
        Element("profileUrl", most=None, rule=rules.url),
        _text("profileBio"),
        _event(moment),
        _device(moment),
        Element("thirdPartyUserReported", rule=rules.boolean) if suspect else None,
        _text("schoolName") if victim else None,
        Element("priorCTReports", most=None, rule=rules.number),
        None if victim else _text("groupIdentifier"),
        Element(
            "accountTemporarilyDisabled",
            rule=rules.boolean,
            attributes=disabled | {"reenabledDate": moment},
        ),
        Element("accountPermanentlyDisabled", rule=rules.boolean, attributes=disabled),
        _location(moment),
        Element("allEmailsReported", rule=rules.boolean),
        _text("additionalInfo", rules.MAX_INFORMATION),
    )
    return tuple(part for part in parts if part is not None)


def _device(moment: Rule) -> Element:
    return Element(
        "deviceId",
        most=None,
        parts=(
            Element("idType", 1, rule=rules.text(255)),
            Element("idValue", 1, rule=rules.text(rules.MAX_URL)),
            Element("eventName", rule=rules.one_of(*rules.EVENT_NAMES)),
            Element("dateTime", rule=moment),
        ),
    )


def _person(moment: Rule) -> tuple[Element, ...]:
    return (
        _text("firstName", rules.MAX_NAME),
        _text("lastName", rules.MAX_NAME),
        Element("phone", most=None, rule=rules.text(), attributes=_phone_attributes(moment)),
        Element("email", most=None, rule=rules.email, attributes=_contact_attributes(moment)),
        _address("address"),
        Element("age", rule=rules.age),
        Element("dateOfBirth", rule=rules.date),
    )


def _contact_attributes(moment: Rule) -> dict[str, Rule]:
    return {
        "type": rules.one_of(*rules.EMAIL_TYPES),
        "verified": rules.boolean,
        "verificationDate": moment,
    }


def _phone_attributes(moment: Rule) -> dict[str, Rule]:
    return {
        "type": rules.one_of(*rules.PHONE_TYPES),
        "verified": rules.boolean,
        "verificationDate": moment,
        "countryCallingCode": rules.text(),
        "extension": rules.number,
    }


def _phone(moment: Rule) -> Element:
    return Element("phoneNumber", rule=rules.text(), attributes=_phone_attributes(moment))


def _address(name: str) -> Element:
    return Element(
        name,
        most=None,
        attributes={"type": rules.one_of(*rules.ADDRESS_TYPES)},
        parts=(
            _text("address"),
            _text("city"),
            _text("zipCode"),
            Element("state", rule=rules.one_of("", *_STATES)),
            _text("nonUsaState"),
            Element("country", rule=_country),
        ),
    )


def _event(moment: Rule) -> Element:
    return Element(
        "ipCaptureEvent",
        most=None,
        parts=(
            Element("ipAddress", 1, rule=rules.address),
            Element("eventName", rule=rules.one_of(*rules.EVENT_NAMES)),
            Element("dateTime", rule=moment),
            Element("possibleProxy", rule=rules.boolean),
            Element("port", rule=rules.port),
        ),
    )


def _location(moment: Rule) -> Element:
    return Element(
        "estimatedLocation",
        attributes={"verified": rules.boolean, "timestamp": moment},
        parts=(_text("city"), _text("region"), Element("countryCode", rule=_country)),
    )


def _degrees(name: str) -> Element:
    return Element(name, rule=_number_of_degrees)


def _number_of_degrees(value: str) -> str | None:
    try:
        good = abs(float(value)) <= 180  # noqa: PLR2004 - half a turn
    except ValueError:
        good = False
    return None if good else "must be a number of degrees"


def _country(value: str) -> str | None:
    # Kosovo and a few that are no countries (A1, EU, ...) are on the authority's list.
    good = re.fullmatch("([A-Z]{2}|A1|A2|O1)?", value) is not None
    return None if good else "must be a two-letter country code"


def _check(element: etree._Element, expected: Element, above: str) -> Iterator[Problem]:
    path = f"{above}/{expected.name}".lstrip("/")
    if element.tag != expected.name:
        yield Problem(path, "must be the root of the document")
        return
    yield from _check_attributes(element, expected, path)
    if expected.rule is not None:
        mend = "must hold text alone" if len(element) else expected.rule(element.text or "")
        if mend is not None:
            yield Problem(path, mend)
        return
    if (element.text or "").strip() or any((child.tail or "").strip() for child in element):
        yield Problem(path, "must hold elements alone")
    yield from _check_parts(element, expected, path)


def _check_attributes(element: etree._Element, expected: Element, path: str) -> Iterator[Problem]:
    for name, value in element.attrib.items():
        rule = expected.attributes.get(str(name))
        mend = "is not known" if rule is None else rule(str(value))
        if mend is not None:
            yield Problem(f"{path}/@{name!s}", mend)


def _check_parts(element: etree._Element, expected: Element, path: str) -> Iterator[Problem]:
    known = {part.name: part for part in expected.parts}
    order = list(known)
    names = [str(child.tag) for child in element]
    for child, name in zip(element, names, strict=True):
        if name in known:
            yield from _check(child, known[name], path)
        else:
            yield Problem(f"{path}/{name}", "is not known there")
    present = [name for name in names if name in known]
    if expected.arrangement is Arrangement.SEQUENCE and present != sorted(present, key=order.index):
        late = next(b for a, b in itertools.pairwise(present) if order.index(b) < order.index(a))
        yield Problem(f"{path}/{late}", "stands too late: the order of the elements is fixed")
    if expected.arrangement is Arrangement.CHOICE and len(names) != 1:
        yield Problem(path, "must hold exactly one element")
    for part in expected.parts:
        count = present.count(part.name)
        if count < part.least:
            yield Problem(f"{path}/{part.name}", "is missing")
        if part.most is not None and count > part.most:
            yield Problem(f"{path}/{part.name}", f"may stand there {part.most} time at most")


def _across_file(root: etree._Element) -> Iterator[Problem]:
    if root.findtext("exifViewedByEsp") in _TRUE and root.findtext("fileViewedByEsp") not in _TRUE:
        yield Problem("fileDetails/exifViewedByEsp", "needs fileViewedByEsp")
    if root.find("potentialMeme") is not None and root.find("fileAnnotations") is not None:
        yield Problem("fileDetails/fileAnnotations", "is not allowed beside potentialMeme")
    if any(each.get("hashType") is None for each in root.iterfind("originalFileHash")):
        yield Problem("fileDetails/originalFileHash/@hashType", "is missing")
    if root.findtext("fileRelevance") == _SUPPLEMENTAL:
        for name in ("fileAnnotations/potentialMeme", "industryClassification"):
            if root.find(name) is not None:
                yield Problem(f"fileDetails/{name}", "is not allowed with a supplemental file")


def _across(root: etree._Element) -> Iterator[Problem]:
    """Rules of the server that bind one element to another."""
    person = root.find("reporter/reportingPerson")
    if person is not None and not person.findtext("email"):
        yield Problem("report/reporter/reportingPerson/email", "is missing; the server needs it")
    for element in root.iter():
        if element.get("verificationDate") and element.get("verified") not in _TRUE:
            yield Problem(f"{element.tag!s}/@verified", "must be true where a date of verification is given")
        yield from _check_notified(element)
    for location in root.iter("estimatedLocation"):
        yield from _check_location(location)
    named = {each.text for part in _ACCOUNTS for each in root.iterfind(f"{part}//email")}
    for email in root.iterfind("internetDetails/*/emailAddress"):
        if email.text not in named:
            yield Problem(
                "internetDetails/emailAddress",
                "must also stand with a person who is reported, a recipient or a victim",
            )
    if root.find("batchedReport") is not None:
        for name in ("internetDetails", "additionalInfo", "victim", "incidentSummary/escalateToHighPriority"):
            if root.find(name) is not None:
                yield Problem(f"report/{name}", "is not allowed in a batched report")
