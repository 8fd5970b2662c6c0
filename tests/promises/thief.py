"""A thief with a gate's database, its state directory and its whole environment, and nothing else.

Run by the promise's test, which then looks at what came of it. Prints, as JSON, what was read and tried. It
knows Cordon's code: nothing here depends on a secret of the program.
"""

import asyncio
import dataclasses
import hashlib
import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

import pyrage
from sqlalchemy import delete, insert, select, update

from app.custody.decision import Action, Decision, sign
from app.custody.identity import encrypt, fingerprint, generate
from app.settings import load
from app.store import audit
from app.store.audit import BEFORE_THE_FIRST
from app.store.database import Database
from app.store.report_states import State
from app.store.schema import audit as log
from app.store.schema import (
    audit_checkpoints,
    custodians,
    decisions,
    metadata,
    reports,
)

THIEF = generate()


async def read(database: Database) -> dict[str, Any]:
    """All that can be read, and what of it opens a sealed file."""
    settings = load()
    loot = [value for name, value in os.environ.items() if name.startswith("CORDON_")]
    files = [path for path in settings.store.state_dir.rglob("*") if path.is_file()]
    loot += [path.read_bytes().decode("latin-1") for path in files]
    async with database.connect() as connection:
        for table in metadata.sorted_tables:
            for row in await connection.execute(select(table)):
                loot += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row]
        sealed = (await connection.execute(select(reports.c.sealed))).scalars().all()
        documents = (await connection.execute(select(decisions.c.document))).scalars().all()
    everything = "\n".join(loot)
    keys = [word for word in everything.split() if word.startswith("AGE-SECRET-KEY-1")]
    opened = 0
    for file in sealed:
        for secret in loot:
            try:
                pyrage.passphrase.decrypt(file, secret[:1000])
                opened += 1
            except (pyrage.DecryptError, ValueError):
                continue
    return {"loot": everything, "keys": keys, "opened": opened, "documents": len(documents)}


async def add_recipients(database: Database) -> None:
    """Become a custodian, and put the own key in the place of somebody's."""
    async with database.begin() as connection:
        await connection.execute(
            update(custodians)
            .where(custodians.c.name == "ada")
            .values(public_key=THIEF.public_key, signing_key=THIEF.signing_public_key)
        )
        other = generate()
        await connection.execute(
            insert(custodians).values(
                name="mallory",
                public_key=other.public_key,
                signing_key=other.signing_public_key,
                fingerprint=fingerprint(other.public_key),
                added_at=datetime.now(UTC),
            )
        )


async def forge_approvals(database: Database, report_id: str) -> list[str]:
    """Approve a queued report in every way that a database can be written; the documents that were tried."""
    async with database.connect() as connection:
        row = (await connection.execute(select(reports).where(reports.c.id == report_id))).one()
        (ada,) = (
            await connection.execute(select(custodians.c.fingerprint).where(custodians.c.name == "ada"))
        ).scalars()
        honest = (await connection.execute(select(decisions.c.document))).scalars().first()
    xml = b"<report>forged</report>"
    decision = Decision(
        action=Action.APPROVE,
        report_id=report_id,
        sealed_sha256=(row.sealed_sha256.hex(),),
        decided_at=datetime.now(UTC),
        custodian=fingerprint(THIEF.public_key),
        xml_sha256=hashlib.sha256(xml).hexdigest(),
        xml=encrypt(xml, [THIEF.public_key]),
    )
    tried = [sign(decision, THIEF), sign(dataclasses.replace(decision, custodian=ada), THIEF)]
    if honest is not None:
        moved = json.loads(honest)
        said = json.loads(moved["signed"]) | {"report_id": report_id}
        moved["signed"] = json.dumps(said, sort_keys=True, separators=(",", ":"))
        tried += [honest, json.dumps(moved, sort_keys=True, separators=(",", ":")).encode()]
    return [document.decode() for document in tried]


async def put_approval(database: Database, report_id: str, document: str) -> None:
    """Write a document, its audit entry and the state, and the whole log anew, as if it had been taken in."""
    name = hashlib.sha256(document.encode()).hexdigest()
    async with database.begin() as connection:
        await connection.execute(delete(decisions))
        await connection.execute(
            insert(decisions).values(
                id=name,
                report_id=report_id,
                at=datetime.now(UTC),
                action="approve",
                custodian="x",
                document=document.encode(),
            )
        )
        await connection.execute(
            update(reports).where(reports.c.id == report_id).values(state=State.APPROVED.value)
        )
        await connection.execute(
            delete(log).where(
                log.c.event.like("report.%ed"), log.c.subject == report_id, log.c.event != "report.sealed"
            )
        )
        await audit.append(connection, "report.approved", report_id, {"decision_sha256": name})
    await write_log_anew(database)


async def swap(database: Database, report_id: str, *, quietly: bool) -> None:
    """Put a made-up stub in the place of a report's; quietly, with its audit entry and the whole log anew."""
    async with database.begin() as connection:
        keys = (await connection.execute(select(custodians.c.public_key))).scalars().all()
        forged = encrypt(json.dumps({"stub_version": 1, "report_id": report_id}).encode(), keys)
        digest = hashlib.sha256(forged)
        await connection.execute(
            update(reports)
            .where(reports.c.id == report_id)
            .values(sealed=forged, sealed_sha256=digest.digest())
        )
        if quietly:
            entry = (
                await connection.execute(
                    select(log).where(log.c.subject == report_id, log.c.event == "report.sealed")
                )
            ).one()
            details = json.loads(entry.details) | {"sealed_sha256": digest.hexdigest()}
            written = json.dumps(details, sort_keys=True, separators=(",", ":"))
            await connection.execute(update(log).where(log.c.seq == entry.seq).values(details=written))
            await connection.execute(delete(audit_checkpoints))
    if quietly:
        await write_log_anew(database)


async def write_log_anew(database: Database) -> None:
    """Number and chain all entries again, so that the log is whole by itself."""
    async with database.begin() as connection:
        rows = [dict(row) for row in (await connection.execute(select(log).order_by(log.c.seq))).mappings()]
        await connection.execute(delete(log))
        previous = BEFORE_THE_FIRST
        for seq, row in enumerate(rows, 1):
            entry = {**row, "seq": seq, "previous": previous}
            del entry["digest"]
            previous = audit._digest(entry)
            await connection.execute(insert(log).values(**entry, digest=previous))


async def main() -> None:
    """Do what the arguments say."""
    what, *arguments = sys.argv[1:]
    database = Database.open(load().store)
    try:
        done: Any = None
        if what == "read":
            done = await read(database)
        elif what == "recipients":
            await add_recipients(database)
        elif what == "approvals":
            done = await forge_approvals(database, arguments[0])
        elif what == "put":
            await put_approval(database, *arguments)
        elif what == "swap":
            await swap(database, arguments[0], quietly=len(arguments) > 1)
        print(json.dumps(done))  # noqa: T201 - its answer
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(main())
