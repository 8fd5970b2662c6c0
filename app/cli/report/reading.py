"""Reports listed, shown, and opened where a custodian's key is."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.console import FailedError, UsageError, emit, emit_json, emit_table, printable, say
from app.cli.report.elsewhere import CaFile, ServerOption, TokenFile, server_of
from app.cli.report.opening import Document, Opened, open_stored, read_key, words_of
from app.cli.report.waiting import waits_for

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.store.reports.decisions import Listed
    from app.store.reports.filing_log import LoggedStep
    from app.store.reports.filings import Filing
    from app.store.reports.removal import Tombstone
    from app.store.reports.report_states import State
    from app.store.reports.reports import Page, Report, Sighting

MAX_SEALED_BYTES: Final = 16 * 1024 * 1024

_TOLD: Final = 10
"""Of so many reports a list tells what they wait for."""

ReportId = Annotated[str, typer.Argument(metavar="ID", help="As 'cordon report list' shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def list_reports(
    state: Annotated[
        str | None, typer.Option(help="Only those in this state: queued, approved, filed, parked, ...")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List all reports, newest first: what can be told without opening them.

    One whose row holds what no Cordon wrote is listed by its id alone (with --json the rest is null), and the
    command exits with 1.

    cordon report list
    cordon report list --json | jq -r .id
    """
    from app.store.reports.report_states import State

    if state is not None and state not in list(State):
        raise UsageError(f"--state is one of {', '.join(State)}")
    found, waiting = asyncio.run(_list(State(state) if state is not None else None))
    readable_ones = {each.id: each for each in found.reports}
    rows = []
    for report_id in sorted([*readable_ones, *found.unreadable], reverse=True):
        each = readable_ones.get(report_id)
        if as_json:
            emit_json(
                {
                    "id": report_id,
                    "state": each.state if each else None,
                    "created_at": each.created_at.isoformat() if each else None,
                    "bank_kind": each.bank_kind.value if each else None,
                }
            )
        rows.append((report_id, *(_cells(each) if each else ("unreadable", "", "", ""))))
    if not as_json:
        emit_table(("id", "state", "created (UTC)", "kind", "on hold"), rows)
    for report_id, what in list(waiting.items())[:_TOLD]:
        say(f"report {report_id}: {what}")
    if len(waiting) > _TOLD:
        say(f"and {len(waiting) - _TOLD} more; 'cordon report show' tells of each what it waits for")
    if found.unreadable:
        raise FailedError(
            f"{len(found.unreadable)} of the reports cannot be read: somebody changed the database. "
            "'cordon audit verify' says where, as far as the audit log tells"
        )


def _cells(report: "Report") -> tuple[str, str, str, str]:
    held = "yes" if report.on_hold else ""
    return report.state.value, f"{report.created_at:%Y-%m-%d %H:%M}", report.bank_kind.value, held


def show(report_id: ReportId, as_json: AsJson = False) -> None:
    """Show what can be told of one report without opening it, and how far its filing has come.

    Of one that was removed, by time or by a custodian's order, what is left: how it ended, and when it went.

    cordon report show 01J9ZK3V5T8QX2M4N6P8R0S1T2
    """
    told, steps = asyncio.run(_show(report_id))
    if as_json:
        emit_json(told | {"steps": [_step(each) for each in steps]})
        return
    for line in readable(told):
        emit(line)
    if steps:
        emit("")
        emit_table(
            ("when (UTC)", "step", "where", "its id there", "why"),
            [
                (
                    f"{each.at:%Y-%m-%d %H:%M:%S}",
                    each.step,
                    *map(_shown, (each.environment, each.authority_report_id, each.cause)),
                )
                for each in steps
            ],
        )


def _told(
    found: "Report",
    waiting: str | None,
    later: "Sequence[Sighting]",
    decided: "Listed",
    filing: "Filing | None",
) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "cause": found.cause,
        "waits_for": waiting,
        "created_at": found.created_at.isoformat(),
        "changed_at": found.changed_at.isoformat() if found.changed_at else None,
        "decided_at": found.decided_at.isoformat() if found.decided_at else None,
        "receipt_at": found.receipt_at.isoformat() if found.receipt_at else None,
        "bank_kind": found.bank_kind.value,
        "on_hold": found.on_hold,
        "custodians": list(found.custodians),
        "sealed_sha256": found.sealed_sha256,
        "filing": _filing(found, filing),
        "decisions": [
            {"taken_in_at": at.isoformat(), "action": action, "signer": signer}
            for at, action, signer in decided
        ],
        "later_sightings": [
            {
                "id": each.id,
                "seen_at": each.seen_at.isoformat(),
                "custodians": list(each.custodians),
                "sealed_sha256": each.sealed_sha256,
            }
            for each in later
        ],
    }


