"""``cordon report reseal``: sealed anew where a custodian's key is, so that a later one can read it too."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
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
    said with earlier decisions, and the authority's receipt, stay sealed as they were. Copies that somebody
    took before stay readable with the keys of then: resealing takes nothing back.

        cordon report reseal --identity ada.key
        cordon report reseal --identity ada.key --server https://gate.example --token-file token
    """
    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    work = _here(held, report_ids or []) if at is None else _elsewhere(held, report_ids or [], at)
    tally = asyncio.run(work)
    say(f"sealed anew: {tally.done} reports")
    if tally.closed:
        say(f"not opened by this key, and left as they are: {tally.closed} reports")
    if tally.refused:
        raise FailedError(f"not sealed anew: {', '.join(tally.refused)}")


@dataclass
class _Tally:
    """What came of all reports.

    Attributes:
        done: how many were sealed anew.
        closed: how many the identity does not open.
        refused: ids of those that could not be, as was said of each.
    """

    done: int = 0
    closed: int = 0
    refused: list[str] = field(default_factory=list)


async def _here(identity: "Identity", report_ids: Sequence[str]) -> _Tally:
    """Seal anew what the identity opens."""
    from app.cli.state import BY, open_custody
    from app.store.reports import reports, resealing

    async with open_custody() as (database, pins):
        roster = pins.read()
        _check_pinned(identity, roster)

        async def listed() -> Sequence[str]:
            async with database.connect() as connection:
                return await reports.every_id(connection)

        async def seal(report_id: str) -> bool:
            return await resealing.reseal(database, report_id, identity, roster, by=BY)

        return await _each(report_ids, listed, seal)


async def _elsewhere(identity: "Identity", report_ids: Sequence[str], at: Server) -> _Tally:
    """The same, of a gate's reports; nothing that they say leaves this machine."""
    from app.cli.state import read_settings
    from app.custody.roster import RosterFile
    from app.errors import ConflictError
    from app.store.reports.resealing import RESEALINGS, sealed_anew

    roster = RosterFile(read_settings().roster_path).read()
    _check_pinned(identity, roster)

    async def seal(report_id: str) -> bool:
        for left in reversed(range(RESEALINGS)):
            if await at.is_sealed_to(report_id, roster.fingerprints):
                return False
            _, files = await at.sealed(report_id)
            document, resealed = sealed_anew(report_id, files, identity, roster)
            try:
                await at.hand_in_resealed(report_id, document, resealed, roster.fingerprints)
            except ConflictError:
                if not left:
                    raise
            else:
                break
        return True

    return await _each(report_ids, at.every_id, seal)


async def _each(
    report_ids: Sequence[str],
    listed: Callable[[], Awaitable[Sequence[str]]],
    seal: Callable[[str], Awaitable[bool]],
) -> _Tally:
    """Go through the reports that are named, or through all, those that come meanwhile too.

    One that is gone by its turn is no error, and one that cannot be sealed keeps none after it from being.
    """
    from app.errors import ConflictError, InvalidRequestError, NotFoundError

    tally, seen = _Tally(), set[str]()
    while new := [each for each in report_ids or await listed() if each not in seen]:
        for report_id in counted(new, _DOING):
            seen.add(report_id)
            try:
                tally.done += await seal(report_id)
            except InvalidRequestError:
                tally.closed += 1
            except NotFoundError:
                if report_ids:
                    raise
            except ConflictError as error:
                say(f"report {report_id}: {error.detail}")
                tally.refused.append(report_id)
    return tally


def _check_pinned(identity: "Identity", roster: "Roster") -> None:
    """Say at once what would be refused for each report."""
    from app.custody.identity import fingerprint

    pinned = roster.custodian(fingerprint(identity.public_key))
    if pinned is None:
        raise FailedError("this identity is no pinned custodian's; see 'cordon custodian list'")
    if identity.signing_public_key is None or pinned.signing_key != identity.signing_public_key:
        raise FailedError(f"the signing key that is pinned for {pinned.name} is not this identity's")
