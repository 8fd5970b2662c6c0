"""The XML of a report without files: what Cordon knows of a match, and what a custodian said of it.

It needs the opened stubs (``app.report.draft``) of a report and its later sightings. Without an uploaded file
the schema has no place for a hash or a classification: they stand as ``Key: value`` lines in the free text.
Nothing is guessed: what no person said and no sighting tells is not in it.

Sources: "CyberTipline Reporting API Technical Documentation" and its schema; 18 USC 2258A(b).
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from lxml import etree

from app.context import parse_context
from app.errors import InvalidContextError, InvalidRequestError
from app.filing.cybertip import rules
from app.filing.cybertip.reporter import Reporter
from app.report.provenance import ADDABLE, Document, gaps, is_fetched, told_of

INTENTS: Final = {
    "preferential": "malicious, preferential offender",
    "commercial": "malicious, commercial offender",
    "situational": "malicious, situational offender",
    "unintentional": "non-malicious, unintentional offender",
    "minor": "non-malicious, minor, non-exploitative",
    "risky": "non-malicious, situational 'risky' offender",
}
"""Why somebody shared it, as a person judges: the taxonomy of Buckley, Andrus and Williams, "Understanding
the intentions of child sexual abuse material (CSAM) sharers", Meta Research 2021."""

MAX_NOTE: Final = 1000
"""Longest note, reason or reference of a custodian; it shares the 3000 characters of ``additionalInfo``."""

_OWN_ADDABLE: Final = frozenset({"requested_url", "host", "fetched_at", "received_at"})

_LIMIT: Final = rules.MAX_INFORMATION - 100
_EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
_URL_KEYS: Final = ("source_url", "page_url")


@dataclass(frozen=True)
class Said:
    """What a custodian said of a report: nobody else may, and nothing here has a guess.

    Attributes:
        incident_type: one of ``rules.INCIDENT_TYPES``.
        escalation: why it is urgent; any text here makes the authority treat it so.
        annotations: of ``rules.REPORT_ANNOTATIONS``.
        classification: of ``rules.CLASSIFICATIONS``.
        intent: a key of ``INTENTS``.
        note: anything else that the authority should read.
        provenance: keys of ``ADDABLE`` that the sightings lack, added by the custodian.
        provenance_unknown: why what is missing cannot be told.

    Raises:
        InvalidRequestError: on construction, naming what is wrong and the mend.
    """

    incident_type: str = rules.INCIDENT_TYPES[0]
    escalation: str | None = field(default=None, repr=False)
    annotations: tuple[str, ...] = ()
    classification: str | None = None
    intent: str | None = None
    note: str | None = field(default=None, repr=False)
    provenance: Mapping[str, str] = field(default_factory=dict, repr=False)
    provenance_unknown: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _said("the incident type", self.incident_type, rules.one_of(*rules.INCIDENT_TYPES))
        for annotation in self.annotations:
            _said("an annotation", annotation, rules.one_of(*rules.REPORT_ANNOTATIONS))
        _said("the classification", self.classification, rules.one_of(*rules.CLASSIFICATIONS))
        _said("the intent", self.intent, rules.one_of(*INTENTS))
        _said("the reason to escalate", self.escalation, rules.text(rules.MAX_ESCALATION))
        _said("the note", self.note, rules.text(MAX_NOTE))
        _said("the reason why provenance is unknown", self.provenance_unknown, rules.text(MAX_NOTE))
        _check_added(self.provenance)


