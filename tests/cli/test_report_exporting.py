"""Reports filed by hand and destroyed, by command."""

import hashlib
import json
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
    worker = generate()
    write_identity(worker, own.home / "exported-for.key")
    signing = ("--worker-signing-key", str(worker.signing_public_key))
    own("custodian", "pin", "--worker", worker.public_key, *signing, YES)
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


def test_wrong_uses_are_told_and_write_nothing(own: Cordon, report_id: str, tmp_path: Path) -> None:
    before = sorted(own.home.iterdir())
    for wrong, why in (
        (("--format", "html"), "--identity"),
        (ADA, "--format"),
        ((), "--out"),
        ((*ADA, "--format", "xarf"), "--classification"),
        ((*ADA, "--format", "xarf", "--classification", "Z9"), "--classification"),
        ((*ADA, "--format", "pdf"), "pdf"),
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
    rejected = own("report", "reject", report_id, *GRACE, "--reason", "no", YES)
    assert (rejected.code, _state(own, report_id)) == (1, "filed_manually")


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
    assert own("report", "show", report_id).code == 1
    assert not any(piece in each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))


def test_an_order_to_destroy_can_be_written_for_http(own: Cordon, report_id: str) -> None:
    ran = own("report", "destroy", report_id, *ADA, "--reason", "order 12/2026", YES, "--out", "order.json")
    assert (ran.code, _state(own, report_id)) == (0, "queued")
    assert stat.S_IMODE((own.home / "order.json").stat().st_mode) == 0o600
    assert set(json.loads((own.home / "order.json").read_text())) == {"signature", "signed"}
    assert "order 12/2026" not in (own.home / "order.json").read_text()
