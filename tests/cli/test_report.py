"""Reports by command: listed, shown, held, exported, and opened with a custodian's key alone."""

import json
import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from app.report.seal import seal
from tests.cli.conftest import EDITED, Cordon
from tests.stubs import stub
from tests.worlds import MediaHost

PICTURES = ("banked.png", "edited.jpg")


@pytest.fixture(scope="module")
def report_id(site: Cordon, host: MediaHost) -> str:
    """A report of one medium that was seen twice at one place."""
    host.serve("/reported.jpg", EDITED, "image/jpeg")
    ids = [site("ingest", host.url("/reported.jpg"), "--json").document["report"]["id"] for _ in range(2)]
    assert ids[0] == ids[1]
    return str(ids[0])


def test_reports_are_listed_without_being_opened(site: Cordon, report_id: str) -> None:
    """Four members each, newest first."""
    listed = site("report", "list", "--json").documents
    assert report_id in [report["id"] for report in listed]
    assert all(set(report) == {"id", "state", "created_at", "bank_kind"} for report in listed)
    (report,) = [report for report in listed if report["id"] == report_id]
    assert (report["state"], report["bank_kind"]) == ("queued", "csam")
    assert [each["id"] for each in listed] == sorted((each["id"] for each in listed), reverse=True)
    people = site("report", "list").out.decode()
    assert f"{report_id}  queued" in people


def test_a_report_that_cannot_be_read_is_listed_by_its_id_and_exit_1(own: Cordon) -> None:
    """All others are listed as ever, in their order."""
    spoilt, last = [str(own("ingest", name, "--json").document["report"]["id"]) for name in PICTURES]
    with sqlite3.connect(own.home / "state" / "cordon.db") as database:
        database.execute("UPDATE reports SET state = 'junk' WHERE id = ?", (spoilt,))
    database.close()
    listed = own("report", "list", "--json")
    assert (listed.code, "1 of the reports cannot be read" in listed.err) == (1, True)
    assert [each["id"] for each in listed.documents][:2] == [last, spoilt]
    assert listed.documents[0]["state"] == "queued"
    assert listed.documents[1] == {"id": spoilt, "state": None, "created_at": None, "bank_kind": None}
    people = own("report", "list")
    assert (people.code, f"{spoilt}  unreadable" in people.out.decode()) == (1, True)
    assert f"{last}  queued" in people.out.decode()


def test_one_report_is_shown_with_its_sightings_and_custodians(site: Cordon, report_id: str) -> None:
    """Fingerprints and digests of sealed files; nothing of what is sealed."""
    shown = site("report", "show", report_id, "--json").document
    fingerprints = [each["fingerprint"] for each in site("custodian", "list", "--json").documents]
    assert shown["custodians"] == fingerprints
    assert len(shown["later_sightings"]) == 1
    assert b"reported" not in site("report", "show", report_id).out
    missing = site("report", "show", "01J9ZK3V5T8QX2M4N6P8R0S1T2")
    assert (missing.code, missing.err) == (1, "cordon: There is no such report.\n")


def test_a_custodian_opens_a_report_and_its_later_sightings(
    site: Cordon, report_id: str, host: MediaHost
) -> None:
    """The report's own document first; any custodian's key will do."""
    opened = site("report", "open", report_id, "--identity", "grace.key", "--json").documents
    assert [document["report_id"] for document in opened] == [report_id, report_id]
    assert opened[0]["created_at"] < opened[1]["created_at"]
    assert {document["provenance"]["requested_url"] for document in opened} == {host.url("/reported.jpg")}
    people = site("report", "open", report_id, "--identity", "ada.key").out.decode()
    assert "seen again (1 of 1)" in people
    assert f"requested url: {host.url('/reported.jpg')}" in people
    assert "statement: Cordon showed this media to no person" in people


def test_a_report_is_exported_sealed_and_opened_elsewhere(
    site: Cordon, cordon: Cordon, report_id: str
) -> None:
    """On a machine without the database, by Cordon and, where it is installed, by age itself."""
    out = cordon.home / "report.age"
    assert site("report", "export", report_id, "--out", out).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    again = site("report", "export", report_id, "--out", out)
    assert (again.code, "not overwritten" in again.err) == (2, True)
    opened = cordon("report", "open", out, "--identity", site.home / "ada.key", "--json").document
    assert opened["report_id"] == report_id
    assert not (cordon.home / "state").exists()
    if shutil.which("age"):
        ran = subprocess.run(["age", "-d", "-i", site.home / "ada.key", out], capture_output=True, check=True)
        assert json.loads(ran.stdout) == opened


def test_a_report_is_opened_by_nobody_else(site: Cordon, cordon: Cordon, report_id: str) -> None:
    """Not by another key, nor with an identity file that others may read."""
    assert cordon("custodian", "keygen", "--out", "eve.key").code == 0
    other = site("report", "open", report_id, "--identity", cordon.home / "eve.key")
    assert (other.code, other.out) == (2, b"")
    shutil.copy(site.home / "ada.key", cordon.home / "open.key")
    (cordon.home / "open.key").chmod(0o644)
    readable = site("report", "open", report_id, "--identity", cordon.home / "open.key")
    assert (readable.code, "chmod 600" in readable.err) == (2, True)


