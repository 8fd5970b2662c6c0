"""A key that searches for an edit that slips by: slowed, and told of wherever operators look."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
from sqlalchemy import select

from app.api.probing import SLOWED_SECONDS
from app.settings import StoreSettings
from app.store import keys
from app.store.database import Database
from app.store.schema import audit
from demo.pictures import encoded, scene
from tests.gates import Prepared, RunningGate, fill_bank, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED

DRAWN = scene(7)
PICTURE = {"Content-Type": "image/jpeg"}


async def prepare_with_guarded_key(store: StoreSettings) -> tuple[Prepared, str]:
    """A database to start on, with a token ``guarded``, and the id of its key."""
    prepared = await prepare(store)
    database = Database.open(store)
    try:
        async with database.begin() as connection:
            key, token = await keys.create(connection, name="crawler", scopes=frozenset({keys.Scope.INGEST}))
    finally:
        await database.close()
    return replace(prepared, tokens={**prepared.tokens, "guarded": token}), key.id


async def audited(store: StoreSettings) -> list[str]:
    """The subjects of the audit log's entries on probing."""
    database = Database.open(store)
    try:
        async with database.connect() as connection:
            rows = await connection.execute(
                select(audit.c.subject).where(audit.c.event == "key.probing_suspected")
            )
            return list(rows.scalars())
    finally:
        await database.close()


def verdicts(client: httpx.Client, qualities: range) -> list[str]:
    """What comes of one picture in many files, none of them the one that is banked.

    Of every other file only the status is asked for, which a quick look may be enough for.
    """
    return [
        client.post(
            "/v1/ingest" if quality % 2 else "/v1/ingest?answer=status",
            content=encoded(DRAWN, "JPEG", quality=quality),
            headers=PICTURE,
        ).headers["cordon-verdict"]
        for quality in qualities
    ]


def in_status(gate: RunningGate) -> list[str]:
    told: list[str] = gate.client("ops").get("/v1/status").json()["probing"]
    return told


def test_whoever_edits_a_match_until_it_slips_by_is_slowed_and_reported(store: StoreSettings) -> None:
    """Log, metric, status and audit log name the key; a key without the guard may do the same."""
    prepared, key_id = asyncio.run(prepare_with_guarded_key(store))
    with running_gate(prepared) as gate:
        fill_bank(gate, "exact", BANKED, kind="other", action="block")
        exact = {"kind": "other", "action": "block", "thresholds": {"pdq": 0}}
        gate.client("bank").put("/v1/banks/exact", json=exact).raise_for_status()
        unguarded, client = gate.client(), gate.client("guarded")
        assert unguarded.post("/v1/ingest", content=BANKED, headers=PICTURE).json()["verdict"] == "match"
        wait_for(lambda: verdicts(unguarded, range(29, 30)) == ["clear"])
        verdicts(unguarded, range(30, 43))
        assert in_status(gate) == []
        assert client.post("/v1/ingest", content=BANKED, headers=PICTURE).json()["verdict"] == "match"
        verdicts(client, range(30, 43))
        assert in_status(gate) == [key_id]

        began = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            told = list(pool.map(lambda quality: verdicts(client, range(quality, quality + 1)), (70, 75, 80)))
        assert [len(each) for each in told] == [1, 1, 1]
        assert time.monotonic() - began >= 3 * SLOWED_SECONDS - 0.1
        metrics = gate.public("/metrics").text
        assert "\ncordon_probing_suspected_total 1.0\n" in metrics
        assert key_id not in metrics
        logged = [json.loads(line) for line in gate.log.read_text().splitlines()]
        assert [line["key_id"] for line in logged if line["event"] == "probing_suspected"] == [key_id]
    assert asyncio.run(audited(store)) == [key_id]
