"""``cordon doctor`` tells every control, and ``--end-to-end`` proves that a match is caught."""

import contextlib
import sqlite3

from tests.cli.conftest import Cordon
from tests.gates import RunningGate


def test_every_control_is_told_without_making_any_state(cordon: Cordon) -> None:
    """Exit 0 exactly if all required ones are in force; the decoders are tried out."""
    ran = cordon("doctor", "--json")
    told = {document["control"]: document for document in ran.documents}
    assert all(set(each) == {"control", "required", "in_force", "detail"} for each in told.values())
    assert told["hashing_self_test"]["in_force"] is True
    assert told["database"]["in_force"] is False
    missing = [each for each in told.values() if each["required"] and not each["in_force"]]
    assert ran.code == (1 if missing else 0)
    assert not (cordon.home / "state").exists()


def test_the_state_of_a_gate_is_told(site: Cordon) -> None:
    """Database, banks, custodians; for people as one line each."""
    ran = site("doctor")
    lines = {line.split()[1]: line.split()[0] for line in ran.out.decode().splitlines()}
    assert (lines["database"], lines["banks"], lines["custodians"]) == ("ok", "ok", "ok")


def test_a_database_that_answers_and_takes_no_write_is_told(own: Cordon) -> None:
    """As where a process was stopped in the middle of its own write, which keeps all others waiting."""

    def told() -> dict[str, object]:
        return next(each for each in own("doctor", "--json").documents if each["control"] == "database")

    assert told()["in_force"] is True
    with contextlib.closing(sqlite3.connect(own.home / "state" / "cordon.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert told()["in_force"] is False
        assert "another process has it locked" in str(told()["detail"])
    assert told()["in_force"] is True


def test_alarms_that_stand_are_told(own: Cordon) -> None:
    """Who looks for what is wrong looks here first."""
    assert "ok      alarms" in own("doctor").out.decode()
    with contextlib.closing(sqlite3.connect(own.home / "state" / "cordon.db", isolation_level=None)) as other:
        other.execute(
            "INSERT INTO alarms (kind, subject, raised_at) "
            "VALUES ('worker_blocked', 'memory', '2026-11-27 12:00:00.000000')"
        )
    told = own("doctor").out.decode()
    assert "no      alarms" in told
    assert "not ended: 1; 'cordon report alarms' has what to do about them" in told


def test_a_bank_with_nothing_in_force_is_told_unless_it_only_suppresses(own: Cordon) -> None:
    """As gates see it: they take nothing in for the one, and go on without the other."""
    value = "0123456789abcdef"
    own("bank", "create", "harmless", "--kind", "other", "--action", "suppress")
    own("bank", "create", "spam", "--kind", "other", "--action", "block")

    def banks() -> tuple[bool, str]:
        (told,) = [each for each in own("doctor", "--json").documents if each["control"] == "banks"]
        return told["in_force"], told["detail"]

    for name in ("harmless", "spam"):
        assert own("bank", "import", name, "-", stdin=value.encode()).code == 0
    assert own("bank", "remove", "harmless", "-", stdin=value.encode()).code == 0
    assert banks() == (True, "3 of 3 banks that decide had their first import")
    (entry,) = own("bank", "entry", "list", "spam", "--json").documents
    assert own("bank", "entry", "disable", str(entry["id"]), "--why", "a logo").code == 0
    assert banks() == (False, "bank spam was emptied, so gates take nothing in; fill it, or delete it")


def test_a_gate_is_tried_from_end_to_end(cordon: Cordon, gate: RunningGate) -> None:
    """The test picture matches, and its reports join one another."""
    token = gate.prepared.tokens["ingest"]
    for _ in range(2):
        ran = cordon("doctor", "--end-to-end", "--server", gate.url, "--token", token, "--json")
        (end_to_end,) = [each for each in ran.documents if each["control"] == "end_to_end"]
        assert end_to_end["in_force"] is True
    reports = gate.client("report").get("/v1/reports").json()["reports"]
    assert len([report for report in reports if report["bank_kind"] == "test"]) == 1


def test_a_gate_that_does_not_match_is_exit_1(cordon: Cordon, gate: RunningGate) -> None:
    """Told why: a wrong token, or nobody there."""
    for server, token, why in (
        (gate.url, "wrong", "unauthenticated"),
        ("http://127.0.0.1:1", "x", "server_unreachable"),
    ):
        ran = cordon("doctor", "--end-to-end", "--server", server, "--token", token, "--json")
        assert ran.code == 1
        (end_to_end,) = [each for each in ran.documents if each["control"] == "end_to_end"]
        assert why in end_to_end["detail"]
    assert cordon("doctor", "--end-to-end").code == 2
