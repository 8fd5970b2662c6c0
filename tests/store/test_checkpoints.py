"""The audit log against those who can write to the database: every tampering before a checkpoint is found."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, update

from app.custody import checkpoint, envelope
from app.custody.checkpoint import Checkpoint
from app.custody.identity import Identity, generate
from app.custody.roster import Pinned, Roster, WorkerKeys
from app.errors import InvalidRequestError
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit, checkpoints
from app.store.record.audit import BEFORE_THE_FIRST, Head, append
from app.store.record.checkpoints import AuditBrokenError
from app.store.schema import audit as log
from app.store.schema import audit_checkpoints

WORKER = generate()
ROSTER = Roster((), WorkerKeys.of(WORKER))
ENTRIES = 9
KEPT = (3, 6)
"""After how many entries the auditor took a checkpoint away."""


async def _happen(database: Database, count: int) -> None:
    for number in range(count):
        async with database.begin() as connection:
            await append(connection, "report.sealed", f"R{number}", {"custodians": ["a", "b"]})


async def _take(database: Database, identity: Identity = WORKER, roster: Roster = ROSTER) -> Checkpoint:
    taken = await checkpoints.take(database, identity, roster)
    assert taken is not None
    return taken


@pytest.fixture
async def kept(database: Database) -> list[Head]:
    """A log of nine entries, and what the auditor keeps of it."""
    heads = []
    for so_far, until in zip((0, *KEPT), (*KEPT, ENTRIES), strict=True):
        await _happen(database, until - so_far)
        if until in KEPT:
            signed = checkpoint.verify((await _take(database)).document, ROSTER)
            heads.append(Head(signed.seq, signed.digest))
    assert [head.seq for head in heads] == list(KEPT)
    return heads


async def _examine(database: Database, known: list[Head]) -> audit.Examined:
    async with database.connect() as connection:
        return await audit.examine(connection, known)


async def _rows(database: Database) -> list[dict[str, Any]]:
    async with database.connect() as connection:
        return [dict(row) for row in (await connection.execute(select(log).order_by(log.c.seq))).mappings()]


async def _write_anew(database: Database, rows: list[dict[str, Any]]) -> None:
    """Replace the log by these entries: numbered, chained and with good digests, as only the start tells."""
    previous = BEFORE_THE_FIRST
    async with database.begin() as connection:
        await connection.execute(delete(log))
        for number, row in enumerate(rows, 1):
            entry = {**row, "seq": number, "previous": previous}
            del entry["digest"]
            previous = audit._digest(entry)
            await connection.execute(insert(log).values(**entry, digest=previous))


async def _run(database: Database, *statements: Any) -> None:
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


async def _insert(database: Database, seq: int) -> None:
    """Put in one entry with a good digest of its own."""
    row = (await _rows(database))[3]
    entry = {**row, "seq": seq, "subject": "made up"}
    del entry["digest"]
    await _run(database, insert(log).values(**entry, digest=audit._digest(entry)))


async def _shift(database: Database, after: int) -> None:
    """Make room for one more entry."""
    for seq in range(ENTRIES, after, -1):
        await _run(database, update(log).where(log.c.seq == seq).values(seq=seq + 1))


def _edit(**values: Any) -> Callable[[Database], Awaitable[None]]:
    async def edit(database: Database) -> None:
        await _run(database, update(log).where(log.c.seq == 5).values(**values))

    return edit


def _anew(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
) -> Callable[[Database], Awaitable[None]]:
    async def write(database: Database) -> None:
        await _write_anew(database, change(await _rows(database)))

    return write


async def _edit_and_digest(database: Database) -> None:
    entry = (await _rows(database))[4] | {"subject": "somebody else"}
    del entry["digest"]
    await _run(
        database,
        update(log).where(log.c.seq == 5).values(subject=entry["subject"], digest=audit._digest(entry)),
    )


async def _edit_time(database: Database) -> None:
    at = (await _rows(database))[3]["at"]
    await _run(database, update(log).where(log.c.seq == 5).values(at=at))


async def _remove(database: Database, *which: int) -> None:
    await _run(database, delete(log).where(log.c.seq.in_(which)))


async def _swap(database: Database, one: int = 4, other: int = 5) -> None:
    for seq, into in ((one, 1000), (other, one), (1000, other)):
        await _run(database, update(log).where(log.c.seq == seq).values(seq=into))


async def _insert_between(database: Database) -> None:
    await _shift(database, 4)
    await _insert(database, 5)


async def _remove_and_close_up(database: Database) -> None:
    await _remove(database, 5)
    for seq in range(6, ENTRIES + 1):
        await _run(database, update(log).where(log.c.seq == seq).values(seq=seq - 1))


def _subject(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [*rows[: number - 1], rows[number - 1] | {"subject": "somebody else"}, *rows[number:]]


@dataclass(frozen=True)
class Tampering:
    """What somebody did, and where it is found."""

    name: str
    do: Callable[[Database], Awaitable[None]]
    first: int
    last: int
    what: str


TAMPERINGS = [
    Tampering("the event edited", _edit(event="report.rejected"), 5, 5, "edited"),
    Tampering("the subject edited", _edit(subject="R9"), 5, 5, "edited"),
    Tampering("the details edited", _edit(details="{}"), 5, 5, "edited"),
    Tampering("the time edited", _edit_time, 5, 5, "edited"),
    Tampering("the digest edited", _edit(digest=bytes(32)), 5, 5, "edited"),
    Tampering("the digest before it edited", _edit(previous=bytes(32)), 5, 5, "edited"),
    Tampering("an entry and its digest edited", _edit_and_digest, 5, 6, "do not follow on"),
    Tampering("an entry removed", lambda database: _remove(database, 5), 5, 5, "removed"),
    Tampering("the first removed", lambda database: _remove(database, 1), 1, 1, "removed"),
    Tampering("several removed", lambda database: _remove(database, 2, 3, 4), 2, 4, "removed"),
    Tampering("one removed, the others renumbered", _remove_and_close_up, 5, 5, "edited"),
    Tampering("neighbours swapped", _swap, 4, 4, "edited"),
    Tampering("two far apart swapped", lambda database: _swap(database, 2, 8), 2, 2, "edited"),
    Tampering("one put before the first", lambda database: _insert(database, 0), 0, 0, "inserted"),
    Tampering("one put between, the others renumbered", _insert_between, 4, 5, "do not follow on"),
    Tampering("the end cut off", lambda database: _remove(database, 6, 7, 8, 9), 6, 6, "cut off"),
    Tampering("all of it removed", lambda database: _run(database, delete(log)), 1, 6, "cut off"),
    Tampering("one edited, all after it written anew", _anew(lambda rows: _subject(rows, 5)), 4, 6, "anew"),
    Tampering("the first edited, all written anew", _anew(lambda rows: _subject(rows, 1)), 1, 3, "anew"),
    Tampering(
        "one removed, all after it written anew", _anew(lambda rows: rows[:4] + rows[5:]), 4, 6, "anew"
    ),
    Tampering(
        "one inserted, all after it written anew",
        _anew(lambda rows: [*rows[:4], rows[0], *rows[4:]]),
        4,
        6,
        "anew",
    ),
    Tampering(
        "two swapped, all after them written anew",
        _anew(lambda rows: [*rows[:3], rows[4], rows[3], *rows[5:]]),
        4,
        6,
        "anew",
    ),
    Tampering("an older backup put back", _anew(lambda rows: rows[:4]), 5, 6, "cut off"),
    Tampering("another log put in its place", _anew(lambda rows: rows[::-1]), 1, 3, "anew"),
]


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda tampering: tampering.name)
async def test_every_tampering_is_found_where_it_is(
    database: Database, kept: list[Head], tampering: Tampering
) -> None:
    """Before the last checkpoint that the auditor holds; also where those of the database are gone too."""
    untouched = await _examine(database, kept)
    assert untouched == audit.Examined(ENTRIES, KEPT[-1], None)
    await tampering.do(database)
    await _run(database, delete(audit_checkpoints))
    found = (await _examine(database, kept)).finding
    assert found is not None
    assert (found.first, found.last) == (tampering.first, tampering.last)
    assert tampering.what in found.what


async def test_what_came_after_the_last_checkpoint_is_told_to_be_unvouched(
    database: Database, kept: list[Head]
) -> None:
    """Somebody who writes it anew there is not seen: that is what the next checkpoint is for."""
    await _write_anew(database, _subject(await _rows(database), 8))
    examined = await _examine(database, kept)
    assert (examined.entries, examined.vouched, examined.finding) == (9, 6, None)


async def test_nobody_signs_a_log_that_does_not_follow_on(database: Database, kept: list[Head]) -> None:
    """The worker raises an alarm instead, whether it was edited, written anew or cut off."""
    rows = await _rows(database)
    for tampered in (
        [*rows[:7], rows[7] | {"subject": "x"}, rows[8]],
        _subject(rows, 5),
        _subject(rows, 5)[:6],
        rows[:4],
    ):
        await _write_anew(database, tampered)
        await _run(database, update(log).where(log.c.seq == 8, log.c.subject == "x").values(subject="y"))
        with pytest.raises(AuditBrokenError, match="Nothing was signed"):
            await checkpoints.take(database, WORKER, ROSTER)
        async with database.connect() as connection:
            signed = await connection.execute(select(func.count()).select_from(audit_checkpoints))
            assert signed.scalar_one() == len(kept)
            assert [each.kind for each in await alarms.standing(connection)] == [AlarmKind.AUDIT_BROKEN]


async def test_a_checkpoint_is_taken_once_for_a_head_and_reads_only_what_is_new(
    database: Database, kept: list[Head]
) -> None:
    """By each signer; what was vouched for before is not read again."""
    ada = generate()
    roster = ROSTER.with_custodian(Pinned("ada", ada.public_key, ada.signing_public_key))
    assert (await _take(database)).seq == ENTRIES
    assert await checkpoints.take(database, WORKER, ROSTER) is None
    assert (await _take(database, ada, roster)).seq == ENTRIES
    async with database.connect() as connection:
        good, bad = await checkpoints.stored(connection, roster)
        assert ([each.seq for each in good], bad) == ([3, 6, 9, 9], 0)
        assert (await checkpoints.stored(connection, ROSTER))[1] == 1
    with pytest.raises(InvalidRequestError, match="not pinned"):
        await checkpoints.take(database, generate(), roster)


async def test_an_empty_log_has_no_checkpoint(database: Database) -> None:
    assert await checkpoints.take(database, WORKER, ROSTER) is None
    assert await _examine(database, []) == audit.Examined(0, 0, None)


async def test_checkpoints_that_contradict_each_other_are_a_finding(
    database: Database, kept: list[Head]
) -> None:
    """As when the log was written anew and signed again."""
    other = Head(kept[1].seq, bytes(32))
    finding = (await _examine(database, [*kept, other])).finding
    assert finding is not None
    assert (finding.last, "contradict" in finding.what) == (kept[1].seq, True)


async def test_writers_of_several_processes_and_signers_get_along(store: StoreSettings) -> None:
    """All while the log grows: one chain, and every checkpoint on it."""
    databases = [Database.open(store) for _ in range(3)]
    signed: list[Checkpoint] = []

    async def sign(database: Database) -> None:
        for _ in range(5):
            with contextlib.suppress(TimeoutError):
                taken = await checkpoints.take(database, WORKER, ROSTER)
                if taken is not None:
                    signed.append(taken)

    try:
        await asyncio.gather(
            *(_happen(database, 8) for database in databases for _ in range(2)), sign(databases[0])
        )
        await _take(databases[1])
        async with databases[2].connect() as connection:
            good, _ = await checkpoints.stored(connection, ROSTER)
            known = [Head(each.seq, each.digest) for each in (*good, *signed)]
            assert await audit.examine(connection, known) == audit.Examined(48, 48, None)
    finally:
        for database in databases:
            await database.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"signer": "\x1b]0;gotcha\x07\x1b[2J"},
        {"signer": "ABCDEF0123456789"},
        {"signer": ["0123456789abcdef"]},
        {"at": "0001-01-01T00:00:00+23:59"},
        {"seq": 1.0},
    ],
)
def test_what_is_no_checkpoint_is_refused_without_a_word_of_it(changed: dict[str, Any]) -> None:
    """Whatever it says is told to nobody: a terminal would obey some of it."""
    said = json.loads(json.loads(checkpoint.sign(1, bytes(32), WORKER).document)["signed"]) | changed
    document = envelope.seal_text(checkpoint.PREFIX, envelope.canonical(said), WORKER)
    with pytest.raises(InvalidRequestError) as refused:
        checkpoint.verify(document, ROSTER)
    assert str(refused.value) == "This is no checkpoint of an audit log that this Cordon can read."
