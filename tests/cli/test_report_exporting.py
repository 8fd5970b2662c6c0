"""Reports filed by hand and destroyed, by command."""

import contextlib
import hashlib
import json
import sqlite3
import stat
from pathlib import Path

import pytest
import xarf
from lxml import html

from app.custody.identity import generate, write_identity
from tests.cli.conftest import EDITED, Cordon
from tests.worlds import MediaHost

ADA = ("--identity", "ada.key")
GRACE = ("--identity", "grace.key")
YES = "--yes"
REPORTER = {
    "CORDON_REPORTER_FIRST_NAME": "Ada",
    "CORDON_REPORTER_LAST_NAME": "Nowak",
    "CORDON_REPORTER_EMAIL": "ada@lab.org",
    "CORDON_REPORTER_COMPANY": "Lab of Letters",
}


@pytest.fixture
def report_id(own: Cordon, host: MediaHost) -> str:
    """A report of a fetched medium."""
    return str(own("ingest", host.url("/edited.jpg"), "--json").document["report"]["id"])


def _state(own: Cordon, report_id: str) -> str:
    return str(own("report", "show", report_id, "--json").document["state"])


@pytest.mark.parametrize("form", ["json", "html", "xml", "xarf"])
def test_an_opened_report_is_written_to_a_private_file_that_holds_no_medium(
    own: Cordon, report_id: str, host: MediaHost, form: str
) -> None:
    """0600, once, and by default under the report's id."""
    classed = ("--classification", "baseline") if form == "xarf" else ()
    export = ("report", "export", report_id, *ADA, "--format", form, *classed)
    ran = own(*export, given=REPORTER)
    assert (ran.code, ran.out) == (0, b""), ran.err
    out = own.home / f"{report_id}.{'json' if form == 'xarf' else form}"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    written = out.read_bytes()
    assert host.url("/edited.jpg").encode() in written
    assert hashlib.sha256(EDITED).hexdigest().encode() in written
    assert EDITED[100:132] not in written
    again = own(*export, given=REPORTER)
    assert (again.code, "not overwritten" in again.err) == (2, True)
    assert out.read_bytes() == written
    assert b"report.opened" in b"".join(each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))


def test_no_report_is_written_to_a_file_that_is_called_as_standard_output_is(
    own: Cordon, report_id: str
) -> None:
    """Nobody would look for it again, and it is not sealed."""
    for opened in ((), (*ADA, "--format", "json")):
        refused = own("report", "export", report_id, *opened, "--out", "-")
        assert (refused.code, refused.out, "--out names a new file" in refused.err) == (2, b"", True)
    assert not (own.home / "-").exists()


def test_the_json_holds_decisions_and_what_was_said_with_them(own: Cordon, report_id: str) -> None:
    own("report", "annotate", report_id, *ADA, "--note", "asked the host")
    assert own("report", "export", report_id, *GRACE, "--format", "json", "--out", "all.json").code == 0
    told = json.loads((own.home / "all.json").read_text())
    assert (told["report_id"], told["state"]) == (report_id, "queued")
    # Other tests of the same site may have sealed it anew before.
    noted = told["decisions"][-1]
    assert (noted["action"], noted["words"]) == ("annotate", {"note": "asked the host"})
    assert {each["report_id"] for each in told["documents"]} == {report_id}


def test_what_was_approved_is_exported_to_the_letter(own: Cordon, report_id: str) -> None:
    """The class that its custodian named is what XARF tells."""
    _pin_worker(own)
    approved = own("report", "approve", report_id, *ADA, "--classification", "B1", YES, given=REPORTER)
    assert approved.code == 0, approved.err
    assert own("report", "export", report_id, *ADA, "--format", "xml", "--out", "a.xml").code == 0
    assert (own.home / "a.xml").read_text() in approved.out.decode()
    assert own("report", "export", report_id, *ADA, "--format", "html", "--out", "a.html").code == 0
    assert "Lab of Letters" in html.parse(own.home / "a.html").getroot().text_content()
    ran = own("report", "export", report_id, *ADA, "--format", "xarf", "--out", "x.json", given=REPORTER)
    assert ran.code == 0, ran.err
    written = (own.home / "x.json").read_text()
    assert xarf.parse(written).errors == []
    assert json.loads(written)["classification"] == "B1"


