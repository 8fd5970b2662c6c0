"""A thief in the web process's place: its user, its whole environment, its files, and its database to write.

Run by the promise's test as the user that the gate runs as; ``site.py`` says where. It prints, as JSON, what
it got. It knows Cordon's code: nothing here depends on a secret of the program. Whatever it wrote, the gate,
the worker and an auditor then meet.

    python -m tests.promises.thief WHAT FOLDER [ARGUMENT...]
"""

import asyncio
import base64
import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyrage
from sqlalchemy import delete, insert, select, update

from app.custody.decision import Action, Decision, sign
from app.custody.identity import Identity, encrypt, fingerprint, generate, read_identity, write_identity
from app.custody.roster import RosterFile, WorkerKeys
from app.errors import CordonError
from app.settings import load
from app.store import keys
from app.store.database import Database
from app.store.record import audit
from app.store.record.audit import BEFORE_THE_FIRST
from app.store.reports.report_states import State
from app.store.schema import audit as log
from app.store.schema import audit_checkpoints, custodians, decisions, metadata, reports, sightings

XML = b"<report>forged</report>"
SECRET_KEY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")

Rows = list[dict[str, Any]]


def thief(folder: Path) -> Identity:
    """The thief's own keys, the same in each of its runs."""
    path = folder / "thief.key"
    if not path.exists():
        write_identity(generate(), path)
    return read_identity(path)


async def read(database: Database, folder: Path, worker_key: Path) -> dict[str, Any]:
    """All that can be read, and which sealed files open with any of it."""
    settings = load()
    loot = [value for name, value in os.environ.items() if name.startswith("CORDON_")]
    named = [settings.store.state_dir, settings.roster_path, settings.worker_key_path, worker_key]
    for place in (*named, worker_key.parent, settings.roster_path.parent, folder):
        loot += _files(place)
    async with database.connect() as connection:
        for table in metadata.sorted_tables:
            for row in await connection.execute(select(table)):
                loot += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row]
        sealed = [*(await connection.execute(select(reports.c.sealed))).scalars()]
        sealed += (await connection.execute(select(sightings.c.sealed))).scalars()
        documents = (await connection.execute(select(decisions.c.document))).scalars().all()
    for document in documents:
        said = json.loads(json.loads(document)["signed"])
        sealed += [base64.b64decode(said[name]) for name in ("xml", "words") if said[name]]
    everything = "\n".join(loot)
    found = [pyrage.x25519.Identity.from_str(key) for key in set(SECRET_KEY.findall(everything))]
    # What it forged itself opens with its own key.
    opened = [text for file in sealed if (text := _opened(file, found)) not in {None, XML}]
    # Only where a passphrase opens it at all is guessing one of any use.
    guessable = [file for file in sealed if b"\n-> scrypt " in file]
    guessed = [1 for file in guessable for word in _words(loot) if _opens_with(file, word)]
    return {
        "loot": everything,
        "sealed": len(sealed),
        "opened": len(opened) + len(guessed),
    }


def _files(place: Path) -> list[str]:
    """What the files at or below a place hold, as far as they can be read."""
    try:
        if not place.is_dir():
            return [place.read_bytes().decode("latin-1")]
        return [text for below in place.iterdir() for text in _files(below)]
    except OSError:
        return []


def _opened(file: bytes, found: list[Any]) -> bytes | None:
    try:
        return bytes(pyrage.decrypt(file, found)) if found else None
    except pyrage.DecryptError:
        return None


def _words(loot: list[str]) -> list[str]:
    """What could be a passphrase: the values of the settings and of the table of secrets."""
    return [value for value in loot if 8 <= len(value) <= 64 and value.isprintable()][:200]


def _opens_with(file: bytes, passphrase: str) -> bool:
    try:
        pyrage.passphrase.decrypt(file, passphrase)
    except (pyrage.DecryptError, ValueError):
        return False
    return True


async def add_recipients(database: Database, folder: Path) -> dict[str, Any]:
    """Become a custodian, put the own key in the place of somebody's, and do the same to the pinned file."""
    own = thief(folder)
    other = generate()
    async with database.begin() as connection:
        await connection.execute(
            update(custodians)
            .where(custodians.c.name == "ada")
            .values(public_key=own.public_key, signing_key=own.signing_public_key)
        )
        await connection.execute(
            insert(custodians).values(
                name="mallory",
                public_key=other.public_key,
                signing_key=other.signing_public_key,
                fingerprint=fingerprint(other.public_key),
                added_at=datetime.now(UTC),
            )
        )
    pins = RosterFile(load().roster_path)
    roster = pins.read()
    mallory = dataclasses.replace(
        roster.custodians[0],
        name="mallory",
        public_key=own.public_key,
        signing_key=own.signing_public_key,
    )
    try:
        pins.write(roster.with_custodian(mallory))
    except CordonError:
        return {"pinned": False}
    return {"pinned": True}


