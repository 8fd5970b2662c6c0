"""``cordon audit``: whether the record of what happened is whole, and signing that it is."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.cli.console import FailedError, UsageError, emit, emit_json, printable, say
from app.cli.progress import counted
from app.cli.report.opening import read_key

if TYPE_CHECKING:
    from app.custody.checkpoint import Checkpoint
    from app.custody.identity import Identity
    from app.store.record.audit import Examined, Finding, Head
    from app.store.reports.inspection import Discrepancy, Stored
    from app.store.reports.removal_proofs import Examined as Removals

app = typer.Typer(no_args_is_help=True)

_MAX_FILE_BYTES = 16 * 1024 * 1024


@app.callback()
def audit() -> None:
    """The record: every match reported or blocked, opening, decision, filing, bank, custodian and key change.

    Each entry covers the one before it. A checkpoint, signed by the worker or a custodian and kept elsewhere,
    shows later what was cut off or written anew before it.

        cordon audit checkpoint --identity ada.key >> /media/stick/checkpoints
        cordon audit verify --checkpoint /media/stick/checkpoints
    """


@app.command()
def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Checkpoints that you kept, one a line."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Read the whole log; exit 1 and say where, if an entry was edited, removed, reordered or inserted.

    Without a checkpoint of your own, those that the database itself holds are taken, which whoever changes
    the log can take out with it; and what the worker remembers beside its key, where this user can read that:
    it shows a log that was cut off, as an older backup's is. What came after the last checkpoint can be
    written anew unseen. The sealed
    files and decisions that stand in the database are held against the log too, and so are state, hold and
    times of each report: what is not as it was recorded is named with the entry that tells of it, and so is a
    report that is gone without an entry of its removal, or without a signature under that, or that nobody
    signed as ended. Reports that were removed before Cordon signed removals are counted, and no more is known
    of them than the log says.
    Where the log was changed they are held against what remains of it: what was taken out may explain one
    that differs then, and how many agree with entries that cannot be believed any more is said. A row of
    something that no Cordon writes is named too, and the rest is read on.

        cordon audit verify --checkpoint /media/stick/checkpoints
    """
    kept = [line for path in checkpoint or () for line in _lines(path)]
    looked = asyncio.run(_verify(kept))
    examined, newest, differ, stored = looked.examined, looked.newest, looked.differ, looked.stored
    finding = examined.finding
    if as_json:
        emit_json(
            {
                "whole": finding is None and not differ,
                "entries": examined.entries,
                "vouched": looked.vouched,
                "vouched_by": newest.signer if newest else None,
                "vouched_at": newest.at.isoformat() if newest else None,
                "remembered": looked.remembered.seq if looked.remembered else None,
                "first": finding.first if finding else None,
                "last": finding.last if finding else None,
                "what": finding.what if finding else None,
                "tampered_reports": list(dict.fromkeys(each.report_id for each in differ)),
                "discrepancies": [
                    {"report": each.report_id, "entry": each.entry, "what": each.what} for each in differ
                ],
                "compared_reports": len(stored.ids),
                "reports_not_vouched": list(stored.beyond),
                "removed_before_signing": looked.removed.before,
                "of_others": list(looked.of_others),
            }
        )
    if looked.bad:
        say(f"warning: {looked.bad} checkpoints of the database are signed by nobody who is or was pinned")
    for name in looked.of_others:
        say(
            f"warning: {printable(name)}: no Cordon makes it, and by it the database can change what is "
            "written, and what it tells"
        )
    for each in differ:
        say(printable(each.told()))
    if looked.removed.before:
        before = looked.removed.signed_from or 0
        vouched = "a checkpoint vouches" if looked.vouched >= before else "no checkpoint vouches"
        say(
            f"removed before Cordon signed removals (entry {before}): {looked.removed.before} reports, of "
            f"which the log alone tells; {vouched} for that entry"
        )
    if finding is not None:
        _refuse(finding, looked)
    if differ:
        raise FailedError("what is stored is not what the audit log recorded: somebody changed the database")
    if not as_json:
        emit(f"the audit log is whole: {examined.entries} entries")
    if newest is None:
        say("warning: no checkpoint vouches for it; 'cordon audit checkpoint' signs one")
    elif not as_json:
        emit(f"vouched for up to entry {looked.vouched} by {newest.signer}, {newest.at:%Y-%m-%d %H:%M} UTC")
    if newest is not None and not kept:
        say("warning: checkpoints of the database alone; give --checkpoint a copy from elsewhere")


