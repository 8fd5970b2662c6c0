"""``cordon report export``: sealed as it stands, or opened, in the form that somebody else takes."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.console import UsageError, printable, say
from app.cli.report.opening import Opened, open_stored, read_key, words_of
from app.cli.report.reading import ReportId
from app.cli.report.writing import write_new

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.filing.cybertip.document import Reporter


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
    classification: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="For xarf, which needs one: baseline, A1, A2, B1 or B2."),
    ] = None,
) -> None:
    """Write a report to a new file: sealed as it stands, or opened with your key for filing it by hand.

    json holds all that the report says and what was decided; html what the CyberTipline's public form asks
    for, in its order; xml the document for its API, as approved or as it would be; xarf the form that hosts
    take (XARF v4). No form holds any media: there are none. What is not sealed is yours to guard and to
    destroy.

        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --out report.age
        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --format html
        cordon report export 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key --format xarf --classification A1
    """
    if written_as is None:
        _check_sealed_use(identity, out)
        _export_sealed(report_id, out or Path(f"{report_id}.age"))
        return
    if identity is None:
        raise UsageError("--format opens the report: give --identity FILE too")
    held = read_key(identity)
    opened = open_stored(report_id, held)
    content = _written(opened, held, written_as, classification)
    named = out or Path(f"{report_id}.{'json' if written_as is Format.XARF else written_as}")
    write_new(named, content)
    say(f"the report is in {printable(str(named))}, not sealed: guard it, and destroy it after use")


def _check_sealed_use(identity: Path | None, out: Path | None) -> None:
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


def _written(opened: Opened, identity: "Identity", written_as: Format, classification: str | None) -> bytes:
    if written_as is Format.JSON:
        return f"{json.dumps(_everything(opened, identity), indent=2, ensure_ascii=False)}\n".encode(
            "utf-8", "backslashreplace"
        )
    # By what was sealed: who can write to the database can write another kind beside it.
    if any(document["bank_kind"] != "csam" for document in opened.documents):
        raise UsageError(f"{written_as} is for reports of csam banks alone; use --format json")
    if written_as is Format.XARF:
        return _xarf(opened, identity, classification)
    xml = _xml(opened, identity)
    if written_as is Format.XML:
        return xml
    from app.filing.cybertip.reading import read
    from app.filing.manual.form import page

    return page(opened.report.id, read(xml))


def _everything(opened: Opened, identity: "Identity") -> Mapping[str, Any]:
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
    }


def _xml(opened: Opened, identity: "Identity") -> bytes:
    """The document that custodians approved, else the one that they would, with what is missing said."""
    from app.cli.state import read_settings
    from app.errors import InvalidRequestError
    from app.filing.cybertip.document import Said, build
    from app.report.provenance import gaps
    from app.store.decisions import standing

    for each in reversed(standing(opened.signed)):
        if each.decision.xml is not None:
            try:
                return identity.decrypt(each.decision.xml)
            except InvalidRequestError:
                say("what was approved is not sealed to you; this is what would be approved now")
                break
    settings = read_settings()
    missing = sorted({gap.words for document in opened.documents for gap in gaps(document)})
    for words in missing:
        say(f"missing: {words}")
    return build(
        opened.documents,
        _reporter(),
        Said(provenance_unknown="nobody added it" if missing else None),
        role=settings.report.reporter_role,
        preservation=settings.report.preservation,
        now=datetime.now(UTC),
    )


def _xarf(opened: Opened, identity: "Identity", classification: str | None) -> bytes:
    from app.filing.manual import xarf

    said = [words_of(each.decision, identity).get("classification") for each in opened.signed]
    classed = classification or next((each for each in reversed(said) if each), None)
    if classed not in xarf.CLASSIFICATIONS:
        raise UsageError(
            "XARF needs a class, which nobody guesses: --classification with one of "
            f"{', '.join(xarf.CLASSIFICATIONS)}"
        )
    called = asyncio.run(_called(opened.report.id))
    return xarf.report(opened.documents[0], _reporter(), classed, ncmec_report_id=called)


def _reporter() -> "Reporter":
    from app.cli.state import read_settings
    from app.filing.cybertip.document import Reporter

    reporter = Reporter.of(read_settings().filing)
    if reporter.placeholders:
        say(f"the reporter is not set yet, and stands there so: {', '.join(reporter.placeholders)}")
    return reporter


async def _sealed(report_id: str) -> tuple[bytes, int]:
    from app.cli.state import open_state
    from app.store import reports
    from app.store import sealed as sealed_files

    async with open_state() as database, database.connect() as connection:
        sealed = await sealed_files.sealed(connection, report_id)
        return sealed, len(await reports.list_sightings(connection, report_id))


async def _called(report_id: str) -> str | None:
    """What the CyberTipline calls the report, if it was filed there for real."""
    from app.cli.state import open_state
    from app.store import reports

    async with open_state() as database, database.connect() as connection:
        return await reports.authority_report_id(connection, report_id, environment="production")
