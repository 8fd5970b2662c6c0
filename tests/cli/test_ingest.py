"""``cordon ingest`` in this process: on lists alone, and on a gate's state."""

import json
import os
import pty
import select
import signal
import stat
import subprocess
import time

import pytest

from app.cli.ingest import Tally
from app.cli.outcomes import Outcome, failure
from app.cli.sources import Kind, Source
from tests.cli.conftest import BANKED, EDITED, HARMLESS, Cordon, pictures
from tests.gates import CORDON, signals_of
from tests.worlds import MediaHost

ANSWER = {"id", "verdict", "disposition", "reason", "media", "signals", "matches", "report", "source"}


@pytest.fixture
def listed(cordon: Cordon) -> Cordon:
    """The command beside pictures and ``list.csv``, which lists BANKED; and no state."""
    pictures(cordon.home)
    lines = [f"{signal['type']},{signal['value']}" for signal in signals_of(BANKED)]
    (cordon.home / "list.csv").write_text("\n".join(["type,value", *lines]))
    return cordon


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (("clear", "clear"), 0),
        (("clear", "undecidable"), 4),
        (("undecidable", "failed"), 1),
        (("failed", "match", "undecidable"), 3),
    ],
)
def test_the_exit_code_tells_the_worst(verdicts: tuple[str, ...], code: int) -> None:
    """A match before a failure before what is undecidable; each code comes from a real run below, too."""
    tally = Tally(as_json=True, hide=False)
    for line, verdict in enumerate(verdicts, 1):
        source = Source(line, "https://a.example/", Kind.URL)
        if verdict == "failed":
            tally.tell(failure(source, "fetch_failed", "The host did not deliver the medium."))
        else:
            tally.tell(Outcome(source, answer={"verdict": verdict}))
    assert tally.exit_code == code


def test_a_source_that_does_not_exist_is_exit_2_before_anything(listed: Cordon) -> None:
    """Nothing is told of the sources that are there."""
    ran = listed("ingest", "--bank", "list.csv", "harmless.jpg", "missing.jpg", "--json")
    assert (ran.code, ran.out) == (2, b"")
    assert "missing.jpg" in ran.err


def test_json_is_the_answer_of_the_api_and_the_source(listed: Cordon) -> None:
    """One object a line, in order of finishing; a failure is a problem as the API tells it."""
    ran = listed("ingest", "--bank", "list.csv", ".", "http://127.0.0.1:1/x.jpg", "--json")
    told = {document["source"]: document for document in ran.documents}
    assert set(told["harmless.jpg"]) == ANSWER
    assert told["harmless.jpg"]["disposition"] == "dropped"
    assert told["harmless.jpg"]["signals"]["sha256"] == signals_of(HARMLESS)[0]["value"]
    assert told["words.jpg"]["reason"] == "unsupported_format"
    assert told["flat.png"]["reason"] == "low_quality"
    for name in ("banked.png", "edited.jpg"):
        assert (told[name]["verdict"], told[name]["signals"], told[name]["report"]) == ("match", None, None)
        assert told[name]["matches"] == [{"bank": "list"}]
        assert told[name]["on_disk"] is True
        assert f"still there: {name}" in ran.err
    failed = told["http://127.0.0.1:1/x.jpg"]
    assert set(failed) == {"source", "problem"}
    assert failed["problem"]["code"] == "fetch_failed"
    assert (listed.home / "banked.png").read_bytes() == BANKED


def test_lists_need_no_state_and_no_writable_directory(listed: Cordon) -> None:
    """What a CI suite has."""
    there = sorted(listed.home.iterdir())
    listed.home.chmod(0o500)
    try:
        ran = listed("ingest", "--bank", "list.csv", "harmless.jpg", given={"CORDON_STATE_DIR": "state"})
    finally:
        listed.home.chmod(0o700)
    assert ran.code == 0
    assert sorted(listed.home.iterdir()) == there


def test_matches_can_be_told_without_their_source(listed: Cordon) -> None:
    """Neither stdout nor stderr names it; what is clear is named still."""
    rows = ["source,client_ref", "harmless.jpg,row-1", "edited.jpg,row-2"]
    (listed.home / "sources.csv").write_text("\n".join(rows))
    arguments = ("ingest", "--bank", "list.csv", "--from", "sources.csv", "--format", "csv")
    ran = listed(*arguments, "--hide-matched-sources", "--json")
    by_verdict = {document["verdict"]: document for document in ran.documents}
    assert by_verdict["match"]["source"] == {"line": 3, "client_ref": "row-2"}
    assert by_verdict["clear"]["source"] == "harmless.jpg"
    assert "of line 3" in ran.err
    assert "edited" not in ran.err


def test_standard_input_is_a_medium_or_a_list(listed: Cordon) -> None:
    """'-' as a source is one medium; --from - is a list."""
    medium = listed("ingest", "--bank", "list.csv", "-", "--json", stdin=EDITED)
    assert (medium.code, medium.document["source"]) == (3, "-")
    assert "on_disk" not in medium.document
    names = listed("ingest", "--bank", "list.csv", "--from", "-", stdin=b"harmless.jpg\nflat.png\n")
    assert (names.code, len(names.out.splitlines())) == (4, 2)