def _refuse(finding: "Finding", looked: "_Looked") -> NoReturn:
    """Say where the log was changed, and what that leaves of the rest."""
    from app.store.record.checkpoints import told

    say(
        f"reports compared with what remains of the log: {len(looked.stored.ids)}, of which entries from "
        f"{finding.first} on tell of {len(looked.stored.beyond)}: that these agree proves nothing"
    )
    if looked.remembered is not None and finding.last <= looked.remembered.seq:
        say(
            f"the worker read entry {looked.remembered.seq}, and remembers it. Did you put an older database "
            "in place? 'Backups' in docs/deploy/README.md says what comes then"
        )
    raise FailedError(f"the audit log was changed: {told(finding)}")


@app.command()
def checkpoint(
    identity: Annotated[
        Path, typer.Option(metavar="FILE", dir_okay=False, help="A custodian's private key, or the worker's.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append it to this file too.", show_default=False)
    ] = None,
) -> None:
    """Read what came since this key's last checkpoint, sign the log's head, and print it to be kept.

    It tells a number, a digest and a time, and nothing of any report. The worker signs one every hour and
    writes it to its log.

        cordon audit checkpoint --identity ada.key >> /media/stick/checkpoints
    """
    held = read_key(identity)
    signed = asyncio.run(_checkpoint(held))
    line = signed.document.decode("ascii")
    emit(line)
    if out is not None:
        try:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise UsageError(f"{printable(str(out))} cannot be written: {error.strerror}") from None
    say(f"signed: {signed.seq} entries")


def _lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        untrusted = file.read(_MAX_FILE_BYTES)
    lines = [line for line in untrusted.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{printable(str(path))} holds no checkpoint")
    return lines


@dataclass(frozen=True)
class _Looked:
    """What an auditor's look at the database came to."""

    examined: "Examined"
    vouched: int
    newest: "Checkpoint | None"
    remembered: "Head | None"
    bad: int
    differ: "tuple[Discrepancy, ...]"
    stored: "Stored"
    removed: "Removals"
    of_others: tuple[str, ...]


async def _verify(kept: list[bytes]) -> _Looked:
    from app.cli.state import open_custody
    from app.custody.checkpoint import verify as verified
    from app.store.record import audit, checkpoints
    from app.store.record.audit import Head
    from app.store.reports import inspection, removal_proofs

    # Before the log is read, which is never behind it.
    remembered = _remembered()
    async with open_custody() as (database, pins), database.connect() as connection:
        roster = pins.read_if_there()
        known = [verified(line, roster) for line in kept]
        of_database, bad = await checkpoints.stored(connection, roster)
        known += of_database
        heads = [Head(each.seq, each.digest) for each in known]
        if remembered is not None:
            heads.append(remembered)
        examined = await audit.examine(connection, heads)
        broken_at = examined.finding.first if examined.finding is not None else None
        there = await inspection.stored(connection, broken_at)
        removed = await removal_proofs.examine(connection, roster)
        of_others = await inspection.of_others(connection)
        found = list(await inspection.at_large(connection, there, removed))
        for report_id in counted(there.ids, "comparing reports"):
            found += await inspection.of_report(connection, report_id, roster)
    newest = max(known, key=lambda each: each.seq, default=None)
    # Nobody signed what the worker remembers.
    vouched = max((each.seq for each in known if each.seq <= examined.vouched), default=0)
    return _Looked(examined, vouched, newest, remembered, bad, tuple(found), there, removed, of_others)


def _remembered() -> "Head | None":
    """What the worker remembers of the log, where this user can read that."""
    from app.cli.state import read_settings
    from app.store.record import witness

    path = read_settings().worker_memory_path
    if not os.access(path, os.R_OK):
        return None
    try:
        return witness.remembered(path)
    except witness.MemoryUnusableError as error:
        say(f"warning: {error}")
        return None


async def _checkpoint(identity: "Identity") -> "Checkpoint":
    from app.cli.state import open_custody
    from app.custody.identity import fingerprint
    from app.store.record import checkpoints

    async with open_custody() as (database, pins):
        roster = pins.read()
        signed = await checkpoints.take(database, identity, roster)
        if signed is not None:
            return signed
        async with database.connect() as connection:
            signer = fingerprint(identity.public_key)
            own = [
                each for each in (await checkpoints.stored(connection, roster))[0] if each.signer == signer
            ]
        if not own:
            raise FailedError("the audit log is empty: there is nothing to sign")
        say("nothing happened since; this is the last one")
        return own[-1]
