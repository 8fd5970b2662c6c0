"""Decisions by command: signed with a custodian's own key, on what that custodian saw, and nobody else's."""

import base64
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from lxml import etree

from app.custody.identity import Identity, generate, read_identity, write_identity
from tests.cli.conftest import EDITED, Cordon
from tests.cli.test_custodian import on_a_terminal
from tests.gates import CORDON
from tests.worlds import MediaHost

ADA = ("--identity", "ada.key")
GRACE = ("--identity", "grace.key")
YES = "--yes"


@pytest.fixture(scope="module")
def worker(site: Cordon) -> Identity:
    """The filing worker's key, pinned."""
    identity = generate()
    write_identity(identity, site.home / "worker.key")
    pinned = site(
        *("custodian", "pin", "--worker", identity.public_key, YES),
        *("--worker-signing-key", str(identity.signing_public_key)),
    )
    assert (pinned.code, pinned.out.startswith(b"+ worker")) == (0, True)
    return identity


@pytest.fixture
def report_id(site: Cordon, host: MediaHost, worker: Identity, request: pytest.FixtureRequest) -> str:
    """A new report of a fetched medium."""
    path = f"/{hashlib.sha256(request.node.name.encode()).hexdigest()}.jpg"
    host.serve(path, EDITED, "image/jpeg")
    return str(site("ingest", host.url(path), "--json").document["report"]["id"])


def state(site: Cordon, report_id: str) -> str:
    return str(site("report", "show", report_id, "--json").document["state"])


def xml_in(signed: bytes, identity: Identity) -> bytes:
    """The XML of a signed document, opened."""
    return identity.decrypt(base64.b64decode(json.loads(json.loads(signed)["signed"])["xml"]))


def test_an_approval_shows_the_report_and_the_very_xml_that_is_filed(
    site: Cordon, report_id: str, worker: Identity
) -> None:
    """With what the custodian said in it, and nothing that nobody said; sealed to the worker's key."""
    said = ("--escalate", "a child is in danger", "--annotation", "spam", "--classification", "B2")
    more = ("--intent", "risky", "--note", "seen before", "--incident-type", "trafficking")
    written = site("report", "approve", report_id, *ADA, *said, *more, "--out", "approval.json", YES)
    assert written.code == 0, written.err
    assert state(site, report_id) == "queued"
    document = (site.home / "approval.json").read_bytes()
    xml = xml_in(document, worker)
    assert xml == xml_in(document, read_identity(site.home / "grace.key"))
    assert hashlib.sha256(xml).hexdigest() == json.loads(json.loads(document)["signed"])["xml_sha256"]
    shown = written.out.decode()
    assert xml.decode() in shown
    assert "requested url: http://127.0.0.1" in shown
    report = etree.fromstring(xml)
    assert report.findtext("incidentSummary/incidentType") == "Child Sex Trafficking"
    assert report.findtext("incidentSummary/escalateToHighPriority") == "a child is in danger"
    assert report.find("incidentSummary/reportAnnotations/spam") is not None
    for words in ("B2", "situational 'risky'", "seen before", report_id):
        assert words in str(report.findtext("additionalInfo"))
    plain = site("report", "approve", report_id, *ADA, YES)
    assert plain.code == 0, plain.err
    assert "escalate" not in plain.out.decode()
    assert state(site, report_id) == "approved"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMAIL", "ada.analytical.org"),
        ("CONTACT_EMAIL", "bob@"),
        ("LEGAL_URL", "ftp://a"),
        ("FIRST_NAME", "Augusta " * 13),
        ("CONTACT_LAST_NAME", "Lovelace " * 12),
    ],
)
def test_nothing_is_approved_in_the_name_of_a_reporter_whom_the_authority_must_refuse(
    site: Cordon, report_id: str, name: str, value: str
) -> None:
    """The worker would park it; the custodian's own machine says so, with the setting."""
    setting = f"CORDON_REPORTER_{name}"
    refused = site("report", "approve", report_id, *ADA, YES, given={setting: value})
    assert (refused.code, "NCMEC would refuse it: the " in refused.err, f"{setting}, (" in refused.err) == (
        2,
        True,
        True,
    ), refused.err
    assert value not in refused.err
    assert state(site, report_id) == "queued"