def test_what_is_missing_is_told_and_stands_in_the_document(own: Cordon, site: Cordon) -> None:
    """An upload of which its sender told nothing."""
    report_id = str(own("ingest", "banked.png", "--json").document["report"]["id"])
    ran = own("report", "export", report_id, *ADA, "--format", "xml", "--out", "a.xml")
    assert (ran.code, "missing: who uploaded it" in ran.err) == (0, True)
    assert "CORDON_REPORTER_EMAIL" in ran.err
    assert "Provenance not known: nobody added it" in (own.home / "a.xml").read_text()
    assert "would refuse" not in ran.err
    long = {"CORDON_REPORTER_FIRST_NAME": "Augusta " * 13}
    ran = own("report", "export", report_id, *ADA, "--format", "xml", "--out", "b.xml", given=long)
    assert (ran.code, "would refuse it: the reporter's first name, CORDON_REPORTER_" in ran.err) == (0, True)


def test_whoever_files_by_hand_says_all_that_an_approval_can_without_a_worker(
    own: Cordon,
) -> None:
    """On the page and in the XML; what was added is marked, and the record tells of the opening, by ids."""
    report_id = str(own("ingest", "banked.png", "--json").document["report"]["id"])
    said = (
        *("--add", "account_id=4711", "--add", "source_url=https://chat.example/post/1"),
        *("--incident-type", "trafficking", "--escalate", "A child is named.", "--annotation", "sextortion"),
        *("--classification", "A2", "--intent", "commercial", "--note", "Seen in May."),
    )
    ran = own("report", "export", report_id, *ADA, "--format", "html", *said, given=REPORTER)
    assert (ran.code, "missing" in ran.err) == (0, False), ran.err
    page = html.parse(own.home / f"{report_id}.html").getroot()
    names, answers = ([each.text_content() for each in page.iter(tag)] for tag in ("th", "td"))
    rows = dict(zip(names, answers, strict=True))
    assert rows["Type of incident"] == "Child Sex Trafficking"
    assert (rows["Is a child in danger now?"], rows["What else is so"]) == ("A child is named.", "sextortion")
    mark = "  (added by a person of the reporter, not seen by Cordon)"
    assert rows["Account id"] == f"4711{mark}"
    assert rows["Addresses (URLs)"] == f"https://chat.example/post/1{mark}"
    assert "Provenance not known" not in rows["Additional information"]
    for told in ("Added account_id: 4711", ": A2", "malicious, commercial offender", "Seen in May."):
        assert told in rows["Additional information"]
    ran = own("report", "export", report_id, *ADA, "--format", "xml", *said, given=REPORTER)
    assert ran.code == 0
    xml = (own.home / f"{report_id}.xml").read_text()
    assert "<sextortion/>" in xml
    assert "Added by a person, not seen by Cordon: account_id, source_url" in xml
    why = ("--provenance-unknown", "no accounts are kept")
    ran = own("report", "export", report_id, *ADA, "--format", "xml", *why, "--out", "why.xml")
    assert (ran.code, "missing: who uploaded it" in ran.err) == (0, True)
    assert "Provenance not known: no accounts are kept" in (own.home / "why.xml").read_text()
    with contextlib.closing(sqlite3.connect(own.home / "state" / "cordon.db")) as database:
        found = database.execute("SELECT details FROM audit WHERE event = 'report.opened'").fetchall()
    assert len(found) == 3
    assert all(set(json.loads(details)) == {"custodian", "by"} for (details,) in found)
    assert _state(own, report_id) == "queued"


def test_xarf_takes_a_url_that_a_custodian_adds_here_or_added_with_an_approval(own: Cordon) -> None:
    """The class of XARF's alone goes with it too."""
    report_id = str(own("ingest", "banked.png", "--json").document["report"]["id"])
    xarf_of = ("report", "export", report_id, *ADA, "--format", "xarf")
    ran = own(*xarf_of, "--classification", "A1", given=REPORTER)
    assert (ran.code, "--add source_url" in ran.err) == (2, True)
    added = ("--add", "source_url=https://chat.example/post/1")
    ran = own(*xarf_of, "--classification", "baseline", *added, "--out", "1.json", given=REPORTER)
    assert ran.code == 0, ran.err
    _pin_worker(own)
    approved = own("report", "approve", report_id, *GRACE, *added, "--classification", "B2", YES)
    assert approved.code == 0, approved.err
    assert own(*xarf_of, "--out", "2.json", given=REPORTER).code == 0
    for name, classed in (("1.json", "baseline"), ("2.json", "B2")):
        written = (own.home / name).read_text()
        told = json.loads(written)
        assert (told["url"], told["classification"]) == ("https://chat.example/post/1", classed)
        assert "added by a person" in told["description"]
        assert xarf.parse(written).errors == []


