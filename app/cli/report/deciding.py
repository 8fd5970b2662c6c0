"""``cordon report approve``, ``reject`` and ``annotate``: signed where the custodian's key is."""

import asyncio
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.asking import confirmed, in_words
from app.cli.console import FailedError, UsageError, emit, printable, say
from app.cli.report import saying
from app.cli.report.elsewhere import CaFile, Server, ServerOption, TokenFile, server_of
from app.cli.report.opening import Opened, check_is_open, open_to_decide, read_key, signer_of, words_of
from app.cli.report.reading import ReportId, of_report
from app.cli.report.waiting import way_waits_for
from app.cli.report.writing import write_new

if TYPE_CHECKING:
    from app.custody.decision import Action, Decision
    from app.custody.identity import Identity
    from app.custody.roster import Pinned, Roster, WorkerKeys
    from app.filing.cybertip.document import Said

IdentityFile = Annotated[
    Path, typer.Option("--identity", metavar="FILE", dir_okay=False, help="Your private key's file.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write the signed document here instead, to be sent over HTTP; a new file."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")]


def approve(
    report_id: ReportId,
    identity: IdentityFile,
    incident_type: saying.IncidentType = None,
    escalate: saying.Escalate = None,
    annotations: saying.Annotations = None,
    classification: saying.Classification = None,
    intent: saying.Intent = None,
    note: saying.Note = None,
    add: saying.Add = None,
    provenance_unknown: saying.ProvenanceUnknown = None,
    out: Out = None,
    yes: Yes = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Open a report, see what it says and lacks, and sign the very XML that is to be filed.

    What is stored is checked against the audit log first. The XML is built here and sealed to the filing
    worker's key and the custodians'; the worker files those bytes and nothing else. Nothing is guessed: what
    you do not set is not in it. Under CORDON_DUAL_CONTROL, who comes second signs the first's very XML.

        cordon report approve 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key
        cordon report approve 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --add account_id=4711
        cordon report approve 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --note - --escalate -
    """
    from app.filing.cybertip.document import Said

    said = Said(
        **saying.given(
            incident_type=incident_type,
            escalate=escalate,
            annotations=annotations,
            classification=classification,
            intent=intent,
            note=note,
            add=add,
            provenance_unknown=provenance_unknown,
        )
    )
    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    opened = open_to_decide(report_id, held, at)
    check_is_open(opened)
    _show(opened)
    _check_can_be_filed(opened)
    xml, words = _second(opened, held, said) or _first(opened, said)
    wrong = list(saying.refused(xml))
    for each in wrong:
        say(each)
    if wrong:
        raise UsageError("nothing was approved: the worker would park it; mend that first")
    emit("\nwhat is filed, to the letter")
    emit(xml.decode())
    if not yes and not confirmed("Approve this for filing"):
        raise FailedError("nothing was approved")
    hand_in(_approval(opened, held, xml, words), held, out, "approved", at)


def reject(
    report_id: ReportId,
    identity: IdentityFile,
    reason: Annotated[
        str, typer.Option(metavar="WHY", help="Why it is no match that must be reported; - asks.")
    ],
    disable_entry: Annotated[
        list[int] | None,
        typer.Option(metavar="ENTRY", help="Take this entry of a bank out of force in the same step."),
    ] = None,
    out: Out = None,
    yes: Yes = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Decide that a report is of a false match. It is kept for a while, and can still be approved until then.

    One that was approved already is rejected the same way, as long as it is not filed: the worker withdraws
    what it opened at the authority, and the report is 'retracted' then. If it was too late, it is 'filed'.
    Where nobody can ask the authority's API any more, rejecting it again after a day is the last word.

    The reason is sealed to the custodians. An entry that matches what it should not can be taken out of force
    in the same step; 'cordon report open' names it under its match. Under CORDON_DUAL_CONTROL two custodians
    must reject it, and only an entry that both name is taken out of force: by default, those of the first.

        cordon report reject 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --reason -
        cordon report reject 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --reason 'a logo' --disable-entry 7
    """
    from app.custody.decision import Action

    entries = tuple(disable_entry or ())
    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    opened = open_to_decide(report_id, held, at)
    check_is_open(opened)
    _show(opened)
    matched = {match["entry_id"] for document in opened.documents for match in document["matches"]}
    if not matched.issuperset(entries):
        raise UsageError(f"--disable-entry takes an entry that matched here: {', '.join(map(str, matched))}")
    entries = entries or _named_first(opened, held)
    if not yes and not confirmed("Reject this report"):
        raise FailedError("nothing was rejected")
    words = {"reason": worded(reason, "--reason")}
    decision = drawn_up(Action.REJECT, opened, held, words, disabled_entries=entries)
    hand_in(decision, held, out, "rejected", at)


def annotate(
    report_id: ReportId,
    identity: IdentityFile,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What the other custodians should know; - asks.")],
    out: Out = None,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Write a note on a report, signed and sealed to the custodians. It is not filed; its state stays.

    cordon report annotate 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --note -
    """
    from app.custody.decision import Action

    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    words = {"note": worded(note, "--note")}
    decision = drawn_up(Action.ANNOTATE, open_to_decide(report_id, held, at), held, words)
    hand_in(decision, held, out, "annotated", at)


def _show(opened: Opened) -> None:
    """All that the report says, and what it lacks."""
    for number, document in enumerate(opened.documents):
        if number:
            emit(f"\nseen again ({number} of {len(opened.documents) - 1})")
        for line in of_report(document):
            emit(line)
    for words in saying.missing(opened):
        emit(f"missing: {words}")


def _check_can_be_filed(opened: Opened) -> None:
    # By what was sealed: who can write to the database can write another kind beside it.
    if any(document["bank_kind"] != "csam" for document in opened.documents):
        raise FailedError(
            "only reports of csam banks can be filed; 'cordon report export' writes it for others"
        )


def worded(text: str, option: str) -> str:
    """A text that says something; asked for, where ``-`` was given."""
    text = in_words(text, option)
    if not text.strip():
        raise UsageError(f"{option} is empty; write what there is to say, or '-' to be asked")
    return text


def _first(opened: Opened, said: "Said") -> tuple[bytes, Mapping[str, Any]]:
    """The XML of what the report and its custodian say, and their words."""
    from app.cli.state import read_settings
    from app.filing.cybertip.document import build, unguessable

    settings = read_settings()
    xml = build(
        opened.documents,
        saying.reporter(),
        said,
        role=settings.report.reporter_role,
        preservation=settings.report.preservation,
        now=datetime.now(UTC),
    )
    return unguessable(xml), dataclasses.asdict(said)


def _second(opened: Opened, identity: "Identity", said: "Said") -> tuple[bytes, Mapping[str, Any]] | None:
    """The XML that another custodian approved first, where two must; None if there is none."""
    from app.cli.state import read_settings
    from app.custody.decision import standing
    from app.custody.identity import fingerprint
    from app.filing.cybertip.document import Said

    if not read_settings().custody.dual_control:
        return None
    for each in reversed(standing(opened.signed)):
        decision = each.decision
        if (
            decision.custodian == fingerprint(identity.public_key)
            or decision.sealed_sha256 != opened.sealed_sha256
            or decision.xml is None
        ):
            continue
        first = opened.roster.custodian(decision.custodian)
        if first is None:
            continue
        if said != Said():
            say(f"{first.name} approved another document; yours is a first approval too")
            return None
        xml = identity.decrypt(decision.xml)
        if hashlib.sha256(xml).hexdigest() != decision.xml_sha256:
            raise FailedError(f"what {first.name} sealed is not what they signed; reject the report")
        say(f"{first.name} approved this first; you sign the very same document")
        return xml, {"second_to": decision.custodian}
    return None


def _named_first(opened: Opened, identity: "Identity") -> tuple[int, ...]:
    """The entries that another custodian named, who rejected it first; that and why is told."""
    from app.custody.decision import Action

    found = first_word(opened, identity, Action.REJECT)
    if found is None:
        return ()
    first, decision = found
    reason = words_of(decision, identity).get("reason", "it does not say why")
    say(f"{first.name} rejected this first: {printable(str(reason))}")
    entries = decision.disabled_entries
    if entries:
        say(f"{first.name} wants entries taken out of force: {', '.join(map(str, entries))}")
    return entries


def first_word(opened: Opened, identity: "Identity", action: "Action") -> "tuple[Pinned, Decision] | None":
    """Who else decided so before, and what; None if nobody did."""
    from app.custody.decision import waiting
    from app.custody.identity import fingerprint

    for each in reversed(waiting(opened.signed, action)):
        first = opened.roster.custodian(each.decision.custodian)
        if first is not None and first.fingerprint != fingerprint(identity.public_key):
            return first, each.decision
    return None


def _approval(opened: Opened, identity: "Identity", xml: bytes, words: Mapping[str, Any]) -> "Decision":
    from app.custody.decision import Action
    from app.custody.identity import encrypt

    roster = opened.roster
    return drawn_up(
        Action.APPROVE,
        opened,
        identity,
        words,
        xml_sha256=hashlib.sha256(xml).hexdigest(),
        xml=encrypt(xml, (_worker(roster).public_key, *roster.public_keys)),
    )


def _worker(roster: "Roster") -> "WorkerKeys":
    if roster.worker is None:
        raise FailedError(
            "the filing worker's key is not pinned, so nothing can be sealed to it; 'cordon custodian pin "
            "--worker' pins it. To file by hand, 'cordon report export' and 'cordon report filed' do without."
        )
    return roster.worker


def drawn_up(
    action: "Action",
    opened: Opened,
    identity: "Identity",
    words: Mapping[str, Any],
    **more: Any,  # noqa: ANN401 - the members that go with the action
) -> "Decision":
    """A decision on the report as it was opened; words are sealed to the custodians."""
    from app.custody.decision import Decision
    from app.custody.identity import encrypt

    return Decision(
        action=action,
        report_id=opened.report.id,
        sealed_sha256=opened.sealed_sha256,
        decided_at=datetime.now(UTC),
        custodian=signer_of(opened, identity).fingerprint,
        words=encrypt(json.dumps(words).encode(), opened.roster.public_keys),
        **more,
    )


def hand_in(
    decision: "Decision", identity: "Identity", out: Path | None, done: str, server: Server | None = None
) -> None:
    """Sign a decision, and take it in here or at a gate elsewhere, or write it to a file for HTTP."""
    from app.custody.decision import sign

    document = sign(decision, identity)
    if out is not None:
        write_new(out, document)
        say(f"the signed document is in {printable(str(out))}; nothing is {done} until it is handed in:")
        say(f"  POST /v1/reports/{decision.report_id}/{decision.action} with it as the body")
        return
    report_id, action = decision.report_id, decision.action
    if server is None:
        state, waiting = asyncio.run(_take(report_id, action, document))
    else:
        state, waiting = asyncio.run(server.hand_in(report_id, action, document)), None
    for line in _outcome(report_id, action, state, done):
        say(line)
    if waiting is not None:
        say(f"report {report_id}: {waiting}")


def _outcome(report_id: str, action: "Action", state: str, done: str) -> tuple[str, ...]:
    """What became of a report, for the custodian who decided, and what is to be done next."""
    from app.cli.state import read_settings
    from app.custody.decision import Action

    again = f"  cordon report {action.value} {report_id} --identity THEIR.key"
    after_two, first, next_command = {
        Action.APPROVE: ("approved", "has its first approval; it waits", again),
        Action.FILED: (
            "filed_manually",
            f"stays {state}, though one says that it was filed by hand; it waits",
            f"{again} --reference ...",
        ),
        Action.AFRESH: (
            "submitted",
            f"stays {state}, though one says that it is to be opened anew; it waits",
            f"  cordon report retry {report_id} --afresh --identity THEIR.key --reason ...",
        ),
        Action.REJECT: (
            "rejected",
            f"has its first rejection, and stays {state}; it waits",
            f"{again} --reason ...",
        ),
    }.get(action, (state, "", ""))
    if state == after_two:
        return (f"report {report_id} is {done}",)
    if action is not Action.REJECT or state != "submitted":
        return (f"report {report_id} {first} for a second custodian:", next_command)
    withdrawn = (
        f"the approval of report {report_id} is taken back; where it is open, the worker withdraws it",
        f"unless it is filed already; 'cordon report show {report_id}' tells what came of it",
    )
    if not read_settings().custody.dual_control:
        return withdrawn
    return (
        "if this is its first rejection, it waits for a second custodian; after two,",
        *withdrawn,
    )


async def _take(report_id: str, action: "Action", document: bytes) -> tuple[str, str | None]:
    """The state that it came to, and what it waits for now if nobody would guess."""
    from app.cli.state import BY, open_custody, read_settings
    from app.store.reports import accepting

    async with open_custody() as (database, pins), database.begin() as connection:
        report = await accepting.take(
            connection,
            document,
            pins.read(),
            report_id=report_id,
            actions=(action,),
            dual_control=read_settings().custody.dual_control,
            by=BY,
        )
        return report.state.value, (await way_waits_for(connection, [report])).get(report_id)
