"""A custodian with a hardware key, played by a plugin's program: added, opens, decides and seals anew."""

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import age_plugin
from tests.age_plugin import Oddity, Plugin
from tests.cli.conftest import Cordon
from tests.gates import CORDON, wait_for
from tests.worlds import MediaHost


@pytest.fixture
def pia(own: Cordon) -> Plugin:
    """Pia's plugin; her identity is in ``hardware.txt``."""
    plugin = age_plugin.install(own.home / "bin", "pia")
    plugin.write_identity(own.home / "hardware.txt")
    return plugin


@pytest.fixture
def given(own: Cordon, pia: Plugin) -> Mapping[str, str]:
    """An environment with the plugin's program in PATH."""
    return {"PATH": f"{pia.program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_a_custodian_opens_and_decides_with_a_plugin(
    own: Cordon, pia: Plugin, given: Mapping[str, str]
) -> None:
    """Her file holds the plugin's identity and a signing key; what was sealed before her, ada seals anew."""
    assert own("ingest", "edited.jpg").code == 3
    (report,) = own("report", "list", "--json").documents
    made = own("custodian", "keygen", "--out", "pia.key", "--plugin", "hardware.txt")
    assert (made.code, made.out.decode().strip()) == (0, pia.recipient)
    signing_key = made.err.split("--signing-key ")[1].split()[0]
    added = own("custodian", "add", "pia", pia.recipient, "--signing-key", signing_key, given=given)
    assert added.code == 0, added.err
    closed = own("report", "open", report["id"], "--identity", "pia.key", given=given)
    assert (closed.code, closed.out) == (2, b"")
    anew = own("report", "reseal", "--identity", "ada.key", given=given)
    assert "sealed anew: 1 reports" in anew.err
    opened = own("report", "open", report["id"], "--identity", "pia.key", "--json", given=given)
    assert opened.document["report_id"] == report["id"]
    decided = own(
        *("report", "reject", report["id"], "--identity", "pia.key", "--reason", "a logo", "--yes"),
        given=given,
    )
    assert decided.code == 0, decided.err
    assert own("report", "list", "--json").document["state"] == "rejected"
    shown = own("report", "open", report["id"], "--identity", "pia.key", given=given)
    assert b"a logo" in shown.out
    again = own("report", "reseal", "--identity", "pia.key", given=given)
    assert "sealed anew: 0 reports" in again.err
    assert own("audit", "verify").code == 0


@pytest.mark.parametrize(
    ("oddity", "told"),
    [(None, "age-plugin-pia must be in PATH"), (Oddity.CRASHES, "age-plugin-pia did not seal")],
)
def test_a_custodian_who_cannot_be_sealed_to_is_not_added(
    own: Cordon, pia: Plugin, given: Mapping[str, str], oddity: Oddity | None, told: str
) -> None:
    """Else the gate would take nothing in from then on."""
    if oddity is None:
        pia.program.unlink()
    else:
        pia.become(oddity)
    pinned = (own.home / "state" / "custodians").read_bytes()
    refused = own("custodian", "add", "pia", pia.recipient, given=given)
    assert refused.code == 1
    assert told in refused.err
    assert (own.home / "state" / "custodians").read_bytes() == pinned
    assert "pia" not in own("custodian", "list").out.decode()


def test_what_is_sealed_on_a_machine_without_the_program_is_told_and_not_done(
    own: Cordon, pia: Plugin, given: Mapping[str, str]
) -> None:
    """A match is not stored for the others alone, nor a decision; doctor says what is missing, for whom."""
    assert own("ingest", "edited.jpg").code == 3
    (report,) = own("report", "list", "--json").documents
    assert own("custodian", "add", "pia", pia.recipient, given=given).code == 0
    found = {each["control"]: each for each in own("doctor", "--json", given=given).documents}
    assert found["custodian_plugins_found"]["in_force"]
    lacking = {each["control"]: each for each in own("doctor", "--json").documents}["custodian_plugins_found"]
    assert not lacking["in_force"]
    assert "age-plugin-pia (for pia)" in lacking["detail"]
    refused = own("ingest", "edited.jpg")
    assert (refused.code, refused.out.count(b"match")) == (1, 0)
    decided = own("report", "reject", report["id"], "--identity", "ada.key", "--reason", "a logo", "--yes")
    assert decided.code == 1
    assert "age-plugin-pia must be in PATH" in decided.err
    assert own("report", "list", "--json").documents == [report]


