"""What one value may be, and in which order the elements stand: to the letter, as NCMEC documents it.

Written from its documentation, not from the code: who changes a number or a word there changes it here too.
"""

from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone

import pytest
from lxml import etree

from app.filing.cybertip import grammar, rules
from app.filing.cybertip.reading import read
from app.filing.cybertip.schema import load
from tests.filing.double import XSD

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AT = "2026-01-31T12:00:00Z"

PERSON = """<firstName>A</firstName><lastName>B</lastName><phone type="Mobile">1</phone>
<email type="Work">a@b.org</email><address type="Home"><address>1</address><city>C</city><zipCode>2</zipCode>
<state>DC</state><nonUsaState>N</nonUsaState><country>XK</country></address>"""
WHOLE_PERSON = f"{PERSON}<age>150</age><dateOfBirth>2001-02-03</dateOfBirth>"
EVENT = f"""<ipCaptureEvent><ipAddress>2001:db8::1</ipAddress><eventName>Upload</eventName>
<dateTime>{AT}</dateTime><possibleProxy>true</possibleProxy><port>65535</port></ipCaptureEvent>"""
DEVICE = f"""<deviceId><idType>T</idType><idValue>V</idValue><eventName>Login</eventName>
<dateTime>{AT}</dateTime></deviceId>"""
ACCOUNT = f"""<espIdentifier>I</espIdentifier><espService>S</espService>
<compromisedAccount>true</compromisedAccount><screenName>N</screenName><displayName>D</displayName>
<profileUrl>https://host.example/p</profileUrl><profileBio>B</profileBio>{EVENT}{DEVICE}"""
CLOSED = f"""<accountTemporarilyDisabled disabledDate="{AT}" userNotified="true" userNotifiedDate="{AT}"
reenabledDate="{AT}">true</accountTemporarilyDisabled><accountPermanentlyDisabled disabledDate="{AT}">true
</accountPermanentlyDisabled><estimatedLocation verified="true" timestamp="{AT}"><city>C</city>
<region>R</region><countryCode>US</countryCode></estimatedLocation><allEmailsReported>true</allEmailsReported>
<additionalInfo>I</additionalInfo>""".replace("true\n", "true")
INCIDENTS = f"""
<webPageIncident thirdPartyHostedContent="true"><url>https://host.example/</url><additionalInfo>I</additionalInfo>
</webPageIncident>
<emailIncident><emailAddress>a@b.org</emailAddress><content>C</content><additionalInfo>I</additionalInfo>
</emailIncident>
<newsgroupIncident><name>N</name><emailAddress>a@b.org</emailAddress><content>C</content>
<additionalInfo>I</additionalInfo></newsgroupIncident>
<chatImIncident><chatClient>C</chatClient><chatRoomName>N</chatRoomName><content>C</content>
<additionalInfo>I</additionalInfo></chatImIncident>
<onlineGamingIncident><gameName>G</gameName><console>C</console><content>C</content>
<additionalInfo>I</additionalInfo></onlineGamingIncident>
<cellPhoneIncident><phoneNumber>1</phoneNumber><latitude>1.5</latitude><longitude>-2.5</longitude>
<additionalInfo>I</additionalInfo></cellPhoneIncident>
<nonInternetIncident><locationName>N</locationName><incidentAddress><city>C</city></incidentAddress>
<additionalInfo>I</additionalInfo></nonInternetIncident>
<peer2peerIncident><client>C</client>{EVENT}<fileNames>F</fileNames><additionalInfo>I</additionalInfo>
</peer2peerIncident>"""

WHOLE = f"""<report>
<incidentSummary><incidentType>Child Sex Tourism</incidentType><platform>P</platform>
<escalateToHighPriority>E</escalateToHighPriority><reportAnnotations><spam/><sextortion/></reportAnnotations>
<incidentDateTime>{AT}</incidentDateTime><incidentDateTimeDescription>D</incidentDateTimeDescription>
</incidentSummary>
{
    "".join(
        f"<internetDetails>{etree.tostring(each, with_tail=False).decode()}</internetDetails>"
        for each in etree.fromstring(f"<all>{INCIDENTS}</all>")
    )
}
<lawEnforcement><agencyName>A</agencyName><caseNumber>N</caseNumber><officerContact>{PERSON}</officerContact>
<reportedToLe>true</reportedToLe><servedLegalProcessDomestic>true</servedLegalProcessDomestic>
<servedLegalProcessInternational fleaCountry="DE">true</servedLegalProcessInternational></lawEnforcement>
<reporter><reportingPerson>{WHOLE_PERSON}</reportingPerson><contactPerson>{PERSON}</contactPerson>
<companyTemplate>C</companyTemplate><termsOfService>T</termsOfService><legalURL>https://host.example/</legalURL>
</reporter>
<personOrUserReported><personOrUserReportedPerson>{WHOLE_PERSON}</personOrUserReportedPerson>
<vehicleDescription>V</vehicleDescription>{ACCOUNT}<thirdPartyUserReported>true</thirdPartyUserReported>
<priorCTReports>1</priorCTReports><groupIdentifier>G</groupIdentifier>{CLOSED}</personOrUserReported>
<intendedRecipient><intendedRecipientPerson>{WHOLE_PERSON}</intendedRecipientPerson>{ACCOUNT}
<priorCTReports>1</priorCTReports><groupIdentifier>G</groupIdentifier>{CLOSED}</intendedRecipient>
<victim><victimPerson>{WHOLE_PERSON}</victimPerson>{ACCOUNT}<schoolName>S</schoolName>
<priorCTReports>1</priorCTReports>{CLOSED}</victim>
<additionalInfo>I</additionalInfo>
</report>""".encode()
"""Every element that a report may hold, but for ``associatedAccount`` and what batches of reports have."""


