"""Banks by command: made, filled, hashed into, emptied, deleted."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from app.cli import importing
from app.cli.console import FailedError
from app.matching.snapshot import building, prepare
from app.settings import StoreSettings
from app.store import alarms, processes
from app.store.database import Database, open_current
from tests.cli.conftest import BANKED, EDITED, FLAT, HARMLESS, WORDS, Cordon, pictures
from tests.cli.prefork import Forker
from tests.gates import RunningGate

MD5S = [f"{number:032x}" for number in range(1, 31)]


@pytest.fixture
def banked(cordon: Cordon) -> Cordon:
    """The command, on a state with one empty bank."""
    assert cordon("bank", "create", "known", "--kind", "csam", "--action", "report").code == 0
    return cordon


def held(cordon: Cordon, name: str = "known") -> dict[str, int]:
    """How many entries a bank holds, by type."""
    (found,) = [bank for bank in cordon("bank", "list", "--json").documents if bank["name"] == name]
    return {of: count for of, count in found["entries"].items() if count}


def test_policies_are_set_and_wrong_ones_refused(banked: Cordon) -> None:
    """Observe never for csam, block there only with a reason; a threshold in bits."""
    assert banked("bank", "set", "known", "--action", "observe").code == 2
    assert banked("bank", "set", "known", "--action", "block").code == 2
    reason = ("--no-report-reason", "reported by the platform itself")
    assert banked("bank", "set", "known", "--action", "block", *reason, "--threshold", "pdq=20").code == 0
    (bank,) = banked("bank", "list", "--json").documents
    assert (bank["action"], bank["thresholds"]) == ("block", {"pdq": 20, "phash": 6})
    assert banked("bank", "set", "known", "--threshold", "pdq=far").code == 2
    assert banked("bank", "set", "other", "--threshold", "pdq=20").code == 1
    assert banked("bank", "create", "known", "--kind", "csam", "--action", "report").code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("entry", "show", str(2**63)),
        ("entry", "disable", str(2**63), "--why", "a logo"),
        ("entry", "pair", "1", str(2**63)),
        ("entry", "list", "known", "--after", str(2**63)),
        ("history", "known", "--before", str(2**63)),
        ("set", "known", "--threshold", "pdq=" + "9" * 5000),
    ],
)
def test_a_number_that_nothing_can_have_is_bad_usage(banked: Cordon, arguments: tuple[str, ...]) -> None:
    """Named by its option or argument, and no failure inside."""
    refused = banked("bank", *arguments)
    assert (refused.code, refused.out) == (2, b"")
    assert "inside" not in refused.err


def test_tiers_and_a_least_quality_are_set_and_shown(banked: Cordon) -> None:
    """In JSON for each tier, in the table where it differs; what is not given stays."""
    made = banked(
        *("bank", "create", "leaks", "--kind", "ncii", "--action", "report"),
        *("--tier", "near=observe", "--minimum-quality", "70"),
    )
    assert made.code == 0, made.err
    assert banked("bank", "set", "leaks", "--tier", "strong=block").code == 0
    (bank,) = [each for each in banked("bank", "list", "--json").documents if each["name"] == "leaks"]
    assert (bank["tiers"], bank["minimum_quality"]) == ({"strong": "block", "near": "observe"}, 70)
    table = banked("bank", "list").out.decode()
    assert "report, strong block, near observe" in table
    assert "pdq 31, phash 6; quality 70" in table
    assert banked("bank", "set", "leaks", "--tier", "near=report").code == 2
    assert banked("bank", "set", "leaks", "--tier", "far=block").code == 2
    assert banked("bank", "set", "known", "--tier", "near=observe").code == 2
    assert banked("bank", "set", "leaks", "--minimum-quality", "0").code == 2


def test_a_suppression_bank_is_made_and_takes_no_md5(banked: Cordon) -> None:
    """Its thresholds are closer, and what can be forged is refused before anything is imported."""
    assert banked("bank", "create", "harmless", "--kind", "csam", "--action", "suppress").code == 2
    assert banked("bank", "create", "harmless", "--kind", "other", "--action", "suppress").code == 0
    (bank,) = [each for each in banked("bank", "list", "--json").documents if each["name"] == "harmless"]
    assert (bank["thresholds"], bank["tiers"]) == ({"pdq": 16, "phash": 2}, {})
    refused = banked("bank", "import", "harmless", "-", stdin=f"{MD5S[0]}\n".encode())
    assert refused.code == 2
    assert "two files of one value" in refused.err
    assert held(banked, "harmless") == {}


def test_what_came_of_a_list_is_told_to_programs_too(banked: Cordon) -> None:
    (banked.home / "list").write_text(f"{MD5S[0]}\n{MD5S[1]}\nnonsense\n{MD5S[0]}\n")
    imported = banked("bank", "import", "known", "list", "--skip-bad", "--json")
    assert imported.documents == [{"bank": "known", "added": 2, "known": 1, "left_out": 1}]
    removed = banked("bank", "remove", "known", "-", "--json", stdin=f"{MD5S[0]}\n{MD5S[2]}\n".encode())
    assert removed.documents == [{"bank": "known", "removed": 1, "kept": 0, "absent": 1}]


def test_lists_of_each_form_are_imported(banked: Cordon) -> None:
    """CSV, plain values, JSON lines from a pipe; what is there already is said to be."""
    (banked.home / "plain.txt").write_text("\n".join(["# thirty", "", *MD5S]))
    (banked.home / "list.csv").write_text(
        f"type,value,note\nmd5,{MD5S[0].upper()},again\nsha1,{'ab' * 20},\n"
    )
    plain = banked("bank", "import", "known", "plain.txt")
    assert (plain.code, plain.out) == (0, b"")
    assert "30 signals are new" in plain.err
    mixed = banked("bank", "import", "known", "list.csv")
    assert "1 signals are new in bank known; 1 it held already" in mixed.err
    line = json.dumps({"source": "x", "type": "phash", "value": "0123456789abcdef", "quality": None})
    assert banked("bank", "import", "known", "-", stdin=line.encode()).code == 0
    assert held(banked) == {"md5": 30, "sha1": 1, "phash": 1}


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        (f"{MD5S[0]}\nnonsense\n{MD5S[1]}\n", (), "line 2: "),
        (f"type,value\nmd5,{MD5S[0]}\nmd5,{'0' * 32}\n", (), "line 3: "),
        (f"{'ab' * 32}\n", (), "--type"),
        (
            "".join(f"{hashlib.sha256(bytes([n])).hexdigest()}\n" for n in range(9)),
            ("--type", "pdq"),
            "SHA-256",
        ),
        ("# nothing\n", (), "no signals"),
    ],
    ids=["bad line", "all zero", "ambiguous", "looks like SHA-256", "empty"],
)
def test_a_bad_list_is_exit_2_and_nothing_of_it_is_imported(
    banked: Cordon, text: str, options: tuple[str, ...], told: str
) -> None:
    """The line is named by its number, never by what it says."""
    (banked.home / "list").write_text(text)
    ran = banked("bank", "import", "known", "list", *options)
    assert (ran.code, ran.out) == (2, b"")
    assert told in ran.err
    assert "nothing was imported" in ran.err
    assert "nonsense" not in ran.err
    assert held(banked) == {}


def test_bad_lines_are_left_out_on_request(banked: Cordon) -> None:
    """The rest is imported, and what was left out is listed."""
    (banked.home / "list").write_text(f"{MD5S[0]}\nnonsense\n{MD5S[1]}\n")
    ran = banked("bank", "import", "known", "list", "--skip-bad")
    assert ran.code == 0
    assert "line 2: " in ran.err
    assert "left out: 1 bad line" in ran.err
    assert held(banked) == {"md5": 2}


def test_only_what_can_leave_lines_out_says_so(banked: Cordon) -> None:
    """Whoever is sent to an option that is not there mends nothing."""
    (banked.home / "list").write_text(f"{MD5S[0]}\nnonsense\n")
    for command in (["remove", "known"], ["entry", "find", "known"], ["dry-run", "known", "--list"]):
        ran = banked("bank", *command, "list")
        assert ran.code == 2
        assert ran.err.endswith("1 bad line; mend the list\n")
    assert "or use '--skip-bad'" in banked("bank", "import", "known", "list").err

    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9)]
    (banked.home / "list").write_text("\n".join(digests))
    alone = banked("ingest", "--bank", "list", "--type", "pdq", "list")
    assert (alone.code, "looks like SHA-256" in alone.err, "--force" in alone.err) == (2, True, False)
    assert "or '--force' if" in banked("bank", "import", "known", "list", "--type", "pdq").err


def test_the_note_of_a_line_goes_with_a_new_entry_alone(banked: Cordon) -> None:
    """What somebody here wrote of an entry stands, whatever the next list says."""
    for note in ("ours", "theirs"):
        line = f"type,value,note\nmd5,{MD5S[0]},{note}\n"
        assert banked("bank", "import", "known", "-", stdin=line.encode()).code == 0
    (entry,) = banked("bank", "entry", "list", "known", "--json").documents
    assert entry["note"] == "ours"


def test_sha256_values_are_taken_for_pdq_only_by_force(banked: Cordon) -> None:
    """Someone may know better than half of the bits."""
    values = "".join(f"{hashlib.sha256(bytes([n])).hexdigest()}\n" for n in range(9))
    ran = banked("bank", "import", "known", "-", "--type", "pdq", "--force", stdin=values.encode())
    assert ran.code == 0
    assert held(banked) == {"pdq": 9}


def test_signals_are_removed_and_banks_deleted(banked: Cordon) -> None:
    """What was not there is no error; a bank that is not there is."""
    banked("bank", "import", "known", "-", stdin="\n".join(MD5S).encode())
    removed = banked("bank", "remove", "known", "-", stdin=f"{MD5S[0]}\n{'ab' * 16}\n".encode())
    assert removed.code == 0
    assert "1 signals are removed from bank known; 1 were not in it" in removed.err
    assert held(banked) == {"md5": 29}
    assert banked("bank", "delete", "known").code == 0
    assert banked("bank", "delete", "known").code == 1
    assert banked("bank", "list", "--json").out == b""


def test_a_source_withdraws_only_what_no_other_stands_by(banked: Cordon) -> None:
    """An empty name is a mistake, and not a removal outright."""
    both, one = "\n".join(MD5S[:2]).encode(), MD5S[0].encode()
    unnamed = banked("bank", "import", "known", "-", "--source", " ", stdin=both)
    assert (unnamed.code, held(banked)) == (2, {})
    assert "--source is empty" in unnamed.err
    banked("bank", "import", "known", "-", "--source", "hotline", stdin=both)
    banked("bank", "import", "known", "-", "--source", "police", stdin=one)
    refused = banked("bank", "remove", "known", "-", "--source", "", stdin=both)
    assert refused.code == 2
    assert "--source is empty" in refused.err
    assert held(banked) == {"md5": 2}
    withdrawn = banked("bank", "remove", "known", "-", "--source", "hotline", stdin=both)
    assert "1 signals are removed from bank known; 1 stay, as another source stands by them" in withdrawn.err
    assert held(banked) == {"md5": 1}
    assert banked("bank", "remove", "known", "-", stdin=both).code == 0
    assert held(banked) == {}


def test_a_bank_whose_last_entry_is_disabled_is_shown_as_emptied(banked: Cordon) -> None:
    """Gates refuse to decide then, and here it stands why."""
    assert banked("bank", "import", "known", "-", stdin=MD5S[0].encode()).code == 0
    (found,) = banked("bank", "entry", "list", "known", "--json").documents
    assert "emptied" not in banked("bank", "list").out.decode()
    assert banked("bank", "entry", "disable", str(found["id"]), "--why", "a logo").code == 0
    assert "1 md5; emptied: all disabled" in banked("bank", "list").out.decode()


def test_a_large_list_is_imported_whole_and_removed_in_parts(banked: Cordon) -> None:
    """More than one transaction holds, and still all of it is there at once.

    A removal lets reports in between: none waits until all of it is done.
    """
    values = "\n".join(f"{number:040x}" for number in range(1, 30_002))
    ran = banked("bank", "import", "known", "-", stdin=values.encode())
    assert ran.code == 0, ran.err
    assert held(banked) == {"sha1": 30_001}
    some = "\n".join(values.splitlines()[:20_001] + MD5S[:2])
    ran = banked("bank", "remove", "known", "-", stdin=some.encode())
    assert ran.code == 0, ran.err
    assert "20001 signals are removed from bank known; 2 were not in it" in ran.err
    assert held(banked) == {"sha1": 10_000}
    told = banked("bank", "history", "known", "--json").documents
    removals = [each["entries"] for each in told if each["what"] == "signals_removed"]
    assert sum(removals) == 20_001
    assert max(removals) <= 10_000


def test_a_list_without_pdq_is_not_tried(banked: Cordon) -> None:
    """Else it would be said to match nothing."""
    tried = banked("bank", "dry-run", "known", "--list", "-", stdin=MD5S[0].encode())
    assert (tried.code, tried.out) == (2, b"")
    assert "no PDQ values" in tried.err


def test_files_are_hashed_without_any_state(cordon: Cordon) -> None:
    """One line a type, in one order; a pdq of low quality is left out with a warning."""
    pictures(cordon.home)
    ran = cordon("bank", "hash", "banked.png", "flat.png", "--json")
    assert ran.code == 0
    of_banked = [line for line in ran.documents if line["source"] == "banked.png"]
    assert [line["type"] for line in of_banked] == ["md5", "sha1", "sha256", "pdq", "phash"]
    assert all(set(line) == {"source", "type", "value", "quality"} for line in of_banked)
    assert [line["value"] for line in of_banked][2] == hashlib.sha256(BANKED).hexdigest()
    assert [line["quality"] for line in of_banked] == [None, None, None, 100, None]
    of_flat = [line["type"] for line in ran.documents if line["source"] == "flat.png"]
    assert of_flat == ["md5", "sha1", "sha256", "phash"]
    assert "flat.png: no pdq" in ran.err
    assert not (cordon.home / "state").exists()


def test_what_cannot_be_decoded_has_its_digests(cordon: Cordon) -> None:
    """With a warning; exit 1 only if nothing at all could be told."""
    (cordon.home / "words.jpg").write_bytes(WORDS)
    ran = cordon("bank", "hash", "words.jpg", "--json")
    assert [line["type"] for line in ran.documents] == ["md5", "sha1", "sha256"]
    assert (ran.code, "unsupported_format" in ran.err) == (0, True)
    only = cordon("bank", "hash", "words.jpg", "--type", "pdq", "--json")
    assert (only.code, only.out) == (1, b"")


def test_every_frame_is_hashed_on_request(cordon: Cordon, animation: bytes) -> None:
    """Each frame that differs once; without it, the first alone."""
    first = cordon("bank", "hash", "-", "--type", "pdq", "--json", stdin=animation).documents
    every = cordon("bank", "hash", "-", "--type", "pdq", "--all-frames", "--json", stdin=animation).documents
    assert len(first) == 1
    assert [line["frame"] for line in every] == [0, 1]
    assert every[0]["value"] == first[0]["value"]


def test_hashes_for_people_are_a_table(cordon: Cordon) -> None:
    """Aligned columns under a heading."""
    (cordon.home / "edited.jpg").write_bytes(EDITED)
    ran = cordon("bank", "hash", "edited.jpg")
    lines = ran.out.decode().splitlines()
    assert lines[0].split() == ["type", "value", "quality", "source"]
    assert [line.split()[0] for line in lines[1:]] == ["md5", "sha1", "sha256", "pdq", "phash"]


def test_a_hash_of_nothing_there_is_exit_2(cordon: Cordon) -> None:
    """Before anything is hashed; a URL is no file."""
    (cordon.home / "flat.png").write_bytes(FLAT)
    for missing in ("missing.png", "https://pictures.example/a.jpg"):
        ran = cordon("bank", "hash", "flat.png", missing, "--json")
        assert (ran.code, ran.out) == (2, b"")


def test_an_import_waits_until_a_running_gate_has_it_in_force(gate: RunningGate, forker: Forker) -> None:
    """When the command ends, the next request matches."""
    home = gate.prepared.store.state_dir.parent
    cordon = Cordon(home, forker)
    assert cordon("bank", "create", "late", "--kind", "other", "--action", "block").code == 0
    digest = hashlib.md5(HARMLESS, usedforsecurity=False).hexdigest()

    def verdict() -> str:
        answer = gate.client().post("/v1/ingest", content=HARMLESS, headers={"Content-Type": "image/jpeg"})
        return str(answer.json()["verdict"])

    assert verdict() == "clear"
    assert cordon("bank", "import", "late", "-", stdin=digest.encode()).code == 0
    assert verdict() == "match"
    assert cordon("bank", "delete", "late").code == 0


def test_an_import_that_is_not_in_force_in_time_names_who_is_waited_for(cordon: Cordon) -> None:
    """And which has the right to build the index: if that one hangs, the others wait for nothing."""
    assert cordon("bank", "create", "late", "--kind", "other", "--action", "block").code == 0

    async def register() -> str:
        database = Database.open(StoreSettings(state_dir=cordon.home / "state"))
        try:
            async with database.begin() as connection:
                await alarms.raise_alarm(connection, alarms.AlarmKind.INDEX_NOT_BUILT, "banks")
            return await processes.register(database, processes.GATE)
        finally:
            await database.close()

    gate = asyncio.run(register())
    snapshots = cordon.home / "state" / "snapshots"
    prepare(snapshots)
    with building(snapshots):
        ran = cordon("bank", "import", "late", "-", "--wait", "0", stdin=b"9e107d9d372bb6826bd81d3542a419d6")
    assert ran.code == 1
    assert f"in 1 running process within 0 s (serve {gate})" in ran.err
    assert f"process {os.getpid()} since" in ran.err
    assert "the worker cannot build the index" in ran.err


async def test_whoever_waits_hears_each_minute_that_the_index_cannot_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk they would wait ten minutes before they hear what keeps them waiting."""
    monkeypatch.setenv("CORDON_STATE_DIR", str(tmp_path / "state"))
    for each in ("_SAID_AFTER_SECONDS", "_SAID_AGAIN_SECONDS"):
        monkeypatch.setattr(importing, each, 0)
    monkeypatch.setattr(importing, "SMALL_CHANGE_SECONDS", 1)
    monkeypatch.setattr("app.banks.importing._LOOK_AGAIN_SECONDS", 0.01)
    async with open_current(StoreSettings(state_dir=tmp_path / "state")) as database:
        async with database.begin() as connection:
            await alarms.raise_alarm(connection, alarms.AlarmKind.INDEX_NOT_BUILT, "banks")
        gate = await processes.register(database, processes.GATE)
        with pytest.raises(FailedError):
            await importing.wait_for_small_change(database, 7)
    waiting = [line for line in capsys.readouterr().err.splitlines() if "waiting for" in line]
    assert f"serve {gate}; the worker cannot build the index" in waiting[1]