def build(
    stubs: Sequence[Document],
    reporter: Reporter,
    said: Said,
    *,
    role: str | None,
    preservation: str | None,
    now: datetime,
) -> bytes:
    """The exact XML that is signed and filed, as UTF-8.

    Args:
        stubs: the opened report, then its later sightings.
        reporter: who reports.
        said: what the custodian said.
        role: ``CORDON_REPORTER_ROLE``.
        preservation: ``CORDON_PRESERVATION``.
        now: no time in the document lies at or after it.

    Raises:
        InvalidRequestError: provenance is missing and no reason was given why.
    """
    first = stubs[0]
    missing = [gap for stub in stubs for gap in gaps(stub, said.provenance)]
    if missing and said.provenance_unknown is None:
        raise InvalidRequestError(
            f"The report does not tell {missing[0].words}. Add it, as '--add {missing[0].any_of[0]}=VALUE', "
            "or say why it is not known: '--provenance-unknown REASON'."
        )
    told = [told_of(stub, said.provenance) for stub in stubs]
    report = etree.Element("report")
    _incident_summary(report, first, told[0], said, now)
    _web_page(report, stubs, told)
    _reporter(report, reporter)
    _account(report, stubs, told, now)
    lines = _report_lines(stubs, told, reporter, said, role, preservation, now)
    _add(report, "additionalInfo", _fit(lines))
    document: bytes = etree.tostring(report, xml_declaration=True, encoding="UTF-8", pretty_print=True)
    return _in_sight(document)


def _in_sight(xml: bytes) -> bytes:
    """The same with references for what a terminal shows as nothing, or in another order than it is written.

    Who approves it sees it to the letter, and a name that somebody else chose must not rearrange that.
    """
    return "".join(
        each if each.isprintable() or each in "\n\t" else f"&#x{ord(each):x};" for each in xml.decode()
    ).encode()


def unguessable(xml: bytes) -> bytes:
    """The same with a random comment: its digest is no secret, and must confirm no guess of its content."""
    declaration, end, root = xml.partition(b"?>\n")
    return declaration + end + f"<!-- {secrets.token_hex(16)} -->\n".encode() + root


def _incident_summary(
    report: etree._Element, first: Document, told: Mapping[str, str], said: Said, now: datetime
) -> None:
    summary = etree.SubElement(report, "incidentSummary")
    _add(summary, "incidentType", said.incident_type)
    _add(summary, "platform", _short(told.get("platform"), rules.MAX_PLATFORM))
    _add(summary, "escalateToHighPriority", said.escalation)
    if said.annotations:
        annotations = etree.SubElement(summary, "reportAnnotations")
        for name in dict.fromkeys(said.annotations):
            etree.SubElement(annotations, name)
    moment, words = _incident_time(first, told, now)
    _add(summary, "incidentDateTime", rules.write_moment(moment))
    _add(summary, "incidentDateTimeDescription", words)


def _incident_time(first: Document, told: Mapping[str, str], now: datetime) -> tuple[datetime, str]:
    """When it happened as far as is known, before ``now``, and what that moment is."""
    seen = told_of(first, {})
    if not is_fetched(first):
        uploaded = _moment(told.get("uploaded_at"))
        if uploaded is not None and _EARLIEST <= uploaded < now:
            by = "the platform told" if "uploaded_at" in seen else "a person of the reporter added"
            return uploaded, f"The time of upload, as {by} it."
    arrival = "fetched_at" if is_fetched(first) else "received_at"
    arrived = _moment(told.get(arrival))
    if arrived is not None and arrival not in seen:
        words = "The time when Cordon received the file, as a person of the reporter added it."
    elif arrived is None:
        arrived, words = _moment(first.get("created_at")) or now, "The time when Cordon wrote the report."
    elif is_fetched(first):
        words = "The time when Cordon received the file from its host, not when it was uploaded there."
    else:
        words = "The time when Cordon received the file from the platform, not when it was uploaded there."
    latest = now - timedelta(seconds=1)
    if arrived < now:
        return min(arrived, latest), words
    return latest, f"{words} The clock that told it was ahead."


def _web_page(report: etree._Element, stubs: Sequence[Document], told: Sequence[Mapping[str, str]]) -> None:
    page = etree.SubElement(etree.SubElement(report, "internetDetails"), "webPageIncident")
    if is_fetched(stubs[0]):
        page.set("thirdPartyHostedContent", "true")
    for url in _urls(stubs, told):
        if rules.url(url) is None:
            _add(page, "url", url)
    _add(page, "additionalInfo", _fit(_file_lines(stubs[0])))


