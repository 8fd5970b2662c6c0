"""Reports removed by command: shown before, gone afterwards, and from the files too."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from app.custody.identity import generate, write_identity
from app.settings import StoreSettings
from app.store.database import Database
from tests.cli.conftest import Cordon
from tests.filing.office import open_office

ADA = ("--identity", "ada.key")
AT_ONCE = {"CORDON_REJECTED_DAYS": "0"}


@pytest.fixture
def rejected(own: Cordon) -> str:
    """A report that a custodian rejected."""
    report_id = str(own("ingest", "edited.jpg", "--json").document["report"]["id"])
    ran = own("report", "reject", report_id, "--identity", "ada.key", "--reason", "a logo", "--yes")
    assert ran.code == 0, ran.err
    return report_id


def test_a_dry_run_shows_until_when_each_report_is_kept_and_removes_none(own: Cordon, rejected: str) -> None:
    """For people a table, for programs JSON; for a day to come if one is named."""
    waiting = str(own("ingest", "banked.png", "--json").document["report"]["id"])
    told = {each["id"]: each for each in own("report", "purge", "--dry-run", "--json").documents}
    assert (told[waiting]["removed_at"], told[waiting]["why"]) == (None, "queued: not finished")
    ends = datetime.fromisoformat(told[rejected]["removed_at"])
    assert timedelta(days=29) < ends - datetime.now(UTC) < timedelta(days=31)
    assert not told[rejected]["due"]
    later = f"{ends:%Y-%m-%d}"
    (row,) = [
        line.split("  ")
        for line in own("report", "purge", "--dry-run", "--on", later).out.decode().splitlines()
        if line.startswith(rejected)
    ]
    assert [cell.strip() for cell in row if cell][-2:] == ["30 days from the rejection", "removed"]
    assert {rejected, waiting} <= {each["id"] for each in own("report", "list", "--json").documents}


def test_a_purge_removes_what_is_due_from_the_lists_and_from_the_files(own: Cordon, rejected: str) -> None:
    """A hold stands over it."""
    assert own("report", "export", rejected, "--out", "sealed.age").code == 0
    piece = (own.home / "sealed.age").read_bytes()[100:150]
    assert any(piece in each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))
    own("report", "hold", rejected)
    held = own("report", "purge", "--json", *ADA, given=AT_ONCE)
    assert (held.code, rejected in held.out.decode()) == (0, False)
    own("report", "unhold", rejected)
    unsigned = own("report", "purge", given=AT_ONCE)
    assert (unsigned.code, "nobody signs their removal" in unsigned.err) == (1, True)
    assert "removal_unsigned" in own("report", "alarms").out.decode()
    assert any(piece in each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))
    ran = own("report", "purge", "--json", *ADA, given=AT_ONCE)
    assert (ran.code, rejected in [each["id"] for each in ran.documents]) == (0, True)
    assert "nothing of them is left in the database's files" in ran.err
    assert "removal_unsigned" not in own("report", "alarms").out.decode()
    assert own("audit", "verify").code == 0
    assert rejected not in [each["id"] for each in own("report", "list", "--json").documents]
    left = own("report", "show", rejected, "--json").document
    assert (left["state"], left["removed_because"]) == ("rejected", "its time was over")
    assert left["removed_at"] <= left["erased_at"]
    assert [each["step"] for each in left["steps"]] == ["rejected"]
    assert not any(piece in each.read_bytes() for each in (own.home / "state").glob("cordon.db*"))


async def test_a_purge_says_what_of_the_databases_own_files_is_not_erased(
    cordon: Cordon, store: StoreSettings, database: Database
) -> None:
    """All of SQLite's are; PostgreSQL's log of changes is not, and so it is not said to be."""
    settings = {"CORDON_STATE_DIR": str(store.state_dir), "CORDON_DATABASE_URL": store.database_url or ""}
    async with open_office(database, store) as office:
        report_id = await office.queued("a")
        write_identity(office.ada, cordon.home / "ada.key")
        given = {key: value for key, value in settings.items() if value} | AT_ONCE
        rejected = ("report", "reject", report_id, *ADA, "--reason", "a logo", "--yes")
        assert (await asyncio.to_thread(cordon, *rejected, given=given)).code == 0
        ran = await asyncio.to_thread(cordon, "report", "purge", *ADA, given=given)
    assert (ran.code, "removed: 1 reports" in ran.err) == (0, True)
    erased = "nothing of them is left in the database's files" in ran.err
    left = "PostgreSQL's write-ahead log holds it until that is recycled" in ran.err
    assert (erased, left) == ((True, False) if database.is_sqlite else (False, True))


def test_with_the_workers_key_a_purge_believes_no_log_that_the_worker_would_not(
    own: Cordon, rejected: str
) -> None:
    """The worker saw a longer log than there is now: somebody put an older database in place."""
    key = own.home / "state" / "worker.key"
    worker = generate()
    write_identity(worker, key)
    pinned = ("--worker", worker.public_key, "--worker-signing-key", str(worker.signing_public_key), "--yes")
    assert own("custodian", "pin", *pinned).code == 0
    memory = key.with_name("worker.key.seen")
    memory.write_text(json.dumps({"seq": 100_000, "digest": "ab" * 32}))
    memory.chmod(0o600)
    refused = own("report", "purge", given=AT_ONCE)
    assert refused.code == 1
    assert "The audit log was changed" in refused.err
    assert rejected in [each["id"] for each in own("report", "list", "--json").documents]
    memory.unlink()
    ran = own("report", "purge", "--json", given=AT_ONCE)
    assert (ran.code, rejected in [each["id"] for each in ran.documents]) == (0, True)


@pytest.mark.parametrize("arguments", [("--on", "2027-01-01"), ("--dry-run", "--on", "soon")])
def test_a_date_is_one_and_goes_with_a_dry_run_alone(own: Cordon, arguments: tuple[str, ...]) -> None:
    assert own("report", "purge", *arguments).code == 2


def test_removed_reports_are_counted_with_those_that_are_there(own: Cordon, rejected: str) -> None:
    """By year, kind and state, for the figures that a law may ask for; ids and contents are in none of it."""

    def counted() -> dict[tuple[int, str, str], tuple[int, int]]:
        told = own("report", "count", "--json").documents
        return {
            (each["year"], each["bank_kind"], each["state"]): (each["reports"], each["removed"])
            for each in told
        }

    year = datetime.now(UTC).year
    (kind,) = [
        each["bank_kind"] for each in own("report", "list", "--json").documents if each["id"] == rejected
    ]
    before = counted()
    there, gone = before[year, kind, "rejected"]
    assert there - gone >= 1
    assert own("report", "purge", *ADA, given=AT_ONCE).code == 0
    after = counted()
    assert after[year, kind, "rejected"] == (there, there)
    assert {group: count for group, (count, _) in before.items()} == {
        group: count for group, (count, _) in after.items()
    }
    shown = own("report", "count").out.decode()
    assert shown.splitlines()[0].split() == ["year", "kind", "state", "reports", "of", "them", "removed"]
    assert rejected not in shown
