"""kill -9 at random moments under load: every answered match has its stub, and no sighting has two."""

import asyncio
import json
import os
import random
import threading
from collections import Counter
from itertools import count

import httpx
import pyrage

from app.store.database import Database
from app.store.reports import reports, sealed
from tests.chain import verify_chain
from tests.gates import Prepared, RunningGate, fill_bank, running_gate, wait_for
from tests.journeys.conftest import BANKED, EDITED, HARMLESS
from tests.pins import pins_of

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))
CLIENTS = 4


class Load:
    """Clients that hand in the same medium, each time at a place of its own, until the gate dies."""

    def __init__(self, numbers: "count[int]") -> None:
        self._numbers = numbers
        self.sent: list[str] = []
        self.answered: dict[str, str] = {}
        self.wrong: list[str] = []

    def run(self, gate: RunningGate) -> None:
        """Hand in until the connection breaks."""
        with gate.new_client() as client:
            while True:
                post = str(next(self._numbers))
                self.sent.append(post)
                try:
                    answer = client.post(
                        "/v1/ingest",
                        files={
                            "media": EDITED if int(post) % 4 else HARMLESS,
                            "context": (None, json.dumps({"platform": "p", "post_id": post})),
                        },
                    )
                except httpx.TransportError:
                    return
                verdict = answer.json().get("verdict")
                if verdict != ("match" if int(post) % 4 else "clear"):
                    self.wrong.append(answer.text)
                elif verdict == "match":
                    self.answered[post] = answer.json()["report"]["id"]


def test_a_kill_at_any_moment_loses_no_report_and_doubles_none(prepared: Prepared) -> None:
    """After each kill the next gate starts on what the last one left."""
    chance, numbers, loads = random.Random(20261122), count(), []
    for turn in range(ROUNDS):
        with running_gate(prepared, wait_until_ready=turn > 0) as gate:
            if turn == 0:
                fill_bank(gate, "mock-list", BANKED)
            load = Load(numbers)
            loads.append(load)
            clients = [threading.Thread(target=load.run, args=(gate,)) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            enough = chance.randrange(1, 25)
            wait_for(lambda: len(load.answered) >= enough)  # noqa: B023 - called within this turn
            threading.Event().wait(chance.uniform(0, 0.05))
            gate.process.kill()
            for client in clients:
                client.join()
    assert [wrong for load in loads for wrong in load.wrong] == []
    answered = {post: report for load in loads for post, report in load.answered.items()}
    stubs = asyncio.run(stored_stubs(prepared))
    places = Counter(stub["context"]["post_id"] for stub in stubs)
    assert max(places.values()) == 1
    assert {(stub["context"]["post_id"], stub["report_id"]) for stub in stubs} >= set(answered.items())
    assert set(places) <= {post for load in loads for post in load.sent if int(post) % 4}


async def stored_stubs(prepared: Prepared) -> list[dict[str, dict[str, str]]]:
    """Every stored stub, opened, after checking it against an audit log that must be whole."""
    identity = pyrage.x25519.Identity.from_str(prepared.identity)
    database = Database.open(prepared.store)
    pins = pins_of(prepared.store).read()
    try:
        async with database.connect() as connection:
            assert await verify_chain(connection) is None
            stubs = []
            for report in (await reports.list_reports(connection, limit=reports.MAX_LISTED)).reports:
                for file in (await sealed.authentic(connection, report.id, pins)).values():
                    stubs.append(json.loads(pyrage.decrypt(file, [identity])))  # noqa: PERF401
            return stubs
    finally:
        await database.close()
