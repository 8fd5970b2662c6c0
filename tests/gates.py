"""A real gate for tests: the ``cordon serve`` process on a socket, with custodians, keys and a bank.

with running_gate(await prepare(store_settings)) as gate:
    gate.client("ingest").post("/v1/ingest", content=picture)
"""

import contextlib
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pdqhash
from PIL import Image

from app.custody.identity import Identity, generate
from app.settings import StoreSettings
from app.store import custodians, keys
from app.store.database import Database

CORDON = Path(sys.executable).with_name("cordon")
START_SECONDS = 120
"""Longer than a start takes on the busiest machine; only what never happens takes as long."""


@dataclass(frozen=True)
class Prepared:
    """A database that a gate can start on.

    Attributes:
        tokens: a token for each scope, and ``all`` for one with every scope.
        identity: the first custodian's secret key, as ``age`` writes it.
        custodians: the identities of ada and grace, who sign too.
    """

    store: StoreSettings
    tokens: Mapping[str, str]
    identity: str
    custodians: tuple[Identity, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class RunningGate:
    """A ``cordon serve`` process and how to reach it."""

    url: str
    process: subprocess.Popen[bytes]
    prepared: Prepared
    log: Path
    _clients: dict[str, httpx.Client] = field(default_factory=dict)

    def client(self, scope: str = "ingest") -> httpx.Client:
        """The client that carries the token of a scope; closed with the gate."""
        if scope not in self._clients:
            self._clients[scope] = self.new_client(scope)
        return self._clients[scope]

    def close(self) -> None:
        """Close all connections of these clients."""
        for client in self._clients.values():
            client.close()

    def new_client(self, scope: str = "ingest") -> httpx.Client:
        """A client of its own, for its user to close."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.prepared.tokens[scope]}"},
            timeout=60,
            trust_env=False,
        )

    def public(self, path: str) -> httpx.Response:
        """What it tells whoever has no token, asked on a connection of its own."""
        return httpx.get(f"{self.url}{path}", timeout=60, trust_env=False)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rsplit(":", 1)[1])


async def prepare(
    store: StoreSettings, profile: str = "default", *, rate_per_second: int = keys.DEFAULT_RATE_PER_SECOND
) -> Prepared:
    """Migrate a database; make two custodians and a key for each scope.

    The keys are without the probe guard: test pictures are alike.
    """
    identities = (generate(), generate())
    tokens = {}
    database = Database.open(store)
    try:
        await database.migrate_if_empty()
        async with database.begin() as connection:
            for name, identity in zip(("ada", "grace"), identities, strict=True):
                await custodians.add(
                    connection,
                    name=name,
                    untrusted_public_key=identity.public_key,
                    untrusted_signing_key=identity.signing_public_key,
                )
            for scopes in (*((scope,) for scope in keys.Scope), tuple(keys.Scope)):
                name = scopes[0].value if len(scopes) == 1 else "all"
                _, tokens[name] = await keys.create(
                    connection,
                    name=name,
                    scopes=frozenset(scopes),
                    profile=profile,
                    rate_per_second=rate_per_second,
                    probe_guard=False,
                )
    finally:
        await database.close()
    return Prepared(store, tokens, identities[0].secret_keys[0], identities)


async def make_key(gate: RunningGate, *, rate_per_second: int = 50, concurrency: int = 32) -> str:
    """A token of an ingest key with its own limits."""
    return await _make_key(
        gate, scopes=frozenset({keys.Scope.INGEST}), rate_per_second=rate_per_second, concurrency=concurrency
    )


async def make_unlimited_key(gate: RunningGate) -> str:
    """A token with every scope and no limit that a test would reach."""
    return await _make_key(
        gate, scopes=frozenset(keys.Scope), rate_per_second=100_000, concurrency=1000, probe_guard=False
    )


async def _make_key(gate: RunningGate, **given: Any) -> str:
    database = Database.open(gate.prepared.store)
    try:
        async with database.begin() as connection:
            _, token = await keys.create(connection, name="limited", **given)
            return token
    finally:
        await database.close()


def fill_bank(
    gate: RunningGate, name: str, *pictures: bytes, kind: str = "csam", action: str = "report"
) -> None:
    """Make a bank over HTTP, put the pictures' PDQ and SHA-256 in it, and wait until it is in force."""
    bank = gate.client("bank")
    bank.put(f"/v1/banks/{name}", json={"kind": kind, "action": action}).raise_for_status()
    signals = [signal for picture in pictures for signal in signals_of(picture)]
    bank.post(f"/v1/banks/{name}/signals", json={"signals": signals}).raise_for_status()

    def in_force() -> bool:
        status = gate.client("ops").get("/v1/status").json()
        counting = [bank["name"] for bank in status["banks"]["banks"] if bank["counts"]]
        return status["ready"] and name in counting

    wait_for(in_force)


def signals_of(picture: bytes) -> list[dict[str, str]]:
    """A picture's SHA-256 and PDQ, by the reference implementation."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    bits, _ = pdqhash.compute(pixels)
    return [
        {"type": "sha256", "value": hashlib.sha256(picture).hexdigest()},
        {"type": "pdq", "value": np.packbits(bits).tobytes().hex()},
    ]


def environment(store: StoreSettings, **settings: str) -> dict[str, str]:
    """A child's environment: this machine's, a gate's settings, and no other gate's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDON_")}
    # A start compiles nothing that an earlier one compiled.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    given = {"STATE_DIR": str(store.state_dir), **settings}
    if store.database_url:
        given["DATABASE_URL"] = store.database_url
    return kept | {f"CORDON_{name.upper()}": value for name, value in given.items()}


@contextlib.contextmanager
def running_gate(
    prepared: Prepared, *, wait_until_ready: bool = False, wrapper: tuple[str, ...] = (), **settings: str
) -> Iterator[RunningGate]:
    """Start a gate on a free port of 127.0.0.1, and end it with SIGTERM.

    Args:
        prepared: what ``prepare`` made.
        wait_until_ready: wait for ``/readyz`` too, not only for the socket.
        wrapper: a command to run the gate under, like ``strace``.
        settings: ``NAME="value"`` without the prefix.
    """
    work = prepared.store.state_dir.parent
    work.mkdir(parents=True, exist_ok=True)
    number = len(list(work.glob("ready-*")))
    ready, log = work / f"ready-{number}", work / f"log-{number}"
    defaults = {"fetch_allow": "127.0.0.0/8", "fetch_ports": "*", "decoders": "1", "log_level": "debug"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*wrapper, str(CORDON), "serve", "--port", "0", "--ready-file", str(ready)],
            env=environment(prepared.store, **(defaults | settings)),
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        gate = RunningGate(ready.read_text().strip(), process, prepared, log)
        if wait_until_ready:
            wait_for(lambda: gate.public("/readyz").status_code == httpx.codes.OK)
        with contextlib.closing(gate):
            yield gate
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=45)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def wait_for(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait until a condition holds; as long as it may take on the busiest machine, if not told otherwise.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            message = "what was waited for did not happen"
            raise TimeoutError(message)
        time.sleep(0.02)


def seconds_until(condition: Callable[[], bool], *, after: Callable[[], object]) -> float:
    """How long after something was done a condition holds.

    Raises:
        TimeoutError: it never does.
    """
    after()
    began = time.monotonic()
    wait_for(condition)
    return time.monotonic() - began


def one_in_three(quick: Callable[[], bool]) -> bool:
    """Whether what is promised within some seconds was, once in three times: other tests run too."""
    return any(quick() for _ in range(3))