def _reporter(report: etree._Element, who: Reporter) -> None:
    reporter = etree.SubElement(report, "reporter")
    person = etree.SubElement(reporter, "reportingPerson")
    _add(person, "firstName", who.first_name)
    _add(person, "lastName", who.last_name)
    _add(person, "phone", who.phone)
    _add(person, "email", who.email)
    if who.contact_first_name or who.contact_last_name or who.contact_email:
        contact = etree.SubElement(reporter, "contactPerson")
        _add(contact, "firstName", who.contact_first_name)
        _add(contact, "lastName", who.contact_last_name)
        _add(contact, "email", who.contact_email)
    _add(reporter, "companyTemplate", "\n".join(filter(None, (who.company, who.about))))
    _add(reporter, "termsOfService", who.terms_of_service)
    _add(reporter, "legalURL", who.legal_url)


def _account(
    report: etree._Element, stubs: Sequence[Document], told: Sequence[Mapping[str, str]], now: datetime
) -> None:
    """Whom the page or the platform names; nobody where neither does."""
    keys = ("account_id", "account_name", "profile_url", "uploader_ip")
    if not any(each.get(key) for each in told for key in keys):
        return
    person = etree.SubElement(report, "personOrUserReported")
    here = not is_fetched(stubs[0])
    ids = _distinct(told, "account_id")
    names = _distinct(told, "account_name")
    identifier = _short(ids[0], rules.MAX_ESP_IDENTIFIER) if here and ids else None
    if here:
        _add(person, "espIdentifier", identifier)
        platform = next((each["platform"] for each in told if each.get("platform")), None)
        _add(person, "espService", _short(platform, rules.MAX_ESP_SERVICE))
    for number, name in enumerate(names):
        _add(person, "displayName" if number else "screenName", _one_line(name))
    for url in _distinct(told, "profile_url"):
        if rules.url(url) is None:
            _add(person, "profileUrl", url)
    for event in dict.fromkeys(_upload_event(each, now) for each in told):
        if event is not None:
            _add_event(person, event)
    if not here:
        _add(person, "thirdPartyUserReported", "true")
    lines = [("Account id", each) for each in ids if each != identifier]
    lines += [("Profile", url) for url in _distinct(told, "profile_url") if rules.url(url) is not None]
    _add(person, "additionalInfo", _fit(lines))


def _upload_event(told: Mapping[str, str], now: datetime) -> tuple[str, str | None, str | None] | None:
    """Address, time and port of an upload, as the API takes them; None if no address was told."""
    address = told.get("uploader_ip")
    if not address or rules.address(address) is not None:
        return None
    at = _moment(told.get("uploaded_at"))
    known = at is not None and _EARLIEST <= at < now
    return address, rules.write_moment(at) if at is not None and known else None, told.get("uploader_port")


def _add_event(parent: etree._Element, event: tuple[str, str | None, str | None]) -> None:
    address, at, port = event
    capture = etree.SubElement(parent, "ipCaptureEvent")
    _add(capture, "ipAddress", address)
    _add(capture, "eventName", "Upload")
    _add(capture, "dateTime", at)
    _add(capture, "port", port)


def _file_lines(stub: Document) -> Iterable[tuple[str, object]]:
    """What is known of the file: digests, perceptual hashes, what matched, size and form."""
    signals, media = stub["signals"], stub["media"]
    for name in ("md5", "sha1", "sha256"):
        yield name.upper(), signals[name]
    matches = [match for match in stub["matches"] if match["action"] == "report"]
    matched = {match["query_value"] for match in matches if match["signal"] == "pdq"}
    renderings = signals["renderings"]
    shown = [each for each in renderings if each["pdq"] in matched] or renderings[:1]
    for pdq, quality in dict.fromkeys((each["pdq"], each["quality"]) for each in shown):
        yield "PDQ", f"{pdq} (quality {quality} of 100)"
    for match in matches:
        yield "Matched", _match_words(match)
    yield "Bytes", media["bytes"]
    yield "Format", media["format"]
    if media["width"] and media["height"]:
        yield "Pixels", f"{media['width']} x {media['height']}"
    if (media["frames"] or 1) > 1:
        yield "Frames", media["frames"]


