"""``cordon report retry``: try to file again what is parked or put off."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.cli.asking import confirmed
from app.cli.console import FailedError, UsageError, emit, say
from app.cli.report.deciding import Out, Yes, drawn_up, hand_in, worded
from app.cli.report.elsewhere import CaFile, Server, ServerOption, TokenFile, server_of
from app.cli.report.opening import open_to_decide, read_key
from app.cli.report.reading import ReportId, readable


def retry(
    report_id: ReportId,
    afresh: Annotated[
        bool,
        typer.Option(
            "--afresh", help="Open a new report, though an earlier one may be filed. Ask NCMEC first."
        ),
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Your private key's file; with --afresh."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(metavar="WHY", help="How you know that it is not filed; with --afresh; - asks."),
    ] = None,
    out: Out = None,
    yes: Yes = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Let the worker try again now to file a report that is parked, or that it put off for a while.

    Where the irreversible call was made before and its outcome is not known, it is asked for again under the
    very same id: nothing is filed twice. A document that NCMEC refused is not tried again but approved anew.

    --afresh forgets that id, and only NCMEC can tell whether that report was filed: a custodian says how they
    know, and signs it. The reason is sealed to the custodians.

        cordon report retry 01J9ZK3V5T8QX2M4N6P8R0S1T2
        cordon report retry 01J9ZK3V5T8QX2M4N6P8R0S1T2 --afresh --identity ada.key --reason 'NCMEC said so'
    """
    at = server_of(server, token_file, ca_file)
    if not afresh:
        if identity is not None or reason is not None or out is not None or at is not None:
            raise UsageError("--identity, --reason, --out and --server go with --afresh")
        attempted = asyncio.run(_retry(report_id))
        again = "it is asked for again under the id that it has" if attempted else "it begins anew"
        say(f"the worker takes report {report_id} up at its next turn; {again}")
        return
    if identity is None or reason is None:
        raise UsageError("--afresh takes --identity and --reason: whoever risks a second report signs it")
    _file_afresh(report_id, identity, worded(reason, "--reason"), out, at, yes=yes)


def _file_afresh(
    report_id: str, identity: Path, reason: str, out: Path | None, at: Server | None, *, yes: bool
) -> None:
    from app.custody.decision import Action

    words = {"reason": reason}
    held = read_key(identity)
    opened = open_to_decide(report_id, held, at)
    for line in readable(words):
        emit(line)
    if not yes and not confirmed("File it as a new report, though an earlier one may be filed"):
        raise FailedError("nothing was changed")
    hand_in(drawn_up(Action.AFRESH, opened, held, words), held, out, "to be opened anew", at)


async def _retry(report_id: str) -> bool:
    from app.cli.state import BY, open_state
    from app.store.reports import filing_orders

    async with open_state() as database, database.begin() as connection:
        return await filing_orders.retry(connection, report_id, now=datetime.now(UTC), by=BY)