WHOLE_FILE = f"""<fileDetails><reportId>1</reportId><fileId>f</fileId><fileName>n</fileName>
<originalFileName>o</originalFileName><uploadedToEspTimestamp>{AT}</uploadedToEspTimestamp>
<locationOfFile>https://host.example/</locationOfFile><fileViewedByEsp>true</fileViewedByEsp>
<exifViewedByEsp>true</exifViewedByEsp><publiclyAvailable>true</publiclyAvailable>
<fileRelevance>Reported</fileRelevance><fileAnnotations><viral/></fileAnnotations>
<industryClassification>A1</industryClassification><originalFileHash hashType="PDQ">h</originalFileHash>
{EVENT}{DEVICE}<details type="EXIF"><nameValuePair><name>n</name><value>v</value></nameValuePair></details>
<additionalInfo>I</additionalInfo></fileDetails>""".encode()
"""The same of an uploaded file, which Cordon never sends: the double takes it."""


def problems(root: etree._Element) -> list[str]:
    judge = grammar.problems if root.tag == "report" else grammar.file_problems
    return [str(each) for each in judge(root, NOW)]


@pytest.mark.parametrize("whole", [WHOLE, WHOLE_FILE], ids=["report", "file"])
def test_a_report_may_hold_every_element_in_the_documented_order(whole: bytes) -> None:
    assert problems(read(whole)) == []
    if XSD.exists():
        assert load(XSD).problem(read(whole)) is None


@pytest.mark.parametrize(("text", "pairs"), [(WHOLE, 100), (WHOLE_FILE, 15)], ids=["report", "file"])
def test_no_two_neighbours_may_change_places(text: bytes, pairs: int) -> None:
    """In the whole tree, but for annotations, whose order is free, and the same element twice."""
    whole = read(text)
    schema = load(XSD) if XSD.exists() else None
    swapped = 0
    for number in range(len(list(whole.iter()))):
        changed = deepcopy(whole)
        first = list(changed.iter())[number]
        second, parent = first.getnext(), first.getparent()
        if second is None or parent is None or first.tag == second.tag or parent.tag == "reportAnnotations":
            continue
        parent.insert(parent.index(first), second)
        assert any("stands too late" in each for each in problems(changed)), (parent.tag, first.tag)
        if schema is not None:
            assert schema.problem(changed) is not None, (parent.tag, first.tag)
        swapped += 1
    assert swapped > pairs


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("incidentSummary/platform", 256),
        ("incidentSummary/escalateToHighPriority", 3000),
        ("incidentSummary/incidentDateTimeDescription", 3000),
        ("internetDetails/webPageIncident/url", 2083),
        ("internetDetails/webPageIncident/additionalInfo", 3000),
        ("reporter/legalURL", 2083),
        ("personOrUserReported/espIdentifier", 255),
        ("personOrUserReported/espService", 100),
        ("personOrUserReported/profileUrl", 2083),
        ("personOrUserReported/deviceId/idType", 255),
        ("personOrUserReported/deviceId/idValue", 2083),
        *(
            (f"reporter/{person}/{name}", 100)
            for person in ("reportingPerson", "contactPerson")
            for name in ("firstName", "lastName")
        ),
        ("additionalInfo", 3000),
    ],
)
def test_a_text_may_be_as_long_as_is_documented_and_no_longer(path: str, most: int) -> None:
    """Counted as the server counts: in UTF-16 units."""
    root = read(WHOLE)
    (element,) = root.iterfind(path)
    start = "https://host.example/" if path.lower().endswith("url") else ""
    element.text = start + "a" * (most - len(start))
    assert problems(root) == []
    element.text += "a"
    (problem,) = problems(root)
    assert f"is longer than {most} characters" in problem
    if not start:
        element.text = "\N{FRAME WITH PICTURE}" * (most // 2 + 1)
        assert len(problems(root)) == 1


@pytest.mark.parametrize(
    ("path", "attribute", "most"),
    [
        ("originalFileName", None, 2056),
        ("originalFileHash", "hashType", 64),
        ("details/nameValuePair/name", None, 64),
        ("additionalInfo", None, 3000),
    ],
)
def test_what_the_double_takes_of_a_file_is_as_long_as_is_documented(
    path: str, attribute: str | None, most: int
) -> None:
    for length, good in ((most, True), (most + 1, False)):
        root = read(WHOLE_FILE)
        (element,) = root.iterfind(path)
        if attribute is None:
            element.text = "a" * length
        else:
            element.set(attribute, "a" * length)
        assert (problems(root) == []) == good


def test_an_address_of_mail_is_at_most_255_characters_and_64_before_the_at() -> None:
    domain = f"{'d' * 60}.{'e' * 60}.{'f' * 60}.org"
    assert rules.email(f"{'a' * 64}@{domain}") is None
    assert rules.email(f"{'a' * 65}@{domain}") is not None
    longest = f"{'a' * 64}@{'g' * (255 - 65 - len(domain) - 1)}.{domain}"
    assert (len(longest), rules.email(longest)) == (255, None)
    assert rules.email(longest.replace("@g", "@gg")) is not None


def test_words_are_those_of_the_schema_to_the_letter() -> None:
    """The lists as NCMEC writes them; the schema says the same, where there is one."""
    lists = {
        "incidentType": (
            "Child Pornography (possession, manufacture, and distribution)",
            *("Child Sex Trafficking", "Child Sex Tourism", "Child Sexual Molestation"),
            *("Misleading Domain Name", "Misleading Words or Digital Images on the Internet"),
            "Online Enticement of Children for Sexual Acts",
            "Unsolicited Obscene Material Sent to a Child",
        ),
        "reportAnnotations": (
            *("sextortion", "csamSolicitation", "minorToMinorInteraction", "spam"),
            "sadisticOnlineExploitation",
        ),
        "fileAnnotations": (
            *("animeDrawingVirtualHentai", "potentialMeme", "viral", "possibleSelfProduction"),
            *("physicalHarm", "violenceGore", "bestiality", "liveStreaming", "infant", "generativeAi"),
        ),
        "industryClassification": ("A1", "A2", "B1", "B2"),
        "eventName": ("Login", "Registration", "Purchase", "Upload", "Other", "Unknown"),
        "email": ("Home", "Work", "Business", "Recovery"),
        "phone": ("Mobile", "Home", "Business", "Work", "Fax", "Internet", "Recovery"),
        "address": ("Home", "Business", "Billing", "Shipping", "Technical"),
    }
    assert lists == {
        "incidentType": rules.INCIDENT_TYPES,
        "reportAnnotations": rules.REPORT_ANNOTATIONS,
        "fileAnnotations": rules.FILE_ANNOTATIONS,
        "industryClassification": rules.CLASSIFICATIONS,
        "eventName": rules.EVENT_NAMES,
        "email": rules.EMAIL_TYPES,
        "phone": rules.PHONE_TYPES,
        "address": rules.ADDRESS_TYPES,
    }
    if XSD.exists():
        text = XSD.read_text()
        for word in {word for words in lists.values() for word in words}:
            assert f'"{word}"' in text, word


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (AT, True),
        ("2026-01-31T12:00:00.5Z", True),
        ("2026-01-31T12:00:00+01:00", True),
        ("2026-01-31T12:00:00-00:00", True),
        ("2026-01-31T12:00:00", False),
        ("2026-01-31T12:00:00+0000", False),
        ("2026-01-31 12:00:00Z", False),
        ("2026-01-31", False),
        ("2026-01-31T12:00Z", False),
        ("2026-02-30T12:00:00Z", False),
        ("2026-06-01T00:00:00Z", False),
        ("2026-05-31T23:59:59Z", True),
        ("2026-05-31T23:59:59-01:00", False),
    ],
)
def test_a_time_has_a_zone_and_lies_in_the_past(text: str, good: bool) -> None:  # noqa: FBT001 - of a table
    assert (rules.past(NOW)(text) is None) == good


def test_a_time_is_written_in_utc_with_whole_seconds_and_a_z() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone(timedelta(hours=-5)))
    assert rules.write_moment(moment) == "2026-01-02T08:04:05Z"


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (rules.port, ("1", "443", "65535"), ("0", "65536", "-1", "", "٣", "1.0", " 1")),
        (rules.age, ("0", "150"), ("151", "-1", "", "1e2")),
        (rules.flag, ("", "true"), ("false", "1", "TRUE", "0")),
        (
            rules.address,
            ("192.0.2.1", "2001:db8::1"),
            ("192.0.2", "host", "fe80::1%eth0", "192.0.2.1/32", ""),
        ),
        (rules.date, ("2026-01-31",), ("2026-1-31", "31.01.2026", "2026-02-30", AT)),
    ],
)
def test_a_value_is_what_the_server_takes(
    rule: rules.Rule, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    assert [each for each in good if rule(each) is not None] == []
    assert [each for each in bad if rule(each) is None] == []