def test_nothing_is_approved_that_the_schema_of_the_authority_refuses(site: Cordon, report_id: str) -> None:
    """Where the custodian's machine has one, as the worker asks it."""
    (site.home / "other.xsd").write_text(
        '<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"><xs:element name="other"/></xs:schema>'
    )
    refused = site("report", "approve", report_id, *ADA, YES, given={"CORDON_CYBERTIP_XSD": "other.xsd"})
    assert (refused.code, "is not as NCMEC's schema has it" in refused.err) == (2, True), refused.err
    assert state(site, report_id) == "queued"


def test_two_approvals_of_the_same_words_have_different_digests(site: Cordon, report_id: str) -> None:
    """The digest is no secret: it must confirm no guess of what is in the XML."""
    digests = set()
    for name in ("one.json", "two.json"):
        assert site("report", "approve", report_id, *ADA, "--out", name, YES).code == 0
        digests.add(json.loads(json.loads((site.home / name).read_bytes())["signed"])["xml_sha256"])
    assert len(digests) == 2


def test_a_rejection_says_why_and_can_be_decided_again(site: Cordon, report_id: str) -> None:
    """The reason is read by custodians alone; an entry that did not match is not disabled with it."""
    odd = site("report", "reject", report_id, *ADA, "--reason", "x", "--disable-entry", "4711", YES)
    assert (odd.code, "an entry that matched here" in odd.err) == (2, True)
    assert site("report", "reject", report_id, *ADA, "--reason", "  ", YES).code == 2
    assert site("report", "reject", report_id, *ADA, "--reason", "our own logo", YES).code == 0
    assert state(site, report_id) == "rejected"
    assert b"our own logo" not in site("report", "show", report_id).out
    opened = site("report", "open", report_id, *GRACE).out.decode()
    assert "reject  ada\n      reason: our own logo" in opened
    again = site("report", "reject", report_id, *GRACE, "--reason", "twice", YES)
    assert (again.code, "is rejected, and cannot become rejected" in again.err) == (1, True)
    assert site("report", "approve", report_id, *GRACE, YES).code == 0
    assert state(site, report_id) == "approved"


def test_a_note_is_signed_and_sealed_and_changes_no_state(site: Cordon, report_id: str) -> None:
    assert site("report", "annotate", report_id, *ADA, "--note", "asked the host").code == 0
    assert state(site, report_id) == "queued"
    assert (
        "annotate  ada\n      note: asked the host" in site("report", "open", report_id, *GRACE).out.decode()
    )


def test_words_given_as_a_dash_are_asked_for_and_stand_in_no_command(
    site: Cordon, report_id: str, worker: Identity
) -> None:
    """As lines of standard input in the order of --help, or on the terminal; one that is missing is told."""
    asked = ("--add", "account_id=-", "--escalate", "-", "--note", "-")
    approve = ("report", "approve", report_id, *ADA, *asked, "--out", "asked.json", YES)
    ran = site(*approve, stdin=b"in danger now\nseen before\n4711\n")
    assert ran.code == 0, ran.err
    report = etree.fromstring(xml_in((site.home / "asked.json").read_bytes(), worker))
    assert report.findtext("incidentSummary/escalateToHighPriority") == "in danger now"
    told = etree.tostring(report)
    assert b"seen before" in told
    assert b"4711" in told
    silent = site(*approve, stdin=b"in danger now\n")
    assert (silent.code, "--note - takes a line" in silent.err) == (2, True)
    note: list[str | Path] = [CORDON, "report", "annotate", report_id, "--note", "-", "--identity"]
    code, _ = on_a_terminal([*note, site.home / "ada.key"], ["asked the host"], **site.environment)
    assert code == 0
    assert "note: asked the host" in site("report", "open", report_id, *GRACE).out.decode()


def test_two_must_approve_the_very_same_document_where_that_is_set(
    site: Cordon, report_id: str, worker: Identity
) -> None:
    """Who comes second sees and signs the first's; the same custodian twice is one."""
    given = {"CORDON_DUAL_CONTROL": "true"}
    for _ in range(2):
        first = site("report", "approve", report_id, *ADA, "--note", "n", YES, given=given)
        assert "it waits for a second custodian" in first.err
        assert f"cordon report approve {report_id} --identity THEIR.key" in first.err
        assert state(site, report_id) == "queued"
    second = site("report", "approve", report_id, *GRACE, YES, given=given)
    assert (second.code, "ada approved this first" in second.err) == (0, True)
    assert state(site, report_id) == "approved"
    assert b"Note of the reporter: n" in second.out