def _match_words(match: Mapping[str, Any]) -> str:
    """How an entry of a list matched. Its value stays here: the list's terms may forbid passing it on."""
    exact = match["signal"] in {"md5", "sha1", "sha256"}
    close = "exactly" if exact else f"{match['distance']} bits apart, at most {match['threshold']} match"
    frame = "" if match["frame"] is None or exact else f", frame {match['frame'] + 1}"
    quality = "" if match.get("quality") is None else f", quality {match['quality']}"
    return (
        f"{match['signal']} {close}{quality}{frame}{_variant_words(match.get('variant'))}; "
        f"list '{match['bank']}', entry {match['entry_id']}"
    )


def _variant_words(variant: Mapping[str, Any] | None) -> str:
    """What was done to the picture that the list knows, as far as the search had to undo it."""
    if variant is None:
        return ""
    words = "" if variant["symmetry"] == "original" else f", turned or flipped ({variant['symmetry']})"
    words += ", as a negative" if variant["negative"] else ""
    part = variant["region"]
    if part is None:
        return words
    return f"{words}, in a part of the picture ({part['width']} x {part['height']} pixels of it)"


def _report_lines(  # noqa: PLR0917 - the parts of the text, in its order
    stubs: Sequence[Document],
    told: Sequence[Mapping[str, str]],
    reporter: Reporter,
    said: Said,
    role: str | None,
    preservation: str | None,
    now: datetime,
) -> list[tuple[str, object]]:
    """How it was found and what is known of the place; the most telling first, as room is short."""
    first, fetched = stubs[0], is_fetched(stubs[0])
    lines: list[tuple[str, object]] = [
        ("Report of the sender", first["report_id"]),
        (
            "Found by",
            f"automatic comparison with hash lists, Cordon {first['cordon_version']}, "
            + ("of a file fetched from a third party's host" if fetched else "of a file that was handed in"),
        ),
        (
            "Viewed",
            "no person viewed it through Cordon; whether anyone saw it elsewhere is not known to Cordon",
        ),
        ("File", "not attached: Cordon dropped its bytes in memory and kept no copy; this is metadata only"),
        ("Reporter", f"{reporter.company}, as a {_ROLES[role]}" if role in _ROLES else reporter.company),
    ]
    if preservation == "metadata_only":
        lines.append(("Preserved", "the metadata of this report, sealed; not the file"))
    if said.provenance_unknown is not None:
        lines.append(("Provenance not known", said.provenance_unknown))
    if said.provenance:
        lines.append(("Added by a person, not seen by Cordon", ", ".join(said.provenance)))
        lines += [(f"Added {key}", value) for key, value in said.provenance.items()]
    if said.classification is not None:
        lines.append(("Classification by a person of the reporter", said.classification))
    if said.intent is not None:
        lines.append(("Apparent intent, as a person of the reporter judges", INTENTS[said.intent]))
    lines.append(("Note of the reporter", said.note))
    lines += [("URL not valid as such", url) for url in _urls(stubs, told) if rules.url(url) is not None]
    for stub in stubs:
        # What a person added stands above, marked as such.
        lines += _sighting_lines(stub, told_of(stub, {}))
    uploaded = _moment(told[0].get("uploaded_at"))
    if uploaded is not None and not _EARLIEST <= uploaded < now:
        lines.append(("Uploaded, as told; implausible", told[0]["uploaded_at"]))
    return lines


_ROLES: Final = {"provider": "provider", "voluntary": "voluntary reporter"}


