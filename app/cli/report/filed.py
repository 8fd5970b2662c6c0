"""``cordon report filed``: a custodian says that a report was filed by hand, and signs it."""

from typing import Annotated

import typer

from app.cli.asking import confirmed
from app.cli.console import FailedError, emit, printable, say
from app.cli.report.deciding import IdentityFile, Out, Yes, drawn_up, first_word, hand_in, worded
from app.cli.report.elsewhere import CaFile, ServerOption, TokenFile, server_of
from app.cli.report.opening import check_is_open, open_to_decide, read_key, words_of
from app.cli.report.reading import ReportId, readable


def filed(
    report_id: ReportId,
    identity: IdentityFile,
    reference: Annotated[
        str,
        typer.Option(metavar="TEXT", help="What the authority calls it: a report number, a case; - asks."),
    ],
    out: Out = None,
    yes: Yes = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Record that you filed a report by hand, as with an authority's own form. Nothing is filed after that.

    You sign it; the reference is sealed to the custodians, and 'cordon report open' shows it. How long the
    report is kept counts from now. 'cordon report export' writes what the form asks for. Under
    CORDON_DUAL_CONTROL two custodians must say so; until the second, it can be approved and filed as ever.

        cordon report filed 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --reference 'CyberTip 123456789'
    """
    from app.custody.decision import Action

    words = {"reference": worded(reference, "--reference")}
    held = read_key(identity)
    at = server_of(server, token_file, ca_file)
    opened = open_to_decide(report_id, held, at)
    check_is_open(opened)
    found = first_word(opened, held, Action.FILED)
    if found is not None:
        first, decision = found
        said = words_of(decision, held).get("reference", "it does not say under which reference")
        say(f"{first.name} said so first: {printable(str(said))}")
    for line in readable(words):
        emit(line)
    if not yes and not confirmed("Record that this report was filed by hand"):
        raise FailedError("nothing was recorded")
    hand_in(drawn_up(Action.FILED, opened, held, words), held, out, "filed by hand", at)
