"""``cordon ingest --server``: the same answers, from a gate that runs elsewhere."""

import asyncio
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import EDITED, HARMLESS, Cordon, pictures
from tests.gates import CORDON, RunningGate
from tests.worlds import Asked, MediaHost


@pytest.fixture
def client(cordon: Cordon, gate: RunningGate) -> Cordon:
    """The command beside pictures and a file with an ingest token; with no settings of a gate."""
    pictures(cordon.home)
    (cordon.home / "token").write_text(gate.prepared.tokens["ingest"] + "\n")
    return cordon


def to(gate: RunningGate) -> tuple[str, ...]:
    """The options that name the server and its token."""
    return ("--server", gate.url, "--token-file", "token")


def test_files_and_urls_get_the_servers_verdict(client: Cordon, gate: RunningGate, host: MediaHost) -> None:
    """One object a source; a file that matched is still on the disk of this machine."""
    sources = ("harmless.jpg", "edited.jpg", "words.jpg", host.url("/edited.jpg"), "http://169.254.169.254/")
    ran = client("ingest", *to(gate), *sources, "--json")
    assert ran.code == 3
    told = {document["source"]: document for document in ran.documents}
    assert told["harmless.jpg"]["verdict"] == "clear"
    assert (told["edited.jpg"]["verdict"], told["edited.jpg"]["on_disk"]) == ("match", True)
    assert told["words.jpg"]["verdict"] == "undecidable"
    assert told[host.url("/edited.jpg")]["verdict"] == "match"
    assert "on_disk" not in told[host.url("/edited.jpg")]
    assert told["http://169.254.169.254/"]["problem"]["code"] == "url_refused"
    assert not (client.home / "state").exists()


def test_a_context_goes_along_with_a_file(client: Cordon, gate: RunningGate, tmp_path: Path) -> None:
    """And is in the sealed report."""
    rows = ["source,platform,account_id", "edited.jpg,example,account-4711"]
    (client.home / "list.csv").write_text("\n".join(rows))
    ran = client("ingest", *to(gate), "--from", "list.csv", "--format", "csv", "--json")
    assert ran.code == 3
    identity = tmp_path / "ada.key"
    identity.write_text(gate.prepared.identity)
    identity.chmod(0o600)
    state = {"CORDON_STATE_DIR": str(gate.prepared.store.state_dir)}
    opened = client(
        "report", "open", ran.document["report"]["id"], "--identity", identity, "--json", given=state
    ).document
    assert opened["context"] == {"platform": "example", "account_id": "account-4711"}