def _sighting_lines(stub: Document, told: Mapping[str, str]) -> Iterable[tuple[str, object]]:
    provenance = stub["provenance"]
    if is_fetched(stub):
        yield "Fetched", told.get("fetched_at")
        yield "Host", told.get("host")
        if provenance.get("resolved_address"):
            yield "Host address", f"{provenance['resolved_address']} port {provenance['resolved_port']}"
        elif provenance.get("via_proxy"):
            yield "Host address", "not known: fetched through a proxy"
        for redirect in provenance.get("redirects") or ():
            yield "Redirected by", redirect
        for name, value in (provenance.get("headers") or {}).items():
            yield f"Header {name}", value
    else:
        yield "Received", told.get("received_at")
    yield "Post id", told.get("post_id")
    yield "Posted", told.get("posted_at")
    yield "Uploaded, as told", told.get("uploaded_at")


def _urls(stubs: Sequence[Document], told: Sequence[Mapping[str, str]]) -> list[str]:
    """Every URL at which the file or a page with it was, each once, the requested ones first."""
    found = [each.get("requested_url") for each in told]
    found += [stub["provenance"].get("final_url") for stub in stubs]
    found += [each.get(key) for key in _URL_KEYS for each in told]
    return list(dict.fromkeys(url for url in found if url))


def _moment(text: object) -> datetime | None:
    """A time of a stub or of a context; None if it is none or cannot be said in UTC."""
    try:
        moment = datetime.fromisoformat(str(text)) if text is not None else None
        return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
    except (OverflowError, ValueError):
        return None


def _distinct(told: Sequence[Mapping[str, str]], key: str) -> list[str]:
    return list(dict.fromkeys(each[key] for each in told if each.get(key)))


def _short(text: str | None, most: int) -> str | None:
    """A text cut to so many UTF-16 code units."""
    if text is None:
        return None
    whole = _one_line(text)
    return whole.encode("utf-16-le")[: 2 * most].decode("utf-16-le", "ignore")


def _one_line(untrusted: object) -> str:
    """A text on one line: what is from outside cannot pretend to be another ``Key: value``."""
    return " ".join(rules.clean(str(untrusted)).split())


def _fit(lines: Iterable[tuple[str, object]]) -> str | None:
    """``Key: value`` lines, each once, as many as there is room for, and how many found none."""
    written: list[str] = []
    room, left_out = _LIMIT, 0
    for key, value in lines:
        if value is None:
            continue
        line = f"{_one_line(key)}: {_one_line(value)}"
        if line in written:
            continue
        if rules.units(line) + 1 > room:
            left_out += 1
            continue
        written.append(line)
        room -= rules.units(line) + 1
    if left_out:
        written.append(f"Left out for want of room: {left_out} more")
    return "\n".join(written) or None


def _add(parent: etree._Element, name: str, text: str | None) -> None:
    if text is not None and text.strip():
        etree.SubElement(parent, name).text = rules.clean(text)


def _said(what: str, value: str | None, rule: rules.Rule) -> None:
    problem = rule(value) if value is not None else None
    if problem is not None:
        raise InvalidRequestError(f"{what[0].upper()}{what[1:]} {problem}.")


def _check_added(added: Mapping[str, str]) -> None:
    """Refuse what cannot be added, and values of the wrong form."""
    for key, value in added.items():
        if key not in ADDABLE:
            raise InvalidRequestError(f"'{key}' cannot be added. Known: {', '.join(ADDABLE)}.")
        _said(f"'{key}'", value, rules.text(rules.MAX_URL))
    of_context = {key: value for key, value in added.items() if key not in _OWN_ADDABLE}
    try:
        parse_context(of_context)
    except InvalidContextError as error:
        raise InvalidRequestError(error.detail.replace("'context.", "'")) from None
    for key in ("fetched_at", "received_at"):
        if key in added and _moment(added[key]) is None:
            raise InvalidRequestError(f"'{key}' must be a time with a zone, like 2026-01-31T12:00:00Z.")