def _told_of_removed(left: "Tombstone") -> dict[str, Any]:
    return {
        "id": left.id,
        "state": left.state,
        "created_at": left.created_at.isoformat(),
        "decided_at": left.decided_at.isoformat() if left.decided_at else None,
        "receipt_at": left.receipt_at.isoformat() if left.receipt_at else None,
        "bank_kind": left.bank_kind.value,
        "authority_report_id": left.authority_report_id,
        "removed_at": left.removed_at.isoformat(),
        "removed_because": "a custodian ordered it" if left.document is not None else "its time was over",
        "erased_at": left.erased_at.isoformat() if left.erased_at else None,
    }


def _filing(report: "Report", filing: "Filing | None") -> dict[str, Any] | None:
    """How far it has come at the authority; None if nobody tried."""
    from app.store.reports.filings import TO_FILE

    if filing is None:
        return None
    on_its_way = report.state in TO_FILE
    return {
        "environment": filing.environment,
        "step": filing.step.value,
        "authority_report_id": filing.authority_report_id,
        "request_id": filing.request_id,
        "attempts": filing.attempts,
        "last_code": filing.last_code,
        "first_attempt_at": filing.first_attempt_at.isoformat(),
        "opened_at": filing.opened_at.isoformat() if filing.opened_at else None,
        "finish_attempted_at": filing.finish_attempted_at.isoformat() if filing.finish_attempted_at else None,
        "next_attempt_at": filing.next_attempt_at.isoformat() if on_its_way else None,
        "in_hand_until": filing.leased_until.isoformat() if filing.leased_until else None,
    }


def _step(logged: "LoggedStep") -> dict[str, str | None]:
    return {
        "at": logged.at.isoformat(),
        "step": logged.step,
        "environment": logged.environment,
        "authority_report_id": logged.authority_report_id,
        "cause": logged.cause,
    }


def _shown(untrusted: str | None) -> str:
    return printable(untrusted) if untrusted is not None else ""


def open_report(
    report: Annotated[
        str,
        typer.Argument(metavar="ID|FILE", help="A report's id, or a sealed file; that needs no database."),
    ],
    identity: Annotated[
        Path, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Your private key's file.")
    ],
    as_json: AsJson = False,
    server: ServerOption = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Open a report with a custodian's key, and show all that it says.

    By id, what is stored is checked against the audit log first, and later sightings of the same medium at
    the same place are shown too. A sealed file is opened as it is: it does not prove who sealed it. With
    --json, one line a document, the report's own first.

        cordon report open 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key
        cordon report open report.age --identity ada.key
    """
    at = server_of(server, token_file, ca_file)
    held = read_key(identity)
    if _is_file(report):
        documents, decided, receipt, related = [_open_file(Path(report), held)], [], [], []
    else:
        opened = open_stored(report, held, at)
        documents, decided = list(opened.documents), list(_decided(opened, held))
        receipt = asyncio.run(_receipt(report, held)) if at is None else []
        related = [] if as_json or at is not None or held.is_of_plugin else _related(opened, held)
    for number, document in enumerate(documents):
        if as_json:
            emit_json(document)
            continue
        if number:
            emit(f"\nseen again ({number} of {len(documents) - 1})")
        for line in of_report(document):
            emit(line)
    if as_json:
        return
    for heading, lines in (
        ("decisions", decided),
        ("receipt", receipt),
        ("other reports of the same medium at the same place", related),
    ):
        if lines:
            emit(f"\n{heading}")
        for line in lines:
            emit(f"  {printable(line)}")


async def _list(state: "State | None") -> "tuple[Page, dict[str, str]]":
    """The reports, and of some of them what they wait for."""
    from app.cli.state import open_state
    from app.store.reports import reports

    found: list[Report] = []
    unreadable: list[str] = []
    waiting: dict[str, str] = {}
    async with open_state() as database, database.connect() as connection:
        while True:
            page = await reports.list_reports(
                connection,
                state=state,
                before=found[-1].id if found else None,
                limit=reports.MAX_LISTED,
            )
            found += page.reports
            unreadable += page.unreadable
            waiting |= await waits_for(connection, page.reports)
            if len(page.reports) < reports.MAX_LISTED:
                return reports.Page(tuple(found), tuple(unreadable)), waiting


async def _show(report_id: str) -> "tuple[dict[str, Any], tuple[LoggedStep, ...]]":
    """What can be told of a report, or of what is left of it, and its steps towards the authority."""
    from app.cli.state import open_state
    from app.errors import NotFoundError
    from app.store.reports import decisions, filing_log, filings, removal, reports

    async with open_state() as database, database.connect() as connection:
        try:
            found = await reports.get(connection, report_id)
        except NotFoundError:
            left = await removal.tombstone(connection, report_id)
            if left is None:
                raise
            told = _told_of_removed(left)
        else:
            told = _told(
                found,
                (await waits_for(connection, [found])).get(report_id),
                await reports.list_sightings(connection, report_id),
                await decisions.listed(connection, report_id),
                await filings.get(connection, report_id),
            )
        return told, await filing_log.steps(connection, report_id)


def _is_file(report: str) -> bool:
    """Whether a file is meant; an id has the shape of a ULID and is looked for in the database."""
    from ulid import ULID

    try:
        ULID.from_str(report)
    except ValueError:
        return True
    return False


def _open_file(path: Path, identity: "Identity") -> Document:
    from app.report.seal import open_report as unseal

    try:
        with path.open("rb") as file:
            untrusted_sealed = file.read(MAX_SEALED_BYTES)
    except OSError as error:
        raise UsageError(f"{printable(str(path))}: {error.strerror}; give a report's id or a file") from None
    return unseal(untrusted_sealed, identity)


def _decided(opened: Opened, identity: "Identity") -> Iterator[str]:
    """What was decided, and what custodians said with it as far as it is sealed to this one."""
    from app.custody.decision import Action

    for each in opened.signed:
        decision = each.decision
        by_itself = decision.action is Action.APPROVE_AUTOMATICALLY
        name = "the worker, and no person" if by_itself else each.signer.name
        yield f"{decision.decided_at:%Y-%m-%d %H:%M} UTC  {decision.action}  {name}"
        yield from readable(words_of(decision, identity), "    ")


async def _receipt(report_id: str, identity: "Identity") -> list[str]:
    """The authority's last word on the report, to the letter, if it is sealed to this custodian."""
    from app.cli.state import open_state
    from app.errors import ConflictError, InvalidRequestError
    from app.store.reports import filings

    async with open_state() as database, database.connect() as connection:
        try:
            sealed = await filings.receipt_as_recorded(connection, report_id)
        except ConflictError as error:
            return [f"not shown: {error}"]
    if sealed is None:
        return []
    try:
        return [printable(line) for line in identity.decrypt(sealed).decode("utf-8", "replace").splitlines()]
    except InvalidRequestError:
        return ["it is sealed to others"]


def _related(opened: Opened, identity: "Identity") -> list[str]:
    """Other reports of the same medium at the same place, among the newest: a help for the reader."""
    from app.errors import InvalidRequestError
    from app.report.seal import open_report as unseal

    document = opened.documents[0]
    place = _place(document)
    found = []
    for other_id, file in sorted(asyncio.run(_others(document["report_id"])).items()) if place else ():
        try:
            other = unseal(file, identity)
        except InvalidRequestError:
            continue
        if _place(other) == place and other["signals"]["sha256"] == document["signals"]["sha256"]:
            when = "earlier" if other_id < document["report_id"] else "later"
            found.append(f"{other_id}  {when}, {other['created_at']}")
    return found


async def _others(report_id: str) -> dict[str, bytes]:
    from app.cli.state import open_state
    from app.store.reports import reports
    from app.store.reports import sealed as sealed_files

    async with open_state() as database, database.connect() as connection:
        return {
            other.id: await sealed_files.sealed(connection, other.id)
            for other in (await reports.list_reports(connection, limit=reports.MAX_LISTED)).reports
            if other.id != report_id
        }


def _place(document: Document) -> tuple[Any, ...]:
    """Where a report says that its medium was found; empty if it does not."""
    requested = document["provenance"].get("requested_url")
    if requested is not None:
        return ("url", requested)
    said = [document["context"].get(key) for key in ("platform", "account_id", "post_id", "source_url")]
    return tuple(said) if any(said) else ()


def of_report(document: Document) -> Iterator[str]:
    """An opened report as lines that a person can read.

    What no Cordon writes stands apart, below a heading: it could call itself a decision, or a receipt.
    """
    from app.report.draft import MEMBERS

    yield from readable({key: value for key, value in document.items() if key in MEMBERS})
    others = {key: value for key, value in document.items() if key not in MEMBERS}
    yield from readable({"in the report, and not written there by any Cordon": others})


def readable(document: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A document as lines that a person can read, nothing left out but what is empty."""
    for key, value in document.items():
        name = f"{indent}{printable(key.replace('_', ' '))}"
        if isinstance(value, Mapping):
            if value:
                yield name
                yield from readable(value, indent + "  ")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(isinstance(each, Mapping) for each in value):
                for number, each in enumerate(value, 1):
                    yield f"{name} {number}"
                    yield from readable(each, indent + "  ")
            elif value:
                yield f"{name}: {', '.join(printable(str(each)) for each in value)}"
        elif value is not None:
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else printable(str(value))
            yield f"{name}: {shown}"