async def forge_approvals(database: Database, folder: Path, report_ids: list[str]) -> dict[str, str]:
    """A forged approval of each report, each in another way, by report."""
    own = thief(folder)
    roster = RosterFile(load().roster_path).read()
    worker = roster.worker or WorkerKeys.of(own)
    async with database.connect() as connection:
        rows = await connection.execute(select(reports.c.id, reports.c.sealed_sha256))
        digests = {row.id: row.sealed_sha256.hex() for row in rows}
        honest = (
            await connection.execute(
                select(decisions.c.document).where(decisions.c.action == Action.APPROVE.value)
            )
        ).scalars()
        documents = honest.all()
    made: dict[str, str] = {}
    for report_id, way in zip(report_ids, _WAYS, strict=True):
        decision = Decision(
            action=Action.APPROVE,
            report_id=report_id,
            sealed_sha256=(digests[report_id],),
            decided_at=datetime.now(UTC),
            custodian=fingerprint(own.public_key),
            xml_sha256=hashlib.sha256(XML).hexdigest(),
            # Sealed as a custodian would: whoever files it could open it.
            xml=encrypt(XML, [own.public_key, worker.public_key]),
        )
        made[report_id] = way(decision, own, roster.custodians[0].fingerprint, worker, documents[0]).decode()
    return made


def _by_itself(decision: Decision, own: Identity, *_: Any) -> bytes:
    return sign(decision, own)


def _as_ada(decision: Decision, own: Identity, ada: str, *_: Any) -> bytes:
    return sign(dataclasses.replace(decision, custodian=ada), own)


def _as_worker(decision: Decision, own: Identity, _ada: str, worker: WorkerKeys, _honest: bytes) -> bytes:
    return sign(
        dataclasses.replace(decision, action=Action.APPROVE_AUTOMATICALLY, custodian=worker.fingerprint),
        own,
    )


def _of_another(_decision: Decision, _own: Identity, _ada: str, _worker: WorkerKeys, honest: bytes) -> bytes:
    return honest


def _rewritten(decision: Decision, _own: Identity, _ada: str, _worker: WorkerKeys, honest: bytes) -> bytes:
    """An honest one that names this report, under the signature that it had."""
    moved = json.loads(honest)
    said = json.loads(moved["signed"]) | {
        "report_id": decision.report_id,
        "sealed_sha256": list(decision.sealed_sha256),
    }
    moved["signed"] = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return json.dumps(moved, sort_keys=True, separators=(",", ":")).encode()


_WAYS: tuple[Callable[..., bytes], ...] = (_by_itself, _as_ada, _as_worker, _of_another, _rewritten)


async def hand_in(database: Database, url: str, forged: Mapping[str, str]) -> dict[str, int]:
    """Make a token that may do everything, and hand each document in over HTTP; what was answered."""
    async with database.begin() as connection:
        _, token = await keys.create(connection, name="thief", scopes=frozenset(keys.Scope))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    answers = {}
    # A gate reads the keys again every second.
    await asyncio.sleep(2 * keys.KEYS_LIFE_SECONDS)
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
        assert (await client.get("/v1/reports")).status_code == httpx.codes.OK
        for report_id, document in forged.items():
            answer = await client.post(f"/v1/reports/{report_id}/approve", content=document)
            answers[report_id] = answer.status_code
    return answers


async def put(database: Database, forged: Mapping[str, str]) -> None:
    """Write each document, its audit entry and the state, as if it had been taken in."""
    for report_id, document in forged.items():
        name = hashlib.sha256(document.encode()).hexdigest()
        async with database.begin() as connection:
            # An honest document stands there once already.
            await connection.execute(delete(decisions).where(decisions.c.id == name))
            await connection.execute(
                insert(decisions).values(
                    id=name,
                    report_id=report_id,
                    at=datetime.now(UTC),
                    action=Action.APPROVE.value,
                    custodian="x",
                    document=document.encode(),
                )
            )
            await connection.execute(
                update(reports)
                .where(reports.c.id == report_id)
                .values(state=State.APPROVED.value, place_hash=None)
            )
            told = {"decision_sha256": name, "by": "cli"}
            await audit.append(connection, f"report.{State.APPROVED}", report_id, told)


