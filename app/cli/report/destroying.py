"""``cordon report destroy``: a custodian orders that a report is removed before its time, and signs it."""

import asyncio
from typing import Annotated

import typer

from app.cli.asking import confirmed
from app.cli.console import FailedError, printable, say
from app.cli.report.deciding import IdentityFile, Out, Yes, drawn_up, first_word, worded
from app.cli.report.elsewhere import CaFile, ServerOption, TokenFile, server_of
from app.cli.report.opening import open_to_decide, read_key, words_of
from app.cli.report.reading import ReportId
from app.cli.report.writing import write_new


def destroy(
    report_id: ReportId,
    identity: IdentityFile,
    reason: Annotated[
        str,
        typer.Option(metavar="WHY", help="Who lawfully asked for it: an authority, a court, a case; - asks."),
    ],
    out: Out = None,
    yes: Yes = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Destroy a report on lawful request, whatever its time, and erase it from the database's files.

    It cannot be undone, and what was not filed never will be. A hold stands against it, and so does a filing
    under way. Your signed order stays, with the reason sealed to the custodians; so does the audit log. Under
    CORDON_DUAL_CONTROL two custodians must order it, each with their own key.

        cordon report destroy 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --reason -
    """
    from app.custody.decision import Action, sign

    words = {"reason": worded(reason, "--reason")}
    held = read_key(identity)
    at = server_of(server, token_file, ca_file)
    opened = open_to_decide(report_id, held, at)
    found = first_word(opened, held, Action.DESTROY)
    if found is not None:
        first, decision = found
        asked = words_of(decision, held).get("reason", "it does not say why")
        say(f"{first.name} ordered it first: {printable(str(asked))}")
    say(f"report {report_id} is {opened.report.state}, of {opened.report.created_at:%Y-%m-%d %H:%M} UTC")
    if not yes and not confirmed("Destroy this report for good"):
        raise FailedError("nothing was destroyed")
    document = sign(drawn_up(Action.DESTROY, opened, held, words), held)
    if out is not None:
        write_new(out, document)
        say(f"the signed order is in {printable(str(out))}; nothing is destroyed until it is handed in:")
        say(f"  POST /v1/reports/{report_id}/destroy with it as the body")
        return
    if at is not None:
        erased = True if asyncio.run(at.destroy(report_id, document)) else None
    else:
        erased = asyncio.run(_destroy(report_id, document))
    if erased is None:
        say(f"your order is kept; report {report_id} stays until a second custodian orders it too:")
        say(f"  cordon report destroy {report_id} --identity THEIR.key --reason ...")
        return
    say(f"report {report_id} is destroyed")
    if at is not None:
        say("the worker there erases what is left in the database's files, within a minute or two")
    if not erased:
        raise FailedError(
            "it may still stand in the database's files: something else is reading them. Run 'cordon report "
            "purge'; the worker tries again every minute"
        )


async def _destroy(report_id: str, document: bytes) -> bool | None:
    """Whether nothing is left of the report; None if it stays until a second custodian orders it too."""
    from app.cli.state import BY, open_custody, read_settings
    from app.retention import purge
    from app.store.reports import removal

    async with open_custody() as (database, pins):
        async with database.begin() as connection:
            gone = await removal.destroy(
                connection,
                document,
                pins.read(),
                report_id=report_id,
                dual_control=read_settings().custody.dual_control,
                by=BY,
            )
        return await purge.erase(database) if gone else None