def test_what_is_said_at_an_export_stands_over_what_was_approved_and_that_is_told(own: Cordon) -> None:
    """What was said with the approval stays where nothing else is said; the approval itself is untouched."""
    report_id = str(own("ingest", "banked.png", "--json").document["report"]["id"])
    _pin_worker(own)
    said = ("--add", "account_id=4711", "--note", "Seen in May.", "--escalate", "A child is named.")
    approved = own("report", "approve", report_id, *GRACE, *said, YES, given=REPORTER)
    assert approved.code == 0, approved.err
    export = ("report", "export", report_id, *ADA, "--format", "xml")
    ran = own(*export, "--note", "Seen in June.", "--out", "over.xml", given=REPORTER)
    assert (ran.code, "this is not what was approved" in ran.err) == (0, True), ran.err
    over = (own.home / "over.xml").read_text()
    assert "Seen in June." in over
    assert "Seen in May." not in over
    assert "Added account_id: 4711" in over
    assert "<escalateToHighPriority>A child is named.<" in over
    assert own(*export, "--out", "same.xml").code == 0
    assert (own.home / "same.xml").read_text() in approved.out.decode()
    html_of = ("report", "export", report_id, *ADA, "--format", "html", "--out", "same.html")
    assert own(*html_of).code == 0
    assert "4711  (added by a person" in html.parse(own.home / "same.html").getroot().text_content()


def test_a_report_that_no_form_takes_is_exported_with_what_its_custodian_says(own: Cordon) -> None:
    """As JSON, in a member of its own."""
    own("test-picture", "--out", "test.png")
    report_id = str(own("ingest", "test.png", "--json").document["report"]["id"])
    said = ("--add", "account_id=4711", "--note", "Seen in May.")
    assert own("report", "export", report_id, *ADA, "--format", "json", *said).code == 0
    told = json.loads((own.home / f"{report_id}.json").read_text())
    assert told["said_by_who_exported"] == {"note": "Seen in May.", "provenance": {"account_id": "4711"}}
    assert all("account_id" not in each["context"] for each in told["documents"])


def _pin_worker(own: Cordon) -> None:
    worker = generate()
    write_identity(worker, own.home / "exported-for.key")
    signing = ("--worker-signing-key", str(worker.signing_public_key))
    assert own("custodian", "pin", "--worker", worker.public_key, *signing, YES).code == 0


def test_wrong_uses_are_told_and_write_nothing(own: Cordon, report_id: str, tmp_path: Path) -> None:
    before = sorted(own.home.iterdir())
    for wrong, why in (
        (("--format", "html"), "--identity"),
        (ADA, "--format"),
        ((), "--out"),
        ((*ADA, "--format", "xarf"), "--classification"),
        ((*ADA, "--format", "xarf", "--classification", "Z9"), "classification"),
        ((*ADA, "--format", "pdf"), "pdf"),
        ((*ADA, "--format", "html", "--classification", "baseline"), "classification"),
        ((*ADA, "--format", "html", "--add", "host"), "KEY=VALUE"),
        ((*ADA, "--format", "html", "--add", "shoe_size=44"), "shoe_size"),
        ((*ADA, "--format", "html", "--incident-type", "child"), "--incident-type"),
        (("--out", "sealed.age", "--add", "account_id=4711"), "--format"),
    ):
        ran = own("report", "export", report_id, *wrong)
        assert (ran.code, why in ran.err) == (2, True), ran.err
    assert sorted(own.home.iterdir()) == before


