"""The audit log by command: signed, kept elsewhere, and verified with a place told."""

import json
import sqlite3
import stat
from dataclasses import replace
from datetime import datetime

import pytest

from app.custody.identity import generate, read_identity, write_identity
from tests.cli.conftest import EDITED, Cordon
from tests.worlds import MediaHost

ADA = ("--identity", "ada.key")


@pytest.fixture
def office(cordon: Cordon, host: MediaHost) -> Cordon:
    """A custodian, a bank and a report."""
    for name in ("ada", "grace"):
        made = cordon("custodian", "keygen", "--out", f"{name}.key")
        signing_key = made.err.split("--signing-key ")[1].split()[0]
        added = cordon("custodian", "add", name, made.out.decode().strip(), "--signing-key", signing_key)
        assert added.code == 0
    host.serve("/audited.jpg", EDITED, "image/jpeg")
    (cordon.home / "edited.jpg").write_bytes(EDITED)
    hashed = cordon("bank", "hash", "edited.jpg", "--json")
    assert cordon("bank", "create", "known", "--kind", "csam", "--action", "report").code == 0
    assert cordon("bank", "import", "known", "-", stdin=hashed.out).code == 0
    assert cordon("ingest", host.url("/audited.jpg")).code == 3
    return cordon


def tamper(office: Cordon, statement: str) -> None:
    with sqlite3.connect(office.home / "state" / "cordon.db") as database:
        database.execute(statement)
    database.close()


def test_a_kept_checkpoint_finds_what_the_database_alone_cannot(office: Cordon) -> None:
    """Whole, with what vouches for it; then cut off, with everything in the database that told of it."""
    bare = office("audit", "verify")
    assert (bare.code, "no checkpoint vouches for it" in bare.err) == (0, True)
    assert office("report", "annotate", report_of(office), *ADA, "--note", "n").code == 0
    signed = office("audit", "checkpoint", *ADA, "--out", "kept")
    assert signed.code == 0
    assert stat.S_IMODE((office.home / "kept").stat().st_mode) == 0o600
    assert (office.home / "kept").read_bytes() == signed.out
    again = office("audit", "checkpoint", *ADA)
    assert (again.out, "nothing happened since" in again.err) == (signed.out, True)
    entries = json.loads(json.loads(signed.out)["signed"])["seq"]
    assert office("report", "annotate", report_of(office), *ADA, "--note", "n").code == 0
    whole = office("audit", "verify", "--checkpoint", "kept", "--json").document
    assert (whole["whole"], whole["vouched"]) == (True, entries)
    signed_then = json.loads(json.loads(signed.out)["signed"])
    vouched_at = datetime.fromisoformat(whole["vouched_at"])
    assert (whole["vouched_by"], vouched_at) == (
        signed_then["signer"],
        datetime.fromisoformat(signed_then["at"]),
    )
    assert whole["entries"] > entries
    tamper(office, f"DELETE FROM audit WHERE seq >= {entries}")  # noqa: S608 - a number
    tamper(office, "DELETE FROM audit_checkpoints")
    tamper(office, "DELETE FROM decisions")
    assert office("audit", "verify").code == 0
    found = office("audit", "verify", "--checkpoint", "kept")
    assert (found.code, f"entry {entries} was cut off the end" in found.err) == (1, True)
    refused = office("audit", "checkpoint", "--identity", "grace.key")
    assert refused.code == 0


def test_what_the_worker_remembers_shows_an_older_database_that_was_put_back(office: Cordon) -> None:
    """Where its user reads that, and until it is taken away; it vouches for nothing, and garbage is told."""
    state, memory = office.home / "state", office.home / "state" / "worker.key.seen"
    assert office("custodian", "keygen", "--out", "state/worker.key").code == 0
    first = office("audit", "verify", "--json").document
    assert first["remembered"] is None
    tamper(office, f"VACUUM INTO '{office.home / 'backup'}'")
    assert office("report", "annotate", report_of(office), *ADA, "--note", "n").code == 0
    assert office("report", "purge").code == 0
    whole = office("audit", "verify", "--json").document
    assert (whole["whole"], whole["remembered"]) == (True, whole["entries"])
    assert (whole["vouched"], whole["vouched_by"], whole["vouched_at"]) == (0, None, None)
    for left in state.glob("cordon.db*"):
        left.unlink()
    (office.home / "backup").rename(state / "cordon.db")
    cut_off = f"entries {first['entries'] + 1} to {whole['entries']} were cut off the end"
    found = office("audit", "verify")
    assert (found.code, cut_off in found.err) == (1, True)
    assert f"the worker read entry {whole['entries']}, and remembers it" in found.err
    assert not office("audit", "verify", "--json").document["whole"]
    memory.write_text("garbage")
    spoilt = office("audit", "verify")
    assert (spoilt.code, "is no memory of a worker" in spoilt.err) == (0, True)
    memory.unlink()
    assert office("audit", "verify").code == 0


