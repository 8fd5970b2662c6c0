"""Promise 4: a match is durably committed, once, before it is answered, whatever kills the gate."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

from sqlalchemy import select

from app.settings import StoreSettings
from app.store.database import Database
from app.store.schema import audit, idempotency, reports, sightings
from tests.chain import verify_chain
from tests.pins import add_custodian, pins_of

ROOT = Path(__file__).resolve().parents[2]
KILLS = 25


async def test_kill_9_at_any_moment_leaves_each_match_stored_once_or_not_answered(
    store: StoreSettings,
) -> None:
    database = Database.open(store)
    await add_custodian(database, pins_of(store))
    committer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.promises.committer",
        store.model_dump_json(),
        str(KILLS),
        "a seed",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await committer.communicate()
    assert committer.returncode == 0
    told = json.loads(output)
    begun = told["begun"]
    answered = {int(number): report_ids for number, report_ids in told["answered"].items()}
    async with database.connect() as connection:
        stored = (await connection.execute(select(reports.c.id, reports.c.place_hash))).all()
        later = (await connection.execute(select(sightings.c.report_id))).scalars().all()
        remembered = (await connection.execute(select(idempotency.c.report_id))).scalars().all()
        events = (await connection.execute(select(audit.c.event, audit.c.subject))).all()
        assert await verify_chain(connection) is None
    await database.close()

    assert len(begun) > KILLS
    assert sorted(answered) == begun
    assert all(len(set(report_ids)) == 1 for report_ids in answered.values())
    assert sorted(row.id for row in stored) == sorted(report_ids[0] for report_ids in answered.values())
    uploads = {report_ids[0] for number, report_ids in answered.items() if number % 2}
    assert {row.id for row in stored if row.place_hash is None} == uploads == set(remembered)
    assert uploads.isdisjoint(later)
    recorded = Counter((row.event, row.subject) for row in events)
    assert Counter(("report.sealed", row.id) for row in stored) + Counter(
        ("report.sighted", report_id) for report_id in later
    ) == Counter({entry: count for entry, count in recorded.items() if entry[0].startswith("report.")})
