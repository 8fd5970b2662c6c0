"""Two gates on one PostgreSQL under mixed load: the right verdict for each of 500 media."""

import asyncio
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from app.settings import StoreSettings
from tests.conftest import run_on_postgres
from tests.gates import fill_bank, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED, EDITED, FLAT, HARMLESS, WORDS
from tests.worlds import MediaHost

INGESTS = 500
AT_ONCE = 16

EXPECTED = {
    "/banked.png": "match",
    "/edited.jpg": "match",
    "/harmless.jpg": "clear",
    "/flat.png": "undecidable",
    "/words.jpg": "undecidable",
}


def test_five_hundred_mixed_ingests_get_their_verdicts(
    postgres_url: str, tmp_path: Path, host: MediaHost
) -> None:
    """Uploads and URLs, sixteen at once, spread over both; reports are counted once each."""
    name = f"two_gates_{uuid4().hex}"
    asyncio.run(run_on_postgres(postgres_url, f"CREATE DATABASE {name}"))
    url = postgres_url.replace("@/postgres?", f"@/{name}?")
    stores = [StoreSettings(state_dir=tmp_path / each / "state", database_url=url) for each in "ab"]
    prepared = asyncio.run(prepare(stores[0], rate_per_second=100_000))
    other = type(prepared)(stores[1], prepared.tokens, prepared.identity)
    content = dict(zip(EXPECTED, (BANKED, EDITED, HARMLESS, FLAT, WORDS), strict=True))
    chance = random.Random(500)
    work = [(chance.choice(list(EXPECTED)), chance.random() < 0.5, number) for number in range(INGESTS)]
    with running_gate(prepared) as one, running_gate(other) as two:
        fill_bank(one, "mock-list", BANKED)
        clients = [one.client(), two.client()]
        wait_for(lambda: two.public("/readyz").status_code == 200)

        def ingest(item: tuple[str, bool, int]) -> tuple[str, str | None]:
            path, upload, number = item
            client = clients[number % 2]
            answer = (
                client.post("/v1/ingest", files={"media": content[path]})
                if upload
                else client.post("/v1/ingest", json={"url": host.url(path)})
            )
            assert answer.status_code == 200, answer.text
            body = answer.json()
            return body["verdict"], body["report"]["id"] if body["report"] else None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            told = list(pool.map(ingest, work))
        listed = one.client("report").get("/v1/reports", params={"limit": 1000}).json()["reports"]
    assert [verdict for verdict, _ in told] == [EXPECTED[path] for path, _, _ in work]
    uploads = sum(1 for path, upload, _ in work if upload and EXPECTED[path] == "match")
    # Each upload names no place and is a report of its own; each of the two URLs is one report.
    assert len(listed) == uploads + 2
    assert {report["id"] for report in listed} == {report for _, report in told if report}
    fetched = Counter(path for path, upload, _ in work if not upload and EXPECTED[path] == "match")
    assert sorted(report["later_sightings"] for report in listed if report["later_sightings"]) == sorted(
        times - 1 for times in fetched.values()
    )
