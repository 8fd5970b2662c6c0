"""What the worker remembers of the log: durable, its own, and what it does not contradict is believed."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select, update

from app.errors import InvalidRequestError
from app.store import alarms
from app.store.database import Database
from app.store.record.audit import TakenBackError, append
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import SUBJECT, Witness
from app.store.schema import audit as log


async def happen(database: Database, *subjects: str) -> None:
    """Append an entry of each."""
    for subject in subjects:
        async with database.begin() as connection:
            await append(connection, "report.sealed", subject, {"by": "test"})


async def says(witness: Witness, database: Database, subject: str) -> bool:
    """Whether the log says of a subject what it said before."""
    async with database.connect() as connection:
        try:
            await witness.check(connection, subject)
        except TakenBackError:
            return False
    return True


async def test_what_was_seen_is_remembered_by_who_comes_next(database: Database, tmp_path: Path) -> None:
    """In a file of mode 0600 that tells a number and a digest; and an alarm stands until it is mended."""
    path = tmp_path / "seen"
    await happen(database, "A", "B", "A")
    await Witness(path).follow(database)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    async with database.connect() as connection:
        (last,) = (await connection.execute(select(log).where(log.c.seq == 3))).mappings()
    async with database.begin() as connection:
        await connection.execute(delete(log).where(log.c.seq == 3))
    for witness in (Witness(path), Witness(path)):
        with pytest.raises(AuditBrokenError, match="entry 3 was cut off"):
            await witness.follow(database)
    assert path.read_bytes() == before
    assert await standing(database) == [SUBJECT]
    async with database.begin() as connection:
        await connection.execute(insert(log).values(**last))
    await witness.follow(database)
    assert await standing(database) == []
    await happen(database, "C")
    await witness.follow(database)
    assert path.read_bytes() != before


async def test_what_another_process_with_the_same_file_saw_is_not_forgotten(
    database: Database, tmp_path: Path
) -> None:
    """One filed, and what came of it was taken out of the log before the other looked."""
    one, other = Witness(tmp_path / "seen"), Witness(tmp_path / "seen")
    await happen(database, "A")
    await one.follow(database)
    await other.follow(database)
    await happen(database, "B", "C")
    await one.follow(database)
    async with database.begin() as connection:
        await connection.execute(delete(log).where(log.c.seq > 1))
    with pytest.raises(AuditBrokenError, match="2 to 3 were cut off"):
        await other.follow(database)
    await happen(database, "X", "Y", "Z")
    with pytest.raises(AuditBrokenError):
        await other.follow(database)


async def test_an_entry_that_is_changed_in_place_is_noticed_of_its_subject_alone(database: Database) -> None:
    """Although the chain after it still holds. What is new is no change."""
    witness = Witness()
    await happen(database, "A", "B", "A", "B")
    await witness.follow(database)
    async with database.begin() as connection:
        await connection.execute(update(log).where(log.c.seq == 3).values(event="report.opened"))
    await happen(database, "B")
    await witness.follow(database)
    assert [await says(witness, database, each) for each in ("A", "B", "C")] == [False, True, True]


async def test_a_log_that_was_replaced_is_noticed_however_long_it_is(database: Database) -> None:
    """Shorter, as long, and longer than it was."""
    witness = Witness()
    await happen(database, "A", "B", "C")
    await witness.follow(database)
    for others in (("X",), ("X", "B", "C"), ("X", "B", "C", "D", "E")):
        async with database.begin() as connection:
            await connection.execute(delete(log))
        await happen(database, *others)
        for _ in range(2):
            with pytest.raises(AuditBrokenError):
                await witness.follow(database)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"{}", 0o600, "no memory of a worker"),
        (b'{"seq": 1, "digest": "zz"}', 0o600, "no memory of a worker"),
        (b'{"seq": 1, "digest": "00"}', 0o620, "chmod 600"),
    ],
)
def test_a_file_that_is_none_or_that_others_may_write_is_refused(
    tmp_path: Path, content: bytes, mode: int, said: str
) -> None:
    path = tmp_path / "seen"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(InvalidRequestError, match=said):
        Witness(path)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_what_cannot_be_remembered_is_said(database: Database, tmp_path: Path) -> None:
    """With the setting that mends it."""
    await happen(database, "A")
    with pytest.raises(InvalidRequestError, match="CORDON_FILING_MEMORY"):
        await Witness(tmp_path / "nowhere" / "seen").follow(database)


async def standing(database: Database) -> list[str]:
    """Subjects of the alarms that stand."""
    async with database.connect() as connection:
        return [each.subject for each in await alarms.standing(connection)]