def test_what_is_left_of_a_removed_report_is_held_against_the_log(office: Cordon) -> None:
    """How it ended and of what kind: what is counted of removed reports is read from there."""
    report_id = report_of(office)
    assert office("report", "reject", report_id, *ADA, "--reason", "a logo", "--yes").code == 0
    purged = office("report", "purge", "--json", *ADA, given={"CORDON_REJECTED_DAYS": "0"})
    assert purged.document == {"id": report_id}
    assert office("audit", "verify").code == 0
    tamper(office, "UPDATE tombstones SET state = 'filed'")
    ended = office("audit", "verify")
    assert (ended.code, "its tombstone says that it ended as filed, and the log rejected" in ended.err) == (
        1,
        True,
    )
    tamper(office, "UPDATE tombstones SET state = 'rejected', bank_kind = 'test'")
    assert "says that it was of kind test, and the log csam" in office("audit", "verify").err
    tamper(office, "DELETE FROM tombstones")
    gone = office("audit", "verify", "--json")
    assert (gone.code, gone.document["tampered_reports"]) == (1, [report_id])
    assert f"report {report_id}" in gone.err
    assert "it was removed, and its tombstone is gone" in gone.err


def report_of(office: Cordon) -> str:
    """The id of its report."""
    return str(office("report", "list", "--json").document["id"])


def test_an_edited_entry_is_named_and_a_swapped_file_is_told_of_its_report(office: Cordon) -> None:
    """As JSON too, with exit 1; nobody signs such a log."""
    report_id = report_of(office)
    tamper(office, "UPDATE reports SET sealed = x'00'")
    swapped = office("audit", "verify", "--json")
    assert (swapped.code, swapped.document["whole"]) == (1, False)
    assert swapped.document["tampered_reports"] == [report_id]
    entry = sealed_by(office)
    what = "its sealed file is not the one that was recorded"
    assert swapped.document["discrepancies"] == [{"report": report_id, "entry": entry, "what": what}]
    assert f"report {report_id} (entry {entry}): {what}" in office("audit", "verify").err
    tamper(office, "UPDATE audit SET subject = 'x' WHERE seq = 3")
    found = office("audit", "verify", "--json")
    assert (found.code, "entry 3 was edited" in found.err) == (1, True)
    assert (found.document["first"], found.document["last"]) == (3, 3)
    # Held against what remains of the log, which can be believed no more.
    assert found.document["discrepancies"] == [{"report": report_id, "entry": entry, "what": what}]
    assert found.document["reports_not_vouched"] == [report_id]
    assert "of which entries from 3 on tell of 1: that these agree proves nothing" in found.err
    refused = office("audit", "checkpoint", *ADA)
    assert (refused.code, "Nothing was signed" in refused.err) == (1, True)
    assert "audit_broken" in office("report", "alarms").out.decode()


def test_garbage_is_named_and_the_rest_is_read_on(office: Cordon) -> None:
    """An entry so deep that no reader of JSON gets to its end, and times that are none; exit 1."""
    report_id = report_of(office)
    tamper(office, "UPDATE reports SET created_at = 'never', sealed = x'00'")
    found = office("audit", "verify", "--json")
    assert (found.code, found.document["tampered_reports"]) == (1, [report_id])
    assert (found.document["what"], len(found.document["discrepancies"])) == (None, 2)
    deep = "[" * 20_000
    tamper(office, f"UPDATE audit SET details = '{deep}', at = x'ff' WHERE seq = 2")  # noqa: S608
    deeper = office("audit", "verify", "--json")
    assert (deeper.code, deeper.document["first"], deeper.document["last"]) == (1, 2, 2)
    assert deeper.document["discrepancies"] == found.document["discrepancies"]
    assert "Traceback" not in found.err + deeper.err


