"""Commits reports in a process that is killed at random, again and again; run by the promise's test.

Like a caller, each process first retries what the one before began and did not answer. The last is not
killed. Prints, as JSON, what was begun and what was answered.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time

from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports.shelf import ReportShelf
from tests.pins import pins_of
from tests.stubs import stub

AT_ONCE = 3


async def commit(
    settings: StoreSettings, told: int, unanswered: list[int], first_new: int, *, last: bool
) -> None:
    """Commit media by number; tell ``begun N`` before each and ``done N ID`` after."""
    database = Database.open(settings)
    outbox = SealedOutbox(ReportShelf(database, None, pins_of(settings)), require_custodian=True)
    numbers = iter([*unanswered, *range(first_new, first_new + (0 if last else 10_000))])

    async def worker() -> None:
        for number in numbers:
            os.write(told, f"begun {number}\n".encode())
            # Half are fetched and told apart by place; half are uploads told apart by their caller's key.
            fetched = number % 2 == 0
            match = stub(
                f"medium-{number}",
                url=f"https://host.example/{number}" if fetched else None,
                idempotency_key=None if fetched else f"retry-{number}",
            )
            reference = await outbox.commit(match)
            os.write(told, f"done {number} {reference.id}\n".encode())

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    await database.close()


def run_one(
    settings: StoreSettings, unanswered: list[int], first_new: int, *, kill: tuple[int, float] | None
) -> list[str]:
    """What one process told before it was killed, so many lines and seconds on, or ended by itself."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        asyncio.run(commit(settings, told, unanswered, first_new, last=kill is None))
        os._exit(0)
    os.close(told)
    lines = []
    with os.fdopen(heard) as pipe:
        for line in pipe:
            lines.append(line)
            if kill is not None and len(lines) == kill[0]:
                time.sleep(kill[1])
                os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if kill is not None else 0)
    return lines


def main() -> None:
    """Run processes until all but the last were killed."""
    settings, kills = StoreSettings.model_validate_json(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(sys.argv[3])
    begun: set[int] = set()
    answered: dict[int, list[str]] = {}
    for turn in range(kills + 1):
        kill = (chance.randint(1, 20), chance.uniform(0, 0.01)) if turn < kills else None
        unanswered = sorted(begun - answered.keys())
        for line in run_one(settings, unanswered, max(begun, default=-1) + 1, kill=kill):
            word, number, *report_id = line.split()
            if word == "begun":
                begun.add(int(number))
            elif report_id:
                answered.setdefault(int(number), []).append(report_id[0])
    print(json.dumps({"begun": sorted(begun), "answered": answered}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