def test_two_must_reject_and_order_to_destroy_where_that_is_set(own: Cordon, host: MediaHost) -> None:
    """The first is told what comes next, the second what the first said; an entry goes if both name it."""
    given = {"CORDON_DUAL_CONTROL": "true"}
    host.serve("/dual.jpg", EDITED, "image/jpeg")
    report_id = str(own("ingest", host.url("/dual.jpg"), "--json").document["report"]["id"])
    opened = own("report", "open", report_id, *ADA, "--json").document
    entry = str(opened["matches"][0]["entry_id"])
    said = ("--reason", "our own logo", "--disable-entry", entry)
    first = own("report", "reject", report_id, *ADA, *said, YES, given=given)
    assert (first.code, "first rejection, and stays queued" in first.err) == (0, True)
    assert f"cordon report reject {report_id} --identity THEIR.key" in first.err
    assert state(own, report_id) == "queued"
    assert own("bank", "entry", "show", entry, "--json").document["disabled"] is None
    second = own("report", "reject", report_id, *GRACE, "--reason", "indeed", YES, given=given)
    assert "ada rejected this first: our own logo" in second.err
    assert f"ada wants entries taken out of force: {entry}" in second.err
    assert state(own, report_id) == "rejected"
    assert own("bank", "entry", "show", entry, "--json").document["disabled"] is not None
    order = ("report", "destroy", report_id, "--reason", "order 12", YES)
    first = own(*order, *ADA, given=given)
    assert (first.code, "stays until a second custodian orders it too" in first.err) == (0, True)
    assert state(own, report_id) == "rejected"
    assert own("audit", "verify").code == 0
    second = own(*order, *GRACE, given=given)
    assert (second.code, f"report {report_id} is destroyed" in second.err) == (0, True)
    assert "ada ordered it first: order 12" in second.err
    assert own("report", "open", report_id, *ADA).code == 1
    assert own("audit", "verify").code == 0


def test_what_waits_for_a_second_custodian_is_told_to_who_looks_for_it(own: Cordon, host: MediaHost) -> None:
    """By list and show, with the command, until the second said so too or somebody else otherwise."""
    given = {"CORDON_DUAL_CONTROL": "true"}
    host.serve("/second.jpg", EDITED, "image/jpeg")
    report_id = str(own("ingest", host.url("/second.jpg"), "--json").document["report"]["id"])

    def told() -> str:
        waits_for = own("report", "show", report_id, "--json").document["waits_for"]
        assert (waits_for or f"{report_id}: None") in own("report", "list").err + f"{report_id}: None"
        return str(waits_for)

    assert told() == "None"
    assert own("report", "filed", report_id, *ADA, "--reference", "4711", YES, given=given).code == 0
    assert told() == (
        "one custodian said that it was filed by hand, and a second one must: "
        f"'cordon report filed {report_id} --identity THEIR.key --reference -'"
    )
    assert own("report", "reject", report_id, *ADA, "--reason", "a logo", YES, given=given).code == 0
    assert "one custodian rejected it, and a second one must: 'cordon report reject" in told()
    second = own("report", "reject", report_id, *GRACE, "--reason", "indeed", YES, given=given)
    assert (second.code, "one custodian" in second.err) == (0, False)
    assert "rejected it" not in told()
    assert own("report", "filed", report_id, *GRACE, "--reference", "4711", YES, given=given).code == 0
    assert told() == "None"


def test_what_is_missing_is_named_and_added_by_a_person_or_explained(site: Cordon, worker: Identity) -> None:
    """Nothing becomes impossible to report."""
    ran = site("ingest", "edited.jpg", "--json")
    report_id = ran.document["report"]["id"]
    refused = site("report", "approve", report_id, *ADA, YES)
    assert refused.code == 2
    assert "missing: who uploaded it or where it was" in refused.out.decode()
    assert "Add it, as '--add account_id=VALUE'" in refused.err
    assert site("report", "approve", report_id, *ADA, "--add", "account_id", YES).code == 2
    two = ("--add", "account_id=4711", "--add", "account_id=4712")
    twice = site("report", "approve", report_id, *ADA, *two, YES)
    assert (twice.code, "--add account_id= is given twice" in twice.err) == (2, True)
    added = site("report", "approve", report_id, *ADA, "--add", "account_id=4711", "--out", "added.json", YES)
    assert added.code == 0, added.err
    xml = xml_in((site.home / "added.json").read_bytes(), worker).decode()
    assert "Added by a person, not seen by Cordon: account_id" in xml
    assert "<espIdentifier>4711</espIdentifier>" in xml
    unknown = site("report", "approve", report_id, *ADA, "--provenance-unknown", "no accounts", YES)
    assert (unknown.code, "Provenance not known: no accounts" in unknown.out.decode()) == (0, True)


