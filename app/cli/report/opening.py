"""A stored report opened where a custodian's key is: checked against the audit log, and that recorded."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.asking import ask_passphrase
from app.cli.console import FailedError, printable
from app.cli.report.elsewhere import Server

if TYPE_CHECKING:
    from app.custody.decision import Decision, Signed
    from app.custody.identity import Identity
    from app.custody.roster import Pinned, Roster
    from app.store.reports.reports import Report

Document = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A report with all that its custodian may read of it.

    Attributes:
        sealed_sha256: of its sealed files, in the order of ``documents``.
        documents: the report's own, then its later sightings', oldest first.
        signed: the decisions on it, oldest first.
    """

    report: "Report"
    sealed_sha256: tuple[str, ...]
    documents: tuple[Document, ...] = field(repr=False)
    signed: "tuple[Signed, ...]" = field(repr=False)
    roster: "Roster"


def read_key(path: Path) -> "Identity":
    """The identity of a file; its passphrase, and what its plugin asks, is asked on the terminal.

    From here on this process holds secrets, and nobody may dump it.
    """
    from app.custody.identity import read_identity
    from app.kernel import harden_this_process

    harden_this_process()

    return read_identity(path, lambda: ask_passphrase(printable(str(path))), attended=True)


def open_stored(report_id: str, identity: "Identity", server: Server | None = None) -> Opened:
    """Open a report of the database, or of a gate elsewhere.

    A gate's word is taken for what it hands out: whether that is what was sealed, it checks against the audit
    log when a decision on these very files is handed in.

    Raises:
        NotFoundError: there is no such report.
        InvalidRequestError: it, or a later sighting, is not sealed to this identity.
        ConflictError: the database was tampered with.
    """
    return asyncio.run(_open(report_id, identity) if server is None else _fetch(report_id, identity, server))


def open_to_decide(report_id: str, identity: "Identity", server: Server | None = None) -> Opened:
    """The same for who decides then: whoever cannot hears it before reading all of it and being asked.

    Raises:
        FailedError: as ``signer_of`` does.
    """
    opened = open_stored(report_id, identity, server)
    signer_of(opened, identity)
    return opened


def check_is_open(opened: Opened) -> None:
    """Say before anybody reads and is asked that no word can move this report any more.

    Raises:
        FailedError: it is filed.
    """
    from app.store.reports.report_states import TRANSITIONS

    state = opened.report.state
    if not TRANSITIONS[state]:
        raise FailedError(f"the report is {state.value} already; nothing changes that")


def signer_of(opened: Opened, identity: "Identity") -> "Pinned":
    """Who decides with this identity.

    Raises:
        FailedError: it is no pinned custodian's, or that one signs with another key or with none.
    """
    from app.custody.identity import fingerprint

    pinned = opened.roster.custodian(fingerprint(identity.public_key))
    if pinned is None:
        raise FailedError("this identity is no pinned custodian's; see 'cordon custodian list'")
    if identity.signing_public_key is None:
        raise FailedError(
            f"{pinned.name} decides nothing with this identity: it holds no signing key"
            + ("" if pinned.signing_key is None else ", though one is pinned; take a whole copy of the file")
            + ". 'cordon custodian keygen' makes one that does, which 'cordon custodian add' takes"
        )
    if pinned.signing_key != identity.signing_public_key:
        raise FailedError(
            f"the signing key that is pinned for {pinned.name} is not this identity's; remove the custodian "
            f"and add them again with --signing-key {identity.signing_public_key or 'KEY'}"
        )
    return pinned


def words_of(decision: "Decision", identity: "Identity") -> Mapping[str, Any]:
    """What was said with a decision; empty if nothing was, or it is sealed to others."""
    import json

    from app.errors import InvalidRequestError

    if decision.words is None:
        return {}
    try:
        said = json.loads(identity.decrypt(decision.words))
    except (InvalidRequestError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


async def _open(report_id: str, identity: "Identity") -> Opened:
    from app.cli.state import BY, open_custody
    from app.custody.identity import fingerprint
    from app.errors import ConflictError
    from app.report.seal import open_report
    from app.store.record import audit
    from app.store.reports import decisions, reports, sealed

    async with open_custody() as (database, pins):
        roster = pins.read_if_there()
        async with database.connect() as connection:
            files = await sealed.authentic(connection, report_id, roster)
        # Not in the transaction: a plugin may wait for a person, and a gate would wait with it.
        documents = tuple(open_report(file, identity, report_id=report_id) for file in files.values())
        async with database.begin() as connection:
            await reports.lock(connection, report_id)
            report = await reports.get(connection, report_id)
            if await sealed.authentic(connection, report_id, roster) != files:
                raise ConflictError("The report was seen again, or sealed anew, meanwhile; open it again.")
            signed = await decisions.every(connection, report_id, roster)
            told = {"custodian": fingerprint(identity.public_key), "by": BY}
            await audit.append(connection, sealed.OPENED_EVENT, report_id, told)
    return Opened(report, tuple(sealed.digests(files).values()), documents, signed, roster)


async def _fetch(report_id: str, identity: "Identity", server: Server) -> Opened:
    from app.cli.state import read_settings
    from app.custody.decision import verify
    from app.custody.envelope import canonical
    from app.custody.roster import RosterFile
    from app.report.seal import open_report
    from app.store.reports.sealed import digests

    roster = RosterFile(read_settings().roster_path).read()
    report, files = await server.sealed(report_id)
    documents = tuple(open_report(file, identity, report_id=report_id) for file in files.values())
    signed = tuple(
        verify(canonical(each).encode(), roster, of_then_too=True)
        for each in await server.decisions(report_id)
    )
    return Opened(report, tuple(digests(files).values()), documents, signed, roster)
