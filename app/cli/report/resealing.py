"""``cordon report reseal``: sealed anew where a custodian's key is, so that a later one can read it too."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import FailedError, say
from app.cli.progress import counted
from app.cli.report.deciding import IdentityFile
from app.cli.report.elsewhere import CaFile, Server, ServerOption, TokenFile, server_of
from app.cli.report.opening import read_key

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.custody.roster import Roster

_DOING = "sealing anew"


def reseal(
    identity: IdentityFile,
    report_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Only these; all by default.")
    ] = None,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Seal reports anew to the custodians of now, so that one who was added later can open them too.

    For every report that your key opens and that is not sealed to exactly the pinned custodians. What was
    said with earlier decisions stays sealed as it was. Copies that somebody took before stay readable with
    the keys of then: resealing takes nothing back.

        cordon report reseal --identity ada.key
        cordon report reseal --identity ada.key --server https://gate.example --token-file token
    """
    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    work = _here(held, report_ids or []) if at is None else _elsewhere(held, report_ids or [], at)
    done, closed = asyncio.run(work)
    say(f"sealed anew: {done} reports")
    if closed:
        say(f"not opened by this key, and left as they are: {closed} reports")


async def _here(identity: "Identity", report_ids: Sequence[str]) -> tuple[int, int]:
    """Seal anew what the identity opens; how many were, and how many it does not open."""
    from app.cli.state import BY, open_custody
    from app.errors import InvalidRequestError
    from app.store import decisions, reports

    done = closed = 0
    async with open_custody() as (database, pins):
        roster = pins.read()
        _check_pinned(identity, roster)
        async with database.connect() as connection:
            listed = report_ids or await reports.every_id(connection)
        for report_id in counted(listed, _DOING):
            try:
                done += await decisions.reseal(database, report_id, identity, roster, by=BY)
            except InvalidRequestError:
                closed += 1
    return done, closed


async def _elsewhere(identity: "Identity", report_ids: Sequence[str], at: Server) -> tuple[int, int]:
    """The same, of a gate's reports; nothing that they say leaves this machine."""
    from app.cli.state import read_settings
    from app.custody.roster import RosterFile
    from app.errors import InvalidRequestError
    from app.store.decisions import sealed_anew

    roster = RosterFile(read_settings().roster_path).read()
    _check_pinned(identity, roster)
    done = closed = 0
    for report_id in counted(report_ids or await at.every_id(), _DOING):
        if await at.is_sealed_to(report_id, roster.fingerprints):
            continue
        _, files = await at.sealed(report_id)
        try:
            document, resealed = sealed_anew(report_id, files, identity, roster)
        except InvalidRequestError:
            closed += 1
            continue
        await at.hand_in_resealed(report_id, document, resealed, roster.fingerprints)
        done += 1
    return done, closed


def _check_pinned(identity: "Identity", roster: "Roster") -> None:
    """Say at once what would be refused for each report."""
    from app.custody.identity import fingerprint

    pinned = roster.custodian(fingerprint(identity.public_key))
    if pinned is None:
        raise FailedError("this identity is no pinned custodian's; see 'cordon custodian list'")
    if identity.signing_public_key is None or pinned.signing_key != identity.signing_public_key:
        raise FailedError(f"the signing key that is pinned for {pinned.name} is not this identity's")