def test_many_urls_go_in_batches_and_each_has_its_answer(
    client: Cordon, gate: RunningGate, host: MediaHost
) -> None:
    """Told by the line of the list, whatever order the server finishes them in."""
    lines = []
    for number in range(30):
        path = {0: "/missing.png", 1: "/edited.jpg"}.get(number, "/harmless.jpg")
        lines.append({"url": host.url(f"{path}?{number}"), "context": {"client_ref": f"row-{number}"}})
    (client.home / "urls.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    arguments = ("--from", "urls.jsonl", "--format", "jsonl", "--hide-matched-sources", "--json")
    ran = client("ingest", *to(gate), *arguments)
    assert ran.code == 3
    assert len(ran.documents) == 30
    (match,) = [each for each in ran.documents if each.get("verdict") == "match"]
    assert match["source"] == {"line": 2, "client_ref": "row-1"}
    (failed,) = [each for each in ran.documents if "problem" in each]
    assert (failed["source"], failed["problem"]["code"]) == (lines[0]["url"], "fetch_failed")
    clear = {each["source"] for each in ran.documents if each.get("verdict") == "clear"}
    assert clear == {line["url"] for line in lines[2:]}


def test_what_is_clear_is_saved(client: Cordon, gate: RunningGate, host: MediaHost) -> None:
    """URLs as the gate hands them on, files as copies; with the whole answer of the gate for both."""
    sources = (host.url("/harmless.jpg"), host.url("/edited.jpg"), "harmless.jpg", "edited.jpg", "flat.png")
    ran = client("ingest", *to(gate), *sources, "--save", "clean", "--json")
    assert ran.code == 3
    told = {document["source"]: document for document in ran.documents}
    assert {each["verdict"] for each in told.values()} == {"clear", "match", "undecidable"}
    saved = sorted((client.home / "clean").iterdir())
    assert [path.name for path in saved] == ["harmless-2.jpg", "harmless.jpg"]
    assert all(path.read_bytes() == HARMLESS for path in saved)
    assert {stat.S_IMODE(path.stat().st_mode) for path in saved} == {0o600}
    fetched, copied = told[host.url("/harmless.jpg")], told["harmless.jpg"]
    assert fetched["signals"] == copied["signals"]
    assert fetched["media"] == copied["media"]
    assert fetched["disposition"] == "released"


def test_standard_input_is_sent_as_it_comes(client: Cordon, gate: RunningGate) -> None:
    """From a pipe, whose length nobody knows."""
    ran = subprocess.run(
        [CORDON, "ingest", *to(gate), "-", "--json"],
        input=EDITED,
        capture_output=True,
        cwd=client.home,
        env=client.environment,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 3
    assert json.loads(ran.stdout)["verdict"] == "match"


def test_the_token_can_stand_in_the_environment(client: Cordon, gate: RunningGate) -> None:
    """It is no setting of a gate, so no other command stumbles over it."""
    token = {"CORDON_TOKEN": gate.prepared.tokens["ingest"]}
    assert client("ingest", "--server", gate.url, "harmless.jpg", given=token).code == 0
    assert client("key", "list", given=token).code == 0


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((), 2, "needs a token"),
        (("--token", "cordon_wrong"), 1, "unauthenticated"),
        (("--token", "two words"), 2, "no token has"),
        (("--token-file", "missing"), 2, "missing"),
    ],
)
def test_a_token_that_is_none_is_told(
    client: Cordon, gate: RunningGate, options: tuple[str, ...], code: int, told: str
) -> None:
    """Bad usage where it can be seen here, a failure where the server says so."""
    ran = client("ingest", "--server", gate.url, *options, "harmless.jpg")
    assert ran.code == code
    assert told in ran.err + ran.out.decode()


def test_a_server_that_is_not_there_fails_each_source(client: Cordon) -> None:
    """Exit 1, as for any source that failed."""
    ran = client("ingest", "--server", "http://127.0.0.1:1", "--token", "x", "harmless.jpg", "--json")
    assert ran.code == 1
    assert ran.document["problem"]["code"] == "server_unreachable"


@pytest.mark.parametrize("server", ["ftp://gate.example", "gate.example", "http://me:secret@gate.example"])
def test_a_server_is_named_by_its_base_url(client: Cordon, server: str) -> None:
    """A password in it would be sent to nobody, and seen by everybody."""
    ran = client("ingest", "--server", server, "--token", "x", "harmless.jpg")
    assert (ran.code, "secret" in ran.err) == (2, False)


def test_a_file_above_the_limit_is_told_as_such(client: Cordon, gate: RunningGate) -> None:
    """The server stops reading at its limit; its answer may be lost with the connection."""
    with (client.home / "large.bin").open("wb") as file:
        os.truncate(file.fileno(), 1200 * 1024 * 1024)
    ran = client("ingest", *to(gate), "large.bin", "--json")
    assert ran.code == 1
    problem = ran.document["problem"]
    assert problem["code"] == "too_large" or "larger than it accepts" in problem["detail"]


@pytest.mark.parametrize(
    "answer",
    [{"verdict": "clear"}, {"verdict": "fine", "id": "x"}, {"detail": "no code"}, ["clear"]],
    ids=str,
)
def test_what_no_gate_says_is_never_clear(client: Cordon, answer: object) -> None:
    """An answer of another shape is a failure, whatever verdict it tells."""
    refused_as_empty = b'{"code": "invalid_request", "detail": "x"}'
    bodies = iter([(422, refused_as_empty), (200, json.dumps(answer).encode())])

    async def respond(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status, body = next(bodies)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    (client.home / "url").write_text("https://a.example/1.jpg\n")
    with MediaHost({}) as impostor:
        impostor.script("/v1/ingest", respond)
        server = impostor.url("/").rstrip("/")
        ran = client("ingest", "--server", server, "--token", "x", "--from", "url", "--json")
    assert ran.code == 1
    assert ran.document["problem"]["code"] == "server_unreachable"
