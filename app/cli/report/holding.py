"""``cordon report hold`` and ``unhold``: a flag that anybody may set here, or one that a custodian signs."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import UsageError, say
from app.cli.report.deciding import Out, drawn_up, hand_in
from app.cli.report.elsewhere import CaFile, Server, ServerOption, TokenFile, server_of
from app.cli.report.opening import open_stored, read_key
from app.cli.report.reading import ReportId

Signer = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        metavar="FILE",
        dir_okay=False,
        help="Sign it with your private key.",
        show_default=False,
    ),
]


def hold(
    report_id: ReportId,
    identity: Signer = None,
    out: Out = None,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Keep a report from ever being removed, until 'unhold'. Doing it twice is no error.

    With --identity you sign it, and it ends only when a custodian signs that it does: sign the hold of what
    must not go. One that nobody signed is a flag, which any token for reports, and whoever can write to the
    database, can take off.

        cordon report hold 01J9ZK3V5T8QX2M4N6P8R0S1T2
        cordon report hold 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key
    """
    _set(report_id, identity, out, server_of(server, token_file, ca_file), on_hold=True)


def unhold(
    report_id: ReportId,
    identity: Signer = None,
    out: Out = None,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """End a hold. Doing it twice is no error.

    One that a custodian signed takes a custodian's signature to end: any custodian's, with --identity.

        cordon report unhold 01J9ZK3V5T8QX2M4N6P8R0S1T2
        cordon report unhold 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity grace.key
    """
    _set(report_id, identity, out, server_of(server, token_file, ca_file), on_hold=False)


def _set(
    report_id: str, identity: Path | None, out: Path | None, at: Server | None, *, on_hold: bool
) -> None:
    from app.custody.decision import Action

    told = "on hold" if on_hold else "not on hold"
    if identity is not None:
        held = read_key(identity)
        action = Action.HOLD if on_hold else Action.UNHOLD
        decision = drawn_up(action, open_stored(report_id, held, at), held, {})
        hand_in(decision, held, out, f"{told}, signed", at)
        return
    if out is not None or at is not None:
        raise UsageError("--out and --server go with a signature: give --identity FILE too")
    asyncio.run(_set_flag(report_id, on_hold=on_hold))
    say(f"report {report_id} is {told}")


async def _set_flag(report_id: str, *, on_hold: bool) -> None:
    from app.cli.state import BY, open_custody
    from app.store.reports import accepting

    async with open_custody() as (database, pins), database.begin() as connection:
        roster = pins.read_if_there()
        await accepting.set_hold(connection, report_id, roster, on_hold=on_hold, by=BY)