async def swap(database: Database, report_id: str, *, quietly: bool) -> None:
    """Put a made-up stub in the place of a report's; quietly, with its audit entry and the whole log anew."""
    async with database.begin() as connection:
        pinned = RosterFile(load().roster_path).read().public_keys
        forged = encrypt(json.dumps({"stub_version": 1, "report_id": report_id}).encode(), pinned)
        digest = hashlib.sha256(forged)
        await connection.execute(
            update(reports)
            .where(reports.c.id == report_id)
            .values(sealed=forged, sealed_sha256=digest.digest())
        )

    def with_it(rows: Rows) -> Rows:
        return [
            each | {"details": _with(each["details"], sealed_sha256=digest.hexdigest())}
            if (each["subject"], each["event"]) == (report_id, "report.sealed")
            else each
            for each in rows
        ]

    if quietly:
        await write_log_anew(database, with_it)


async def replay(database: Database, report_id: str) -> None:
    """Let an approval that was taken back stand again: no rejection, no entry of one, a log that is whole."""
    async with database.begin() as connection:
        await connection.execute(
            delete(decisions).where(
                decisions.c.report_id == report_id, decisions.c.action == Action.REJECT.value
            )
        )
        await connection.execute(
            update(reports).where(reports.c.id == report_id).values(state=State.APPROVED.value)
        )
    rejection = (report_id, f"report.{State.REJECTED}")
    await write_log_anew(
        database, lambda rows: [each for each in rows if (each["subject"], each["event"]) != rejection]
    )


async def bury(database: Database, folder: Path, report_ids: list[str]) -> None:
    """Call reports rejected long ago, so that time removes them: in the row alone, then whole, and signed."""
    own, long_ago = thief(folder), datetime.now(UTC) - timedelta(days=400)
    rejected = {"state": State.REJECTED.value, "decided_at": long_ago, "changed_at": long_ago}
    for report_id in report_ids:
        async with database.begin() as connection:
            wanted = update(reports).where(reports.c.id == report_id).returning(reports.c.sealed_sha256)
            digest = (await connection.execute(wanted.values(**rejected, place_hash=None))).scalar_one().hex()
            if report_id == report_ids[0]:
                continue
            decision = Decision(
                Action.REJECT, report_id, (digest,), long_ago, custodian=fingerprint(own.public_key)
            )
            document = sign(decision, own)
            name = hashlib.sha256(document).hexdigest()
            await connection.execute(
                insert(decisions).values(
                    id=name,
                    report_id=report_id,
                    at=long_ago,
                    action=Action.REJECT.value,
                    custodian=decision.custodian,
                    document=document,
                )
            )
            told = {"decision_sha256": name, "by": "cli"}
            await audit.append(connection, f"report.{State.REJECTED}", report_id, told)

    def long_ago_all_of_it(rows: Rows) -> Rows:
        return [
            each | {"at": long_ago}
            if (each["subject"], each["event"]) in {(id_, f"report.{State.REJECTED}") for id_ in report_ids}
            else each
            for each in rows
        ]

    await write_log_anew(database, long_ago_all_of_it)


async def write_log_anew(database: Database, change: Callable[[Rows], Rows]) -> None:
    """Change the log, number and chain all entries again, and take away whatever was signed under it."""
    async with database.begin() as connection:
        rows = [dict(row) for row in (await connection.execute(select(log).order_by(log.c.seq))).mappings()]
        await connection.execute(delete(log))
        await connection.execute(delete(audit_checkpoints))
        previous = BEFORE_THE_FIRST
        for seq, row in enumerate(change(rows), 1):
            entry = {**row, "seq": seq, "previous": previous}
            del entry["digest"]
            previous = audit._digest(entry)
            await connection.execute(insert(log).values(**entry, digest=previous))


def _with(details: str, **changed: Any) -> str:
    return json.dumps(json.loads(details) | changed, sort_keys=True, separators=(",", ":"))


async def main() -> None:
    """Do what the arguments say."""
    what, folder, *arguments = sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]
    database = Database.open(load().store)
    try:
        done: Any = None
        if what == "read":
            done = await read(database, folder, Path(arguments[0]))
        elif what == "recipients":
            done = await add_recipients(database, folder)
        elif what == "approvals":
            forged = await forge_approvals(database, folder, arguments[1:])
            done = await hand_in(database, arguments[0], forged)
            await put(database, forged)
        elif what == "swap":
            await swap(database, arguments[0], quietly=len(arguments) > 1)
        elif what == "bury":
            await bury(database, folder, arguments)
        elif what == "replay":
            await replay(database, arguments[0])
        print(json.dumps(done))  # noqa: T201 - its answer
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(main())