def test_keygen_takes_no_identity_that_is_not_a_plugins(own: Cordon, tmp_path: Path) -> None:
    made = own("custodian", "keygen", "--out", "new.key", "--plugin", "ada.key")
    assert made.code == 2
    assert "no identity of an age plugin" in made.err
    assert not (own.home / "new.key").exists()


def test_the_worker_is_pinned_with_no_key_of_a_plugin(own: Cordon, pia: Plugin) -> None:
    pinned = (own.home / "state" / "custodians").read_bytes()
    key = own("custodian", "list", "--json").documents[0]["signing_key"]
    refused = own("custodian", "pin", "--worker", pia.recipient, "--worker-signing-key", key, "--yes")
    assert refused.code == 2
    assert "nobody is there" in refused.err
    assert (own.home / "state" / "custodians").read_bytes() == pinned


def test_a_report_that_is_seen_again_while_it_is_sealed_anew_is_sealed_with_all_that_joined_it(
    own: Cordon, pia: Plugin, given: Mapping[str, str], host: MediaHost
) -> None:
    """One that goes meanwhile is no error.

    Pia's key has to be touched to open the first; meanwhile it is seen again, and another is destroyed.
    """
    made = own("custodian", "keygen", "--out", "pia.key", "--plugin", "hardware.txt")
    signing = ("--signing-key", made.err.split("--signing-key ")[1].split()[0])
    assert own("custodian", "add", "pia", pia.recipient, *signing, given=given).code == 0
    seen, goes = (_ingested(own, host, path, given) for path in ("/edited.jpg", "/banked.png"))
    made = own("custodian", "keygen", "--out", "joan.key")
    assert own("custodian", "add", "joan", made.out.decode().strip(), given=given).code == 0
    pia.become(Oddity.WAITS)
    resealing = subprocess.Popen(
        [CORDON, "report", "reseal", "--identity", "pia.key"],
        cwd=own.home, env={**own.environment, **given}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(pia.program.with_suffix(".started").exists)
        # A program that runs already has read its file.
        pia.become(Oddity.NONE)
        assert _ingested(own, host, "/edited.jpg", given) == seen
        order = ("report", "destroy", goes, "--identity", "ada.key", "--reason", "order 12", "--yes")
        assert own(*order, given=given).code == 0
        pia.program.with_suffix(".go").touch()
        _, told = resealing.communicate(timeout=60)
    finally:
        resealing.kill()
        resealing.wait()
    assert (resealing.returncode, "sealed anew: 1 reports" in told) == (0, True), told
    opened = own("report", "open", seen, "--identity", "joan.key", "--json")
    assert len(opened.documents) == 2, opened.err
    assert [each["id"] for each in own("report", "list", "--json").documents] == [seen]
    assert own("audit", "verify").code == 0


def test_a_report_that_cannot_be_sealed_anew_keeps_no_other_from_being(
    own: Cordon, pia: Plugin, given: Mapping[str, str], host: MediaHost
) -> None:
    """It is named, and the command fails."""
    changed, whole = (_ingested(own, host, path) for path in ("/edited.jpg", "/banked.png"))
    assert own("custodian", "add", "pia", pia.recipient, given=given).code == 0
    own("custodian", "keygen", "--out", "pia.key", "--plugin", "hardware.txt")
    with contextlib.closing(sqlite3.connect(own.home / "state" / "cordon.db")) as database, database:
        database.execute("UPDATE reports SET sealed = x'00' WHERE id = ?", (changed,))
    ran = own("report", "reseal", "--identity", "ada.key", given=given)
    assert (ran.code, f"not sealed anew: {changed}" in ran.err) == (1, True)
    assert "sealed anew: 1 reports" in ran.err
    assert own("report", "open", whole, "--identity", "pia.key", "--json", given=given).code == 0


def _ingested(own: Cordon, host: MediaHost, path: str, given: Mapping[str, str] | None = None) -> str:
    """The id of the report of a match that was fetched."""
    report: dict[str, str] = own("ingest", host.url(path), "--json", given=given).document["report"]
    return report["id"]
