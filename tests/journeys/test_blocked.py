"""A match that nobody has to report is on the record before it is answered; what is only observed is not."""

import asyncio
import json
import resource
from pathlib import Path

import httpx
from sqlalchemy import select

from app.settings import StoreSettings
from app.store.database import Database
from app.store.schema import audit as table
from tests.chain import verify_chain
from tests.gates import fill_bank, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED, HARMLESS

PICTURE = {"Content-Type": "image/jpeg"}
FULL_BYTES = 600 * 1024
"""Enough for a medium's memory file; the database's log of writes soon needs more."""


async def recorded(store: StoreSettings) -> list[tuple[str, dict[str, object]]]:
    """Ingest and details of each match on the record, whose chain is whole."""
    database = Database.open(store)
    try:
        async with database.connect() as connection:
            assert await verify_chain(connection) is None
            found = await connection.execute(
                select(table.c.subject, table.c.details).where(table.c.event == "match.blocked")
            )
            return [(subject, json.loads(details)) for subject, details in found]
    finally:
        await database.close()


def test_a_blocked_match_is_recorded_by_ids_alone(store: StoreSettings) -> None:
    """Which ingest, which key, which banks; what is observed is counted, and leaves nothing else."""
    prepared = asyncio.run(prepare(store))
    with running_gate(prepared) as gate:
        fill_bank(gate, "unwanted", BANKED, kind="other", action="block")
        fill_bank(gate, "watched", HARMLESS, kind="other", action="observe")
        answers = [
            gate.client().post("/v1/ingest", content=each, headers=PICTURE).json()
            for each in (BANKED, HARMLESS)
        ]
        assert [each["verdict"] for each in answers] == ["match", "clear"]
        ((subject, details),) = asyncio.run(recorded(store))
        assert subject == answers[0]["id"]
        assert details["banks"] == ["unwanted"]
        assert set(details) == {"banks", "by"}
        metrics = httpx.get(f"{gate.url}/metrics", trust_env=False).text.splitlines()
        assert {"cordon_matches_unreported_total 1.0", "cordon_matches_observed_total 1.0"} <= set(metrics)


def test_what_cannot_be_recorded_is_not_answered_as_a_match_and_not_released(tmp_path: Path) -> None:
    """A full disk: 503, and once there is room, the match is a match again."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    with running_gate(prepared) as gate:
        fill_bank(gate, "unwanted", BANKED, kind="other", action="block")

        def outcome() -> str:
            told = gate.client().post("/v1/ingest", content=BANKED, headers=PICTURE).json()
            return str(told.get("verdict") or told["code"])

        _, most = resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, most))
        wait_for(lambda: outcome() == "report_not_stored", 30)
        resource.prlimit(gate.process.pid, resource.RLIMIT_FSIZE, (most, most))
        before = len(asyncio.run(recorded(prepared.store)))
        assert outcome() == "match"
        assert len(asyncio.run(recorded(prepared.store))) == before + 1
