"""What a custodian says of a report: the same options for filing it through the worker and by hand.

Nothing is guessed: what no option says is not said. ``docs/custody.md`` tells each option's source. What is
given as ``-`` is asked for, so that no word about a case need stand in a command.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.asking import in_words
from app.cli.console import UsageError, say
from app.cli.report.opening import Opened, words_of

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.filing.cybertip.document import Said
    from app.filing.cybertip.reporter import Reporter

IncidentType = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="What it is, by a part of NCMEC's name for it: 'trafficking', ..."),
]
Escalate = Annotated[
    str | None,
    typer.Option(
        metavar="WHY", help="Ask for haste, and say why: a child is in danger now; - asks for the words."
    ),
]
Annotations = Annotated[
    list[str] | None,
    typer.Option(
        "--annotation",
        metavar="WORD",
        help="sextortion, csamSolicitation, minorToMinorInteraction, spam, ...",
    ),
]
Classification = Annotated[
    str | None, typer.Option(metavar="CLASS", help="A1, A2, B1 or B2, if you know it.")
]
Intent = Annotated[
    str | None,
    typer.Option(metavar="WORD", help="preferential, commercial, situational, unintentional, minor, risky"),
]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="What else NCMEC should read; - asks for it.")]
Add = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Provenance that the report lacks and you know; marked as yours. KEY=- asks for the value.",
    ),
]
ProvenanceUnknown = Annotated[
    str | None, typer.Option(metavar="WHY", help="Why what is missing cannot be told; - asks for it.")
]


def reporter() -> "Reporter":
    """Who reports, by the settings of this machine; what they do not name is said, since it is filed so."""
    from app.cli.state import read_settings
    from app.filing.cybertip.reporter import Reporter

    named = Reporter.of(read_settings().filing)
    if named.placeholders:
        say(f"the reporter is not set yet, and stands there so: {', '.join(named.placeholders)}")
    return named


def given(
    *,
    incident_type: str | None,
    escalate: str | None,
    annotations: Sequence[str] | None,
    classification: str | None,
    intent: str | None,
    note: str | None,
    add: Sequence[str] | None,
    provenance_unknown: str | None,
) -> dict[str, Any]:
    """What the options say, as fields of ``Said``; those that nobody gave are not in it."""
    named = _in_words(incident_type, "--incident-type")
    said = {
        "incident_type": _incident_type(named) if named is not None else None,
        "escalation": _in_words(escalate, "--escalate"),
        "annotations": tuple(in_words(each, "--annotation") for each in annotations or ()) or None,
        "classification": _in_words(classification, "--classification"),
        "intent": _in_words(intent, "--intent"),
        "note": _in_words(note, "--note"),
        "provenance": _added(add) if add else None,
        "provenance_unknown": _in_words(provenance_unknown, "--provenance-unknown"),
    }
    return {name: value for name, value in said.items() if value is not None}


def said_with_approval(opened: Opened, identity: "Identity") -> dict[str, Any]:
    """What was said with the approval that stands, as fields of ``Said``; empty if it is sealed to others."""
    from app.custody.decision import standing
    from app.filing.cybertip.document import Said

    for each in standing(opened.signed):
        words = words_of(each.decision, identity)
        # Who signs as the second signs the first's words.
        if "incident_type" in words:
            said = {name: words[name] for name in Said.__dataclass_fields__ if words.get(name)}
            return said | {"annotations": tuple(said.get("annotations", ()))}
    return {}


def said_in_all(approved: Mapping[str, Any], here: Mapping[str, Any]) -> "Said":
    """What was said with an approval, and over it what is said now."""
    from app.filing.cybertip.document import Said

    provenance = {**approved.get("provenance", {}), **here.get("provenance", {})}
    return Said(**{**approved, **here, "provenance": provenance})


def missing(opened: Opened, added: Mapping[str, str] | None = None) -> Iterator[str]:
    """What the report lacks for anybody to act on it, in words, with what a custodian adds taken in."""
    from app.report.provenance import gaps

    yield from sorted({gap.words for document in opened.documents for gap in gaps(document, added)})


def refused(xml: bytes) -> Iterator[str]:
    """What NCMEC would refuse of a document, by its rules, and by its schema where this machine has it."""
    from app.cli.state import read_settings
    from app.filing.cybertip.reading import read
    from app.filing.cybertip.schema import load, refusals

    named = read_settings().filing.cybertip_xsd
    schema = load(named) if named is not None else None
    for each in refusals(read(xml), datetime.now(UTC), schema):
        yield f"NCMEC would refuse it: {each}"


def _incident_type(given: str) -> str:
    """The one type of NCMEC's that has the given words in its name."""
    from app.filing.cybertip.rules import INCIDENT_TYPES

    found = [name for name in INCIDENT_TYPES if given.lower() in name.lower()]
    exact = [name for name in found if name.lower() == given.lower()]
    if len(exact or found) != 1:
        raise UsageError(f"--incident-type: write enough of one of: {'; '.join(INCIDENT_TYPES)}")
    return (exact or found)[0]


def _added(given: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    if not all(equals and value for _, equals, value in pairs):
        raise UsageError("--add takes KEY=VALUE, like account_id=4711, or KEY=- to be asked for the value")
    again = [key for key, times in Counter(key for key, _, _ in pairs).items() if times > 1]
    if again:
        # A report has room for one of each, and which of two is meant only their writer knows.
        raise UsageError(f"--add {again[0]}= is given twice; what else is known stands in --note")
    return {key: in_words(value, f"--add {key}=") for key, _, value in pairs}


def _in_words(given: str | None, option: str) -> str | None:
    return in_words(given, option) if given is not None else None
