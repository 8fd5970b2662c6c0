"""``cordon report export``: sealed as it stands, or opened, in the form that somebody else takes."""

import asyncio
import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import UsageError, printable, say
from app.cli.report import saying
from app.cli.report.opening import Opened, open_stored, read_key, words_of
from app.cli.report.reading import ReportId
from app.cli.report.writing import write_new

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.custody.roster import Roster
    from app.filing.cybertip.document import Said


class Format(StrEnum):
    """What an opened report is written as."""

    JSON = "json"
    HTML = "html"
    XML = "xml"
    XARF = "xarf"


def export(
    report_id: ReportId,
    identity: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Your private key's file; needed with --format."),
    ] = None,
    written_as: Annotated[
        Format | None, typer.Option("--format", help="Open it, and write it so; sealed if left out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new file, 0600; ID.json, ID.html, ... by default."),
    ] = None,
    incident_type: saying.IncidentType = None,
    escalate: saying.Escalate = None,
    annotations: saying.Annotations = None,
    classification: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS", help="A1, A2, B1 or B2, if you know it; xarf needs one, and takes baseline too."
        ),
    ] = None,
    intent: saying.Intent = None,
    note: saying.Note = None,
    add: saying.Add = None,
    provenance_unknown: saying.ProvenanceUnknown = None,
) -> None:
    """Write a report to a new file: sealed as it stands, or opened with your key for filing it by hand.

    json holds all that the report says and what was decided; html what the CyberTipline's public form asks
    for; xml the document for its API; xarf the form that hosts take (XARF v4). html and xml are what was
    approved, to the letter; or, where nothing was or you say something here, what would be. What you say is
    marked as yours, and stands over what was said with an approval. No form holds any media: there are none.
    What is not sealed is yours to guard and to destroy.

        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --out report.age
        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --format html --add account_id=4711
        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --format xarf --classification A1
    """
    said = saying.given(
        incident_type=incident_type,
        escalate=escalate,
        annotations=annotations,
        classification=classification,
        intent=intent,
        note=note,
        add=add,
        provenance_unknown=provenance_unknown,
    )
    if written_as is None:
        _check_sealed_use(identity, out, said)
        _export_sealed(report_id, out or Path(f"{report_id}.age"))
        return
    if identity is None:
        raise UsageError("--format opens the report: give --identity FILE too")
    held = read_key(identity)
    opened = open_stored(report_id, held)
    content = _written(opened, held, written_as, said)
    named = out or Path(f"{report_id}.{'json' if written_as is Format.XARF else written_as}")
    write_new(named, content)
    say(f"the report is in {printable(str(named))}, not sealed: guard it, and destroy it after use")


def _check_sealed_use(identity: Path | None, out: Path | None, said: Mapping[str, Any]) -> None:
    if said:
        raise UsageError("a sealed report takes no words of yours: open it with --identity and --format")
    if identity is not None:
        raise UsageError("--identity opens the report: say as what to write it with --format")
    if out is None:
        raise UsageError("name the file with --out, or open the report with --identity and --format")


def _export_sealed(report_id: str, out: Path) -> None:
    sealed, later = asyncio.run(_sealed(report_id))
    write_new(out, sealed)
    say(f"the sealed report is in {printable(str(out))}")
    if later:
        say(f"not in it: {later} later sightings; 'cordon report open {report_id}' shows them")


def _written(opened: Opened, identity: "Identity", written_as: Format, here: Mapping[str, Any]) -> bytes:
    from app.filing.manual import xarf

    # By what was sealed: who can write to the database can write another kind beside it.
    csam = all(document["bank_kind"] == "csam" for document in opened.documents)
    if not csam and written_as is not Format.JSON:
        raise UsageError(f"{written_as} is for reports of csam banks alone; use --format json")
    baseline = written_as is Format.XARF and here.get("classification") == xarf.BASELINE
    if baseline:
        here = {name: value for name, value in here.items() if name != "classification"}
    approved = saying.said_with_approval(opened, identity)
    said = saying.said_in_all(approved, here)
    for words in saying.missing(opened, said.provenance):
        say(f"missing: {words}")
    if written_as is Format.JSON:
        everything = _everything(opened, identity, here)
        return f"{json.dumps(everything, indent=2, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")
    if written_as is Format.XARF:
        return _xarf(opened, said, xarf.BASELINE if baseline else said.classification)
    xml = _approved(opened, identity, anew=bool(here)) or _built(opened, said)
    if written_as is Format.XML:
        for words in saying.refused(xml):
            say(words)
        return xml
    from app.filing.cybertip.reading import read
    from app.filing.manual.form import page

    return page(opened.report.id, read(xml), added=_not_seen(opened, said))


def _everything(opened: Opened, identity: "Identity", here: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "report_id": opened.report.id,
        "state": opened.report.state,
        "on_hold": opened.report.on_hold,
        "documents": list(opened.documents),
        "decisions": [
            {
                "action": each.decision.action,
                "decided_at": each.decision.decided_at.isoformat(),
                "custodian": each.decision.custodian,
                "words": dict(words_of(each.decision, identity)),
            }
            for each in opened.signed
        ],
        "said_by_who_exported": dict(here),
    }


def _approved(opened: Opened, identity: "Identity", *, anew: bool) -> bytes | None:
    """The document that custodians approved; None if there is none to be read, or another is wanted."""
    from app.custody.decision import standing
    from app.errors import InvalidRequestError

    for each in reversed(standing(opened.signed)):
        if each.decision.xml is None:
            continue
        if anew:
            say("this is not what was approved, but that with what you say here")
            return None
        try:
            return identity.decrypt(each.decision.xml)
        except InvalidRequestError:
            say("what was approved is not sealed to you; this is what would be approved now")
            return None
    return None


def _built(opened: Opened, said: "Said") -> bytes:
    """The document that would be approved, which says what is missing."""
    from app.cli.state import read_settings
    from app.filing.cybertip.document import build

    settings = read_settings()
    if said.provenance_unknown is None and any(saying.missing(opened, said.provenance)):
        said = dataclasses.replace(said, provenance_unknown="nobody added it")
    return build(
        opened.documents,
        saying.reporter(),
        said,
        role=settings.report.reporter_role,
        preservation=settings.report.preservation,
        now=datetime.now(UTC),
    )


def _xarf(opened: Opened, said: "Said", classification: str | None) -> bytes:
    from app.filing.manual import xarf

    if classification is None:
        raise UsageError(
            "XARF needs a class, which nobody guesses: --classification with one of "
            f"{', '.join(xarf.CLASSIFICATIONS)}"
        )
    called = asyncio.run(_called(opened.report.id, opened.roster))
    return xarf.report(
        opened.documents[0],
        saying.reporter(),
        classification,
        ncmec_report_id=called,
        added=_not_seen(opened, said),
    )


def _not_seen(opened: Opened, said: "Said") -> Mapping[str, str]:
    """What a custodian added and no sighting tells: it is marked as such."""
    from app.report.provenance import told_of

    told = [told_of(document, {}) for document in opened.documents]
    return {
        key: value
        for key, value in said.provenance.items()
        if not any(each.get(key) == value for each in told)
    }


async def _sealed(report_id: str) -> tuple[bytes, int]:
    from app.cli.state import open_state
    from app.store.reports import reports
    from app.store.reports import sealed as sealed_files

    async with open_state() as database, database.connect() as connection:
        sealed = await sealed_files.sealed(connection, report_id)
        return sealed, len(await reports.list_sightings(connection, report_id))


async def _called(report_id: str, roster: "Roster") -> str | None:
    """What the CyberTipline calls the report, if it was filed there for real and the worker signed that."""
    from app.cli.state import open_state
    from app.filing.cybertip.environment import Environment
    from app.store.reports import endings

    async with open_state() as database, database.connect() as connection:
        filed = dict(sorted(await endings.filed(connection, report_id, roster)))
    return filed.get(Environment.PRODUCTION.value)
