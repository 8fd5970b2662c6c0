"""``cordon report hold`` and ``unhold``: a flag that anybody may set here, or one that a custodian signs."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import UsageError, say
from app.cli.report.deciding import Out, drawn_up, hand_in
from app.cli.report.elsewhere import CaFile, ServerOption, TokenFile, server_of
from app.cli.report.opening import open_stored, read_key
from app.cli.report.reading import ReportId

if TYPE_CHECKING:
    from app.custody.decision import Action

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
    from app.custody.decision import Action

    if identity is None:
        _check_unsigned_use(out, server)
        asyncio.run(_set_hold(report_id, on_hold=True))
        say(f"report {report_id} is on hold")
        return
    _sign(Action.HOLD, report_id, identity, out, server, token_file, ca_file)


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
    from app.custody.decision import Action

    if identity is None:
        _check_unsigned_use(out, server)
        asyncio.run(_set_hold(report_id, on_hold=False))
        say(f"report {report_id} is not on hold")
        return
    _sign(Action.UNHOLD, report_id, identity, out, server, token_file, ca_file)


def _check_unsigned_use(out: Path | None, server: str | None) -> None:
    if out is not None or server is not None:
        raise UsageError("--out and --server go with a signature: give --identity FILE too")


def _sign(
    action: "Action",
    report_id: str,
    identity: Path,
    out: Path | None,
    server: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    from app.custody.decision import Action

    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    decision = drawn_up(action, open_stored(report_id, held, at), held, {})
    done = "on hold, signed" if action is Action.HOLD else "not on hold, signed"
    hand_in(decision, held, out, done, at)


async def _set_hold(report_id: str, *, on_hold: bool) -> None:
    from app.cli.state import BY, open_custody
    from app.store import decisions

    async with open_custody() as (database, pins), database.begin() as connection:
        roster = pins.read_if_there()
        await decisions.set_hold(connection, report_id, roster, on_hold=on_hold, by=BY)