def test_a_report_is_held_and_let_go(site: Cordon, report_id: str) -> None:
    """Twice is no error."""
    for command, held in (("hold", True), ("hold", True), ("unhold", False), ("unhold", False)):
        assert site("report", command, report_id).code == 0
        assert site("report", "show", report_id, "--json").document["on_hold"] is held


def test_a_hold_that_a_custodian_signed_ends_with_a_signature_alone(site: Cordon, report_id: str) -> None:
    """Either at once, or as a document for HTTP."""
    ada = ("--identity", "ada.key")
    signed = site("report", "hold", report_id, *ada)
    assert (signed.code, "on hold, signed" in signed.err) == (0, True)
    refused = site("report", "unhold", report_id)
    assert (refused.code, "--identity FILE" in refused.err) == (1, True)
    assert site("report", "unhold", report_id, "--out", "x").code == 2
    assert site("report", "show", report_id, "--json").document["on_hold"]
    written = site("report", "unhold", report_id, *ada, "--out", "ends.json")
    assert (written.code, f"POST /v1/reports/{report_id}/unhold" in written.err) == (0, True)
    assert site("report", "show", report_id, "--json").document["on_hold"]
    assert site("report", "unhold", report_id, *ada).code == 0
    shown = site("report", "show", report_id, "--json").document
    assert (shown["on_hold"], [each["action"] for each in shown["decisions"]]) == (False, ["hold", "unhold"])
    assert site("audit", "verify").code == 0


def test_other_reports_of_the_same_medium_and_place_are_named(
    site: Cordon, report_id: str, host: MediaHost
) -> None:
    """Here because the key of the keyed hashes changed in between; later, since states move on."""
    again = site("ingest", host.url("/reported.jpg"), "--json", given={"CORDON_PLACE_KEY": "x" * 32}).document
    assert again["report"]["id"] != report_id
    site("ingest", host.url("/edited.jpg"))
    people = site("report", "open", again["report"]["id"], "--identity", "ada.key").out.decode()
    others = people.split("other reports of the same medium at the same place\n")[1]
    assert others.split()[:2] == [report_id, "earlier,"]
    assert len(others.splitlines()) == 1


def test_what_a_taken_gate_writes_obeys_no_terminal_and_is_no_decision(cordon: Cordon) -> None:
    """It seals what it likes, names of members too; only what custodians signed is shown as theirs."""
    public_key = cordon("custodian", "keygen", "--out", "ada.key").out.decode().strip()
    document = json.loads(stub().to_json("01JREPORT")) | {
        "decisions": {"2026-01-01 10:00 UTC  approve  ada": "yes"},
        "x\x1b[2J\ndecisions\n  2026-01-01 10:00 UTC  approve  ada": 1,
    }
    document["media"] = {"format\u202e\r": "png"}
    document["matches"] = [{"bank": "known"}, 1, "\x1b[31m"]
    (cordon.home / "report.age").write_bytes(seal(json.dumps(document).encode(), [public_key]))
    ran = cordon("report", "open", "report.age", "--identity", "ada.key")
    lines = ran.out.decode().split("\n")
    assert ran.code == 0
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if line.startswith("decisions")] == []
    heading = lines.index("in the report, and not written there by any Cordon")
    assert lines[heading + 1] == "  decisions"
    assert "  format\\u202e\\r: png" in lines
    assert "matches: {'bank': 'known'}, 1, \\x1b[31m" in lines


def test_what_somebody_writes_into_the_database_obeys_no_terminal(own: Cordon) -> None:
    """Each name is one cell of a table, or part of one line."""
    report_id = str(own("ingest", PICTURES[0], "--json").document["report"]["id"])
    junk = "\x1b[2J\nall is well\u202e"
    with sqlite3.connect(own.home / "state" / "cordon.db") as database:
        database.execute("UPDATE banks SET name = name || ?", (junk,))
        database.execute("UPDATE reports SET cause = ?, state = 'parked'", (junk,))
        database.execute("UPDATE keys SET name = ?", (junk,))
        database.execute(
            "INSERT INTO alarms (kind, subject, raised_at) VALUES ('report_parked', ?, '2026-01-01')", (junk,)
        )
        database.execute("UPDATE custodians SET name = name || ?", (junk,))
    database.close()
    for command in (
        *(("bank", "list"), ("key", "list"), ("custodian", "list"), ("audit", "verify"), ("doctor",)),
        *(("report", "list"), ("report", "alarms"), ("report", "show", report_id)),
    ):
        ran = own(*command)
        lines = (ran.out.decode() + ran.err).splitlines()
        assert lines, command
        assert all(line.isprintable() for line in lines), command
        assert "all is well" not in lines, command


@pytest.mark.parametrize("name", ["missing.age", "cordon.db"])
def test_what_is_no_sealed_report_is_refused(site: Cordon, name: str) -> None:
    """Exit 2, told on one line."""
    path = site.home / "state" / name if name == "cordon.db" else Path(name)
    ran = site("report", "open", path, "--identity", "ada.key")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