def test_a_report_of_a_test_bank_is_never_approved(site: Cordon, cordon: Cordon, worker: Identity) -> None:
    picture = cordon.home / "test.png"
    assert site("test-picture", "--out", picture).code == 0
    report_id = site("ingest", picture, "--json").document["report"]["id"]
    refused = site("report", "approve", report_id, *ADA, "--provenance-unknown", "test", YES)
    assert (refused.code, "only reports of csam banks" in refused.err) == (1, True)
    assert state(site, report_id) == "queued"


def test_nobody_approves_with_another_key_or_without_being_asked(
    site: Cordon, cordon: Cordon, report_id: str
) -> None:
    """A stranger opens nothing; without a terminal and without --yes nothing is signed."""
    assert cordon("custodian", "keygen", "--out", "eve.key").code == 0
    stranger = site("report", "approve", report_id, "--identity", cordon.home / "eve.key", YES)
    assert (stranger.code, stranger.out) == (2, b"")
    asked = site("report", "approve", report_id, *ADA)
    assert (asked.code, "with --yes it does not" in asked.err) == (2, True)
    assert state(site, report_id) == "queued"


def test_whose_key_signs_nothing_hears_it_before_being_asked(
    site: Cordon, cordon: Cordon, report_id: str
) -> None:
    """Nothing of the report is shown to decide on; opening it goes on working."""
    key = cordon.home / "id_rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key], check=True)
    public = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    assert site("custodian", "add", "reader", public).code == 0
    try:
        assert site("report", "reseal", report_id, *ADA).code == 0
        assert site("report", "open", report_id, "--identity", key).code == 0
        tried = site("report", "approve", report_id, "--identity", key)
    finally:
        assert site("custodian", "remove", "reader").code == 0
    assert (tried.code, tried.out) == (1, b"")
    assert "reader decides nothing with this identity: it holds no signing key" in tried.err


def test_who_is_added_later_opens_old_reports_after_resealing_and_who_left_opens_no_new(
    site: Cordon, report_id: str
) -> None:
    """Debian's age opens what was sealed anew; what was approved stays so; a removal is recorded."""
    assert site("report", "approve", report_id, *ADA, YES).code == 0
    made = site("custodian", "keygen", "--out", "joan.key")
    keys = (made.out.decode().strip(), "--signing-key", made.err.split("--signing-key ")[1].split()[0])
    assert site("custodian", "add", "joan", *keys).code == 0
    try:
        closed = site("report", "open", report_id, "--identity", "joan.key")
        assert (closed.code, "ran 'cordon report reseal'" in closed.err) == (2, True)
        assert "sealed anew: 0 reports" in site("report", "reseal", "--identity", "joan.key").err
        done = site("report", "reseal", *ADA)
        assert "sealed anew: " in done.err
        assert not done.err.startswith("cordon: sealed anew: 0")
        assert "sealed anew: 0 reports" in site("report", "reseal", *ADA).err
        opened = site("report", "open", report_id, "--identity", "joan.key", "--json").document
        assert opened["report_id"] == report_id
        out = site.home / "resealed.age"
        assert site("report", "export", report_id, "--out", out).code == 0
        with_age = subprocess.run(
            ["age", "-d", "-i", site.home / "joan.key", out], capture_output=True, check=True
        )
        assert json.loads(with_age.stdout) == opened
        assert state(site, report_id) == "approved"
    finally:
        gone = site("custodian", "remove", "joan")
    assert gone.code == 0
    assert "still readable with it: " in gone.err
    assert site("report", "reseal", *ADA).code == 0
    assert site("report", "open", report_id, "--identity", "joan.key").code == 2


def test_a_passphrase_or_an_ssh_key_decides_as_well(site: Cordon, cordon: Cordon, report_id: str) -> None:
    """An SSH key of Ed25519 opens and signs with itself."""
    key = cordon.home / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    assert site("custodian", "add", "sshuser", public).code == 0
    try:
        assert site("report", "reseal", report_id, *ADA).code == 0
        assert site("report", "annotate", report_id, "--identity", key, "--note", "by ssh").code == 0
    finally:
        assert site("custodian", "remove", "sshuser").code == 0
    assert "annotate  sshuser" in site("report", "open", report_id, *ADA).out.decode()