def test_a_report_of_another_kind_goes_out_as_json_alone(own: Cordon) -> None:
    """The test picture's, which can never be filed, not by hand either."""
    own("test-picture", "--out", "test.png")
    made = own("ingest", "test.png", "--json").document["report"]
    report_id = str(made["id"])
    for form in ("html", "xml", "xarf"):
        ran = own("report", "export", report_id, *ADA, "--format", form, "--classification", "A1")
        assert (ran.code, "csam banks alone" in ran.err) == (2, True)
    assert own("report", "export", report_id, *ADA, "--format", "json").code == 0
    ran = own("report", "filed", report_id, *ADA, "--reference", "1", YES)
    assert (ran.code, "test bank" in ran.err, _state(own, report_id)) == (1, True, "queued")


def test_a_report_filed_by_hand_is_so_for_good_and_only_custodians_read_its_reference(
    own: Cordon, report_id: str
) -> None:
    ran = own("report", "filed", report_id, *ADA, "--reference", "CyberTip 123456789", YES)
    assert (ran.code, _state(own, report_id)) == (0, "filed_manually"), ran.err
    assert b"123456789" in own("report", "open", report_id, *GRACE).out
    stored = b"".join(each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))
    assert b"123456789" not in stored
    # Nobody reads all of it, and is asked, for a decision that changes nothing.
    for action in (("reject", "--reason", "no"), ("approve",), ("filed", "--reference", "another")):
        ran = own("report", action[0], report_id, *GRACE, *action[1:])
        assert (ran.code, ran.out, "is filed_manually already" in ran.err) == (1, b"", True)
    assert _state(own, report_id) == "filed_manually"
    unsaid = own("report", "filed", report_id, *GRACE, "--reference", " ", YES)
    assert (unsaid.code, "--reference is empty" in unsaid.err) == (2, True)


def test_two_must_say_that_it_was_filed_by_hand_where_that_is_set(own: Cordon, report_id: str) -> None:
    """The first is told what comes next, and the second what the first said."""
    given = {"CORDON_DUAL_CONTROL": "true"}
    said = ("report", "filed", report_id, YES)
    for _ in range(2):
        first = own(*said, *ADA, "--reference", "CyberTip 123", given=given)
        assert (first.code, f"stays {_state(own, report_id)}, though one says" in first.err) == (0, True)
        assert f"cordon report filed {report_id} --identity THEIR.key --reference" in first.err
    assert _state(own, report_id) == "queued"
    second = own(*said, *GRACE, "--reference", "CyberTip 123", given=given)
    assert "ada said so first: CyberTip 123" in second.err
    assert (second.code, _state(own, report_id)) == (0, "filed_manually")
    assert own("audit", "verify").code == 0


def test_a_destroyed_report_leaves_nothing_in_the_files(own: Cordon, report_id: str) -> None:
    """On hold it stays, and without a yes too."""
    own("report", "export", report_id, "--out", "sealed.age")
    piece = (own.home / "sealed.age").read_bytes()[100:150]
    destroy = ("report", "destroy", report_id, *ADA, "--reason", "order 12/2026")
    own("report", "hold", report_id)
    held = own(*destroy, YES)
    assert (held.code, "on hold" in held.err) == (1, True)
    own("report", "unhold", report_id)
    assert own(*destroy).code == 2
    assert _state(own, report_id) == "queued"
    ran = own(*destroy, YES)
    assert ran.code == 0, ran.err
    for arguments in (("open", *ADA), ("hold",), ("approve", *ADA, YES), ("export", "--out", "again.age")):
        gone = own("report", arguments[0], report_id, *arguments[1:])
        assert (gone.code, "This report was removed" in gone.err, "'cordon report show'" in gone.err) == (
            1,
            True,
            True,
        )
    assert own("report", "show", report_id).code == 0
    assert not any(piece in each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))


def test_an_order_to_destroy_can_be_written_for_http(own: Cordon, report_id: str) -> None:
    ran = own("report", "destroy", report_id, *ADA, "--reason", "order 12/2026", YES, "--out", "order.json")
    assert (ran.code, _state(own, report_id)) == (0, "queued")
    assert stat.S_IMODE((own.home / "order.json").stat().st_mode) == 0o600
    assert set(json.loads((own.home / "order.json").read_text())) == {"signature", "signed"}
    assert "order 12/2026" not in (own.home / "order.json").read_text()