def test_a_list_of_hashes_can_come_through_a_pipe(listed: Cordon) -> None:
    """As a shell's process substitution gives it: readable once only."""
    os.mkfifo(listed.home / "pipe")
    script = "cat list.csv > pipe & cat edited.jpg | cordon ingest --bank pipe - --json; exit $?"
    ran = subprocess.run(
        ["bash", "-c", script.replace("cordon", str(CORDON), 1)],
        cwd=listed.home,
        env=listed.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 3
    assert json.loads(ran.stdout)["verdict"] == "match"


@pytest.mark.parametrize(
    ("text", "told"),
    [("nonsense\n", "line 1: "), ("ab" * 32, "--type"), ("", "no signals")],
    ids=["bad", "ambiguous", "empty"],
)
def test_a_bad_list_of_hashes_is_exit_2(listed: Cordon, text: str, told: str) -> None:
    """A run against half a list would call media clear that are not."""
    (listed.home / "bad").write_text(text)
    ran = listed("ingest", "--bank", "list.csv", "--bank", "bad", "harmless.jpg")
    assert (ran.code, ran.out) == (2, b"")
    assert told in ran.err


def test_what_is_clear_is_saved_and_nothing_else(listed: Cordon, host: MediaHost) -> None:
    """New files of mode 0600 in a directory of its own; the very bytes; told where."""
    sources = ("harmless.jpg", host.url("/harmless.jpg"), "edited.jpg", "flat.png", "words.jpg")
    ran = listed("ingest", "--bank", "list.csv", *sources, "--save", "clean", "--json")
    assert ran.code == 3
    saved = sorted(path.name for path in (listed.home / "clean").iterdir())
    assert saved == ["harmless-2.jpg", "harmless.jpg"]
    assert stat.S_IMODE((listed.home / "clean").stat().st_mode) == 0o700
    for path in (listed.home / "clean").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == HARMLESS
    clear = [document for document in ran.documents if document["verdict"] == "clear"]
    assert {document["saved"] for document in clear} == {f"clean/{name}" for name in saved}
    assert {document["disposition"] for document in clear} == {"released"}


def test_a_full_disk_is_a_failure_that_says_so(listed: Cordon) -> None:
    """The medium is clear, but whoever asked does not have it."""
    (listed.home / "clean").mkdir(mode=0o500)
    if os.access(listed.home / "clean", os.W_OK):
        # Root may write anywhere, but not to a file system that is read-only.
        (listed.home / "clean").rmdir()
        (listed.home / "clean").symlink_to("/proc/sys")
    ran = listed("ingest", "--bank", "list.csv", "harmless.jpg", "--save", "clean", "--json")
    assert ran.code == 1
    assert ran.document["problem"]["code"] == "not_saved"


def test_a_gate_that_is_not_ready_takes_nothing_in(cordon: Cordon) -> None:
    """No bank, no custodian: exit 1, and told why."""
    pictures(cordon.home)
    ran = cordon("ingest", "harmless.jpg", "--json")
    assert (ran.code, ran.out) == (1, b"")
    assert "not ready" in ran.err


def test_a_match_on_the_gates_state_leaves_a_sealed_report(site: Cordon) -> None:
    """It tells the custodian which file it was; the database does not tell anybody."""
    ran = site("ingest", "edited.jpg", "--json")
    assert ran.code == 3
    report = ran.document["report"]
    assert report["state"] == "queued"
    assert ran.document["matches"] == []
    opened = site("report", "open", report["id"], "--identity", "ada.key", "--json").document
    assert opened["context"] == {"client_ref": str(site.home / "edited.jpg")}
    assert opened["submitted_by"] == {"entrance": "cli", "key_id": None}
    stored = b"".join(path.read_bytes() for path in (site.home / "state").glob("cordon.db*"))
    assert b"edited.jpg" not in stored


def test_a_terminal_gets_a_closing_table_and_a_pipe_its_results(listed: Cordon) -> None:
    """The bar and the table are on stderr; stdout is JSON alone."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [CORDON, "ingest", "--bank", "list.csv", ".", "--json"],
        cwd=listed.home,
        env=listed.environment | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:
            break
        shown += some
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 3
    assert len([json.loads(line) for line in out.splitlines()]) == 6
    assert b"6 sources in" in shown
    assert b"unsupported_format" in shown


def test_an_interrupt_is_exit_130_at_once(listed: Cordon) -> None:
    """Even while a pipe that never ends is waited for."""
    process = subprocess.Popen(
        # A shell's background job, as these tests may be part of, ignores interrupts, and so would this.
        ["env", "--default-signal=INT", CORDON, "ingest", "--bank", "list.csv", "harmless.jpg", "-"],
        cwd=listed.home,
        env=listed.environment | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    # The first result says that both are being worked on.
    readable, _, _ = select.select([process.stdout], [], [], 60)
    assert readable
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 20
    assert out.startswith(b"clear")
    assert b"Traceback" not in err


def test_a_reader_that_leaves_ends_the_run_quietly(listed: Cordon) -> None:
    """As ``head`` does."""
    script = f"{CORDON} ingest --bank list.csv . . . . | head -n 1"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=listed.home,
        env=listed.environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert len(ran.stdout.splitlines()) == 1
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr
