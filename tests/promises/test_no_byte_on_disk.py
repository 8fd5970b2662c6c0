"""Promise 1: media that a clear verdict did not release are never written to a file. Promises 5 and 6 too.

Real gates, workers and commands run under strace while marked media come in by every door, in sizes around
every threshold, to every end. Then everything that was written or told is searched.
"""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import select

from app.cli.ingest import MATCHED
from app.settings import StoreSettings
from app.store.database import Database
from app.store.schema import reports
from tests.conftest import run_on_postgres
from tests.gates import RunningGate, prepare, wait_for
from tests.promises import leaky
from tests.promises.canaries import KIB, MIB, Canaries, Gallery, Medium, Secrets, media_canaries
from tests.promises.doors import DOORS, Caller, Site, began_upload
from tests.promises.proof import SHARED_PLACES, Expected, Run, Seen, columns, search, there
from tests.promises.tracing import Trace
from tests.promises.watched import (
    LIMIT,
    NSCD,
    decoders_of,
    expected_of,
    fill,
    held,
    stored,
    surfaces_of,
    watched_command,
    watched_gate,
)
from tests.test_nginx import Proxy, nginx_program, running_nginx
from tests.worlds import MediaHost, NameServer

SMALL = (64 * KIB, 500_000, MIB, MIB + 1)
LARGE = (8 * MIB, LIMIT, LIMIT + 1)
VERDICTS = ("match", "clear", "undecidable")
AT_ONCE = 3
FULL_BYTES = 600 * KIB
"""A file's most bytes on a full disk: memory files hold 500,000, and a busy database's log does not fit."""


@pytest.fixture
def gallery() -> Gallery:
    return Gallery()


@pytest.fixture
def site() -> Iterator[Site]:
    with MediaHost() as host, NameServer({}) as names:
        site = Site(host, names, Secrets())
        site.name_hosts()
        yield site


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Where a gate has its state, its log and its working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def media_of(gallery: Gallery, sizes: Iterable[int]) -> list[Medium]:
    """Media of these sizes, each to every verdict; above the limit there is none."""
    made = [make(size) for size in sizes for make in (gallery.match, gallery.clear, gallery.undecidable)]
    return [
        medium if len(medium.content) <= LIMIT else replace(medium, expected="too_large") for medium in made
    ]


def hand_in(caller: Caller, work: list[tuple[Callable[[Caller, Medium], str], Medium]]) -> None:
    """Hand in each medium by its door, a few at once, and see that each comes to its end."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(lambda each: each[0](caller, each[1]), work))
    wrong = [
        (door.__name__, medium.name, outcome)
        for (door, medium), outcome in zip(work, outcomes, strict=True)
        if outcome != medium.expected
    ]
    assert wrong == []


def test_no_medium_reaches_a_file_by_any_door_or_to_any_end(work: Path, gallery: Gallery, site: Site) -> None:
    began, others = time.time(), there(SHARED_PLACES)
    small, large = media_of(gallery, SMALL), media_of(gallery, LARGE)
    tiny = gallery.undecidable(1)
    matches = [medium for medium in (*small, *large) if medium.expected == "match"]
    site.serve([tiny, *small, *large])
    site.misbehave(small[0].content)
    prepared = asyncio.run(prepare(StoreSettings(state_dir=work / "state")))
    trace, beside = Trace(work.parent / "gate"), Trace(work.parent / "worker")
    with (
        watched_gate(trace, prepared, site) as gate,
        watched_command(beside, prepared.store, site, "worker", log_level="debug") as worker,
        ThreadPoolExecutor() as meanwhile,
    ):
        fill(gate, gallery)
        caller = Caller(gate.client(), site)
        troubles = {name: meanwhile.submit(caller.ask_for, name) for name in ("silent", "stalled", "broken")}
        # Large media are many bytes: each size goes by every door, to one end at each.
        dealt = [
            (door, medium)
            for number, door in enumerate(DOORS)
            for medium in (tiny, *small, *(large[3 * place + (number + place) % 3] for place in range(3)))
        ]
        hand_in(caller, dealt)
        batch = [tiny, *small, *large[:4]]
        assert caller.batch(batch) == {medium.name: medium.expected for medium in batch}
        leave_before_the_last_byte(gate, matches[-2:])
        leave_after_the_last_byte(gate, matches[0])
        slow = gallery.slow()
        assert reason_of(caller, slow) == "decode_timeout"
        lose_the_decoders(gate, caller, slow)
        fill_the_disk(gate, caller, matches[1])
        told = {name: trouble.result() for name, trouble in troubles.items()}
        assert told == {"silent": "fetch_timeout", "stalled": "fetch_timeout", "broken": "fetch_failed"}
        canaries = all_canaries(gallery, site, matches, prepared.tokens.values())
        surfaces = surfaces_of(gate) | {"columns": asyncio.run(columns(prepared.store))}
        _, findings = search(
            Run((), expected_of(prepared.store, site), began, surfaces, (work, *SHARED_PLACES), others),
            canaries,
        )
        assert findings == [], "while it ran"
        stop_in_the_middle(gate, caller, slow, large[0], signal.SIGTERM)
        worker.send_signal(signal.SIGTERM)
        _, worker_log = worker.communicate(timeout=30)
    expected = expected_of(prepared.store, site)
    seen, findings = search(
        Run(trace.calls(), expected, began, {"log": gate.log.read_bytes()}, (work,)), canaries
    )
    assert findings == []
    assert worker.returncode == 0
    # What the worker remembers of the audit log: numbers and digests.
    memory = re.escape(str(prepared.store.state_dir)) + r"/(worker\.key\.seen|\.worker\.key\.seen\.partial)"
    expected = expected_of(prepared.store, site, files=(memory,))
    watched, findings = search(Run(beside.calls(), expected, began, {"log": worker_log}), canaries)
    assert findings == []
    assert watched.writes > 0
    saw_everything(seen, len(dealt))
    assert any(seen.wrote(piece) for piece in asyncio.run(pieces_of_reports(prepared.store)))


def all_canaries(
    gallery: Gallery, site: Site, matches: Iterable[Medium], tokens: Iterable[str] = ()
) -> Canaries:
    """All that may stand nowhere: any part of any medium; words and hashes of those that match; tokens."""
    return media_canaries("a medium", gallery.marker) | site.secrets.canaries(matches, tokens)


def reason_of(caller: Caller, content: bytes) -> str | None:
    """Why a medium cannot be decided."""
    answer = caller.client.post("/v1/ingest", content=content, headers={"Content-Type": "image/*"})
    reason: str | None = answer.json()["reason"]
    return reason


def leave_before_the_last_byte(gate: RunningGate, media: Iterable[Medium]) -> None:
    """Callers who hang up: nothing stays in the quarantine."""
    for medium in media:
        for part in (1, 64 * KIB, MIB, len(medium.content) - 1):
            began_upload(gate, medium.content, part).close()
    wait_for(lambda: held(gate) == 0)


def leave_after_the_last_byte(gate: RunningGate, match: Medium) -> None:
    """A caller who hangs up too late."""
    before = stored(gate)
    began_upload(gate, match.content, len(match.content)).close()
    wait_for(lambda: stored(gate) == before + 1)


def lose_the_decoders(gate: RunningGate, caller: Caller, slow: bytes) -> None:
    """Decoders that are killed in the middle of a medium, whichever has it."""
    with ThreadPoolExecutor() as pool:
        reason = pool.submit(reason_of, caller, slow)
        wait_for(lambda: held(gate) == 1)
        while not reason.done():
            for process in decoders_of(gate):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            wait([reason], timeout=0.1)
        assert reason.result() == "decoder_failed"


def fill_the_disk(gate: RunningGate, caller: Caller, match: Medium) -> None:
    """No room for a report: the medium is dropped, and once there is room again, the next one is reported."""
    _, most = resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, most))
    wait_for(lambda: caller.raw(match) == "report_not_stored")
    resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, (most, most))
    assert caller.raw(match) == "match"


def stop_in_the_middle(
    gate: RunningGate, caller: Caller, slow: bytes, medium: Medium, number: signal.Signals
) -> None:
    """A signal while one medium is on its way in, one is being fetched and one is with a decoder."""

    def ask(work: Callable[[], object]) -> None:
        with contextlib.suppress(httpx.TransportError):
            work()

    with began_upload(gate, medium.content, MIB), ThreadPoolExecutor() as pool:
        pool.submit(ask, lambda: caller.ask_for("stalled"))
        wait_for(lambda: held(gate) == 2)
        pool.submit(ask, lambda: reason_of(caller, slow))
        wait_for(lambda: held(gate) == 3)
        gate.process.send_signal(number)
        gate.process.wait(timeout=60)


async def pieces_of_reports(store: StoreSettings) -> list[bytes]:
    """Parts of the sealed reports of an embedded database, none of which is like any other."""
    database = Database.open(store)
    try:
        async with database.connect() as connection:
            sealed = (await connection.execute(select(reports.c.sealed))).scalars().all()
    finally:
        await database.close()
    return [each[start : start + 32] for each in sealed for start in range(500, len(each) - 32, 32)]


def saw_everything(seen: Seen, media: int) -> None:
    """The absence of a finding means something: the trace shows what it must show."""
    assert seen.writes > media
    assert seen.memory_files >= media
    assert len(seen.processes) > 4
    assert any(b"app.hashing.decoder" in argument for program in seen.programs for argument in program)


WAYS = {
    "state": (),
    "list": ("--bank", "{sources}/list.csv"),
    "server": ("--server", "{url}", "--token-file", "{sources}/token"),
}
"""How a command takes media in: on a gate's state, on a list alone, on a server."""


def test_the_command_line_writes_what_is_clear_alone_and_a_killed_gate_nothing(
    work: Path, gallery: Gallery, site: Site
) -> None:
    began, others = time.time(), there(SHARED_PLACES)
    clear, files = Gallery(), Secrets()
    media = media_of(gallery, (64 * KIB, 500_000, MIB + 1, LIMIT, LIMIT + 1))
    media = [clear.clear(len(each.content)) if each.expected == "clear" else each for each in media]
    matches = [medium for medium in media if medium.expected == "match"]
    site.serve(media)
    site.misbehave(matches[0].content)
    sources = work.parent / "sources"
    sources.mkdir()
    fetched = [medium for medium in media if len(medium.content) <= MIB + 1]
    named = {"-": "match"} | {site.url(medium.name): medium.expected for medium in fetched}
    for medium in media:
        path = sources / f"{files['file-name']}-{medium.name}"
        path.write_bytes(medium.content)
        named[str(path)] = medium.expected
    prepared = asyncio.run(prepare(StoreSettings(state_dir=work / "state")))
    (sources / "token").write_text(prepared.tokens["ingest"])
    (sources / "list.csv").write_text(f"type,value\npdq,{gallery.entry}\n")
    traces = {name: Trace(work.parent / name) for name in ("gate", "killed", *WAYS)}
    with watched_gate(traces["gate"], prepared, site) as gate:
        fill(gate, gallery)
        for name, options in WAYS.items():
            given = [option.format(sources=sources, url=gate.url) for option in options]
            arguments = ("ingest", "--json", "--save", str(work / f"saved-{name}"), *given, *named)
            with watched_command(traces[name], prepared.store, site, *arguments) as command:
                out, complaint = command.communicate(matches[-1].content, timeout=120)
            assert command.returncode == MATCHED, complaint
            assert dict(map(told_of, out.splitlines())) == named
        with watched_command(traces["killed"], prepared.store, site, "ingest", "-") as command:
            assert command.stdin is not None
            command.stdin.write(matches[-1].content[:MIB])
            command.stdin.flush()
            command.kill()
        caller = Caller(gate.client(), site)
        stop_in_the_middle(gate, caller, gallery.slow(), matches[-1], signal.SIGKILL)

    canaries = all_canaries(gallery, site, matches, prepared.tokens.values())
    canaries |= media_canaries("what is clear", clear.marker)
    log = {"log": gate.log.read_bytes(), "columns": asyncio.run(columns(prepared.store))}
    kept = {work / f"saved-{name}": media_canaries("a medium", gallery.marker) for name in WAYS}
    gates = Run(
        traces["gate"].calls(), expected_of(prepared.store, site), began, log, (work, *SHARED_PLACES), others
    )
    seen, findings = search(gates, canaries | files.canaries([]), released=kept)
    assert findings == []
    saw_everything(seen, len(named))
    for name in ("killed", *WAYS):
        saved = work / f"saved-{name}"
        gate_address = rf"127\.0\.0\.1:{gate.port}"
        expected = expected_of(prepared.store, site, files=(rf"{saved}(/.*)?",), addresses=(gate_address,))
        seen, findings = search(Run(traces[name].calls(), expected, began), canaries, released=kept)
        assert findings == []
        if name in WAYS:
            saved_media = [path.read_bytes() for path in saved.iterdir()]
            assert len(saved_media) == list(named.values()).count("clear")
            assert all(seen.wrote(content) for content in saved_media)


def told_of(line: bytes) -> tuple[str, str]:
    """A source, and what came of it."""
    told = json.loads(line)
    return told["source"], told.get("verdict") or told["problem"]["code"]


def test_behind_nginx_and_on_postgresql_neither_they_nor_a_gate_that_aborts_write_a_medium(
    work: Path, gallery: Gallery, site: Site, postgres_url: str
) -> None:
    began, others = time.time(), there(SHARED_PLACES)
    media = media_of(gallery, (64 * KIB, MIB + 1, 8 * MIB))
    matches = [medium for medium in media if medium.expected == "match"]
    site.serve(media)
    site.misbehave(matches[0].content)
    name = f"promises_{uuid4().hex}"
    asyncio.run(run_on_postgres(postgres_url, f"CREATE DATABASE {name}"))
    database = postgres_url.replace("@/postgres?", f"@/{name}?")
    prepared = asyncio.run(prepare(StoreSettings(state_dir=work / "state", database_url=database)))
    folder = work.parent / "nginx"
    folder.mkdir()
    trace, before = Trace(work.parent / "gate"), Trace(work.parent / "proxy", undumpable=False)
    with watched_gate(trace, prepared, site, before=MAY_DUMP) as gate:
        fill(gate, gallery)
        with (
            running_nginx(folder, gate.port, wrapper=before.wrapper) as proxy,
            through(proxy, gate) as client,
        ):
            caller = Caller(client, site)
            hand_in(caller, [(door, medium) for door in DOORS for medium in media])
            assert caller.batch(media) == {medium.name: medium.expected for medium in media}
        before.wait()
        direct = Caller(gate.client(), site)
        lose_the_database(postgres_url, name, gate, direct, matches[0])
        surfaces = surfaces_of(gate) | {"columns": asyncio.run(columns(prepared.store))}
        stop_in_the_middle(gate, direct, gallery.slow(), matches[-1], signal.SIGABRT)
        assert gate.process.returncode == -signal.SIGABRT

    canaries = all_canaries(gallery, site, matches, prepared.tokens.values())
    cluster = Path(parse_qs(urlsplit(database).query)["host"][0])
    expected = expected_of(prepared.store, site, addresses=(rf"{cluster}/\.s\.PGSQL\.\d+",))
    surfaces["log"] = gate.log.read_bytes()
    seen, findings = search(
        Run(trace.calls(), expected, began, surfaces, (work, cluster, *SHARED_PLACES), others), canaries
    )
    assert findings == []
    saw_everything(seen, len(DOORS) * len(media))
    its_own = Expected(
        files=(rf"{folder}/(nginx\.pid|site\.log|stderr\.log|temp-\w+)",),
        addresses=(NSCD, rf"127\.0\.0\.1:{gate.port}"),
        programs=(re.escape(nginx_program()),),
    )
    seen, findings = search(Run(before.calls(), its_own, began, places=(folder,)), canaries)
    assert findings == []
    assert f"{folder}/nginx.pid" in seen.files
    assert seen.sent > len(DOORS) * len(media)


MAY_DUMP = ("sh", "-c", 'ulimit -c "$(ulimit -H -c)"; exec "$@"', "sh")
"""Runs a command that may leave core dumps, as far as it is up to its surroundings."""


@contextlib.contextmanager
def through(proxy: Proxy, gate: RunningGate) -> Iterator[httpx.Client]:
    """A client of a gate that knows only the proxy before it."""
    context = ssl.create_default_context()
    proxy.certificates.configure_trust(context)
    context.check_hostname = False
    token = gate.prepared.tokens["ingest"]
    with httpx.Client(
        base_url=f"https://127.0.0.1:{proxy.port}",
        headers={"Authorization": f"Bearer {token}", "Host": "cordon.example.org"},
        verify=context,
        timeout=60,
        trust_env=False,
    ) as client:
        yield client


def lose_the_database(server: str, name: str, gate: RunningGate, caller: Caller, match: Medium) -> None:
    """A database that goes away while a medium comes in: no report, and one when it is sent again."""
    with began_upload(gate, match.content, len(match.content) // 2) as upload:
        wait_for(lambda: held(gate) == 1)
        asyncio.run(
            run_on_postgres(
                server,
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",  # noqa: S608 - our own
            )
        )
        upload.sendall(match.content[len(match.content) // 2 :])
        assert b'"report_not_stored"' in http_answer(upload)
    asyncio.run(run_on_postgres(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    wait_for(lambda: caller.raw(match) == "match")


def http_answer(connection: socket.socket) -> bytes:
    """All that is answered on a connection until it is closed or silent."""
    connection.settimeout(30)
    received = b""
    while b"}" not in received and (more := connection.recv(64 * KIB)):
        received += more
    return received


def test_a_gate_that_leaks_in_whatever_way_is_found_out(work: Path, gallery: Gallery, site: Site) -> None:
    """The same search, and a gate that is patched from outside to do what must never be done."""
    began = time.time()
    media = media_of(gallery, (500_000,))
    site.serve(media)
    prepared = asyncio.run(prepare(StoreSettings(state_dir=work / "state")))
    leaks, trace = work.parent / "leaks", Trace(work.parent / "gate")
    leaks.mkdir()
    hook = (sys.executable, str(Path(leaky.__file__)), str(leaks))
    with watched_gate(trace, prepared, site, after=hook) as gate:
        fill(gate, gallery)
        caller = Caller(gate.client(), site)
        hand_in(caller, [(Caller.url, medium) for medium in media])
        surfaces = surfaces_of(gate) | {"columns": asyncio.run(columns(prepared.store))}
    canaries = all_canaries(gallery, site, media[:1])
    surfaces["log"] = gate.log.read_bytes()
    run = Run(trace.calls(), expected_of(prepared.store, site), began, surfaces, (work, leaks))
    _, findings = search(run, canaries)
    told = [f"{finding.where}: {finding.what}" for finding in findings]
    missed = [
        way for way, pattern in leaky.FOUND_AS.items() if not any(re.search(pattern, text) for text in told)
    ]
    assert missed == []