def sealed_by(office: Cordon) -> int:
    """The number of the entry of its report's seal."""
    with sqlite3.connect(office.home / "state" / "cordon.db") as database:
        (seq,) = database.execute("SELECT seq FROM audit WHERE event = 'report.sealed'").fetchone()
    database.close()
    return int(seq)


def test_a_report_that_vanished_is_named_with_the_entry_of_its_seal(office: Cordon) -> None:
    """Also where somebody wrote a tombstone for it; one that was removed as it should be is none."""
    report_id, entry = report_of(office), sealed_by(office)
    a_tombstone = (
        "INSERT INTO tombstones (id, bank_kind, state, created_at, removed_at) "  # noqa: S608 - an id
        f"VALUES ('{report_id}', 'csam', 'rejected', '2026-01-01 00:00:00', '2026-01-01 00:00:00')"
    )
    for statement in ("DELETE FROM reports", a_tombstone):
        tamper(office, statement)
        gone = office("audit", "verify", "--json")
        assert (gone.code, gone.document["whole"]) == (1, False)
        (found,) = gone.document["discrepancies"]
        assert (found["report"], found["entry"]) == (report_id, entry)
        assert "gone" in found["what"]


def test_a_report_that_was_destroyed_is_missed_by_nobody_until_it_is_put_back(office: Cordon) -> None:
    """From a backup, with its decisions or without."""
    report_id = report_of(office)
    tamper(office, "CREATE TABLE kept AS SELECT * FROM reports")
    ordered = office("report", "destroy", report_id, *ADA, "--reason", "order 12", "--yes")
    assert ordered.code == 0, ordered.err
    assert office("audit", "verify").code == 0
    tamper(office, "INSERT INTO reports SELECT * FROM kept")
    back = office("audit", "verify", "--json")
    assert (back.code, back.document["tampered_reports"]) == (1, [report_id])
    assert "it was removed, and is there" in back.err


def test_who_comes_back_with_another_signing_key_leaves_what_they_signed_before_provable(
    office: Cordon,
) -> None:
    """Both keys are in the file; the first decides no more, the second does."""
    report_id = report_of(office)
    assert office("report", "reject", report_id, *ADA, "--reason", "an advertisement", "--yes").code == 0
    assert office("custodian", "remove", "ada").code == 0
    ada = read_identity(office.home / "ada.key")
    anew = replace(ada, signing_seed=generate().signing_seed)
    write_identity(anew, office.home / "anew.key")
    added = office(
        *("custodian", "add", "ada", ada.public_key, "--signing-key", str(anew.signing_public_key)),
    )
    assert added.code == 0, added.err
    verified = office("audit", "verify")
    assert verified.code == 0, verified.err
    assert office("report", "open", report_id, *ADA).code == 0
    note = ("report", "annotate", report_id, "--note", "n", "--identity")
    assert (office(*note, "ada.key").code, office(*note, "anew.key").code) == (1, 0)
    # And once more, back to the first.
    assert office("custodian", "remove", "ada").code == 0
    public = str(ada.signing_public_key)
    assert office("custodian", "add", "ada", ada.public_key, "--signing-key", public).code == 0
    verified = office("audit", "verify")
    assert verified.code == 0, verified.err
    pinned = (office.home / "state" / "custodians").read_text()
    assert (pinned.count("[former."), pinned.count("until")) == (1, 1)


def test_what_is_no_checkpoint_or_of_a_stranger_is_refused(office: Cordon) -> None:
    """Exit 2 for a file, 2 for a key; one that was tampered with is none."""
    write_identity(generate(), office.home / "eve.key")
    assert office("audit", "checkpoint", "--identity", "eve.key").code == 2
    signed = office("audit", "checkpoint", *ADA).out
    for content in (b"", b"nothing\n", signed.replace(b"seq", b"sea"), signed[:-20]):
        (office.home / "kept").write_bytes(content)
        assert office("audit", "verify", "--checkpoint", "kept").code == 2
    (office.home / "kept").write_bytes(b"\n" + signed)
    assert office("audit", "verify", "--checkpoint", "kept").code == 0
