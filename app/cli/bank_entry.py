"""``cordon bank entry``: one entry of a bank, without touching the rest; and what became of a bank."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.asking import in_words
from app.cli.console import emit_json, emit_table, printable, say
from app.media import PDQ_MINIMUM_QUALITY, SignalType

if TYPE_CHECKING:
    from app.store.banks.bank_history import BankChange
    from app.store.banks.bank_listing import BankEntry, EntryState

app = typer.Typer(no_args_is_help=True)

_LARGEST_ID: Final = 2**63 - 1


def fits(number: int | None) -> int | None:
    """Let through what the database can have numbered. A callback: ``max`` would show in every help.

    Raises:
        typer.BadParameter: nothing has so large a number.
    """
    if number is not None and number > _LARGEST_ID:
        raise typer.BadParameter("nothing has so large a number")
    return number


EntryId = Annotated[
    int, typer.Argument(metavar="ID", callback=fits, help="The entry's id, as 'entry find' tells it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
SHOWN_DIGITS = 12


@app.callback()
def entry() -> None:
    """One entry of a bank: what its sources say, and what people decided, without touching the rest.

    cordon bank entry list hashlist --state disputed
    cordon bank entry disable 4711 --why "a logo"
    """


@app.command("list")
def list_entries(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bank's name.")],
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Only those that are 'disabled', 'parked' (waiting for a person, because they matched very "
            "many different media), or 'disputed' (their sources disagree on what they are).",
        ),
    ] = None,
    after: Annotated[
        int, typer.Option(min=0, callback=fits, help="Only those of a larger id: the next page.")
    ] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List entries of a bank, by id.

    The table shows the first digits of each value; --json shows all of it.

        cordon bank entry list hashlist
        cordon bank entry list hashlist --state parked --json
    """
    from app.cli.console import UsageError
    from app.store.banks.bank_listing import EntryState

    if state is not None and state not in set(EntryState):
        raise UsageError(f"--state is one of {', '.join(EntryState)}")
    found = asyncio.run(_page(name, EntryState(state) if state is not None else None, after, limit))
    _show(found, as_json=as_json)
    if len(found) == limit:
        say(f"there may be more: --after {found[-1].id}")


@app.command()
def find(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The bank's name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A list, as import takes it; - is stdin.")],
    signal_type: Annotated[
        SignalType | None,
        typer.Option("--type", help="What all values are, where the list does not tell (64 hex digits)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the entries of a bank that are these very signals. Those it does not hold are left out.

    Values come from a list or a pipe, so that none stands in the shell's history.

        cordon bank entry find hashlist values.txt --type pdq
        cordon bank hash logo.png --json --type pdq | cordon bank entry find hashlist -
    """
    from app.banks.importing import ListFile
    from app.cli import importing

    signals = importing.read_signals(ListFile(file, signal_type, force=True))
    _show(asyncio.run(_find(name, signals)), as_json=as_json)


@app.command()
def show(entry_id: EntryId, as_json: AsJson = False) -> None:
    """Show one entry: its value, each source and its terms, and what people decided.

    cordon bank entry show 4711
    """
    found = asyncio.run(_get(entry_id))
    if as_json:
        emit_json(_document(found))
        return
    emit_table(("what", "is"), _lines(found))


@app.command()
def disable(
    entry_id: EntryId,
    why: Annotated[
        str, typer.Option(metavar="TEXT", help="For those who look at it later; - asks for the words.")
    ],
) -> None:
    """Take one entry out of force. It stays in its bank, so that no import brings it back.

    If it was parked, that is decided with this. A bank of which no entry is left in force makes gates refuse
    to decide: delete it instead.

        cordon bank entry disable 4711 --why "a logo, see case 17"
        cordon bank entry disable 4711 --why -
    """
    from app.store.banks import entry_marks

    decision = partial(entry_marks.disable, entry_id=entry_id, why=in_words(why, "--why"))
    _decide(decision, may_empty_bank_of=entry_id)
    say(f"entry {entry_id} is disabled; every running gate follows within seconds")


@app.command()
def enable(entry_id: EntryId) -> None:
    """Put a disabled entry in force again.

    cordon bank entry enable 4711
    """
    from app.store.banks import entry_marks

    _decide(partial(entry_marks.enable, entry_id=entry_id))
    say(f"entry {entry_id} is in force; every running gate follows within seconds")


@app.command()
def annotate(
    entry_id: EntryId,
    note: Annotated[
        str,
        typer.Argument(
            metavar="NOTE", help="At most 1,000 characters; - asks for it, and empty takes it away."
        ),
    ],
) -> None:
    """Set the note of one entry.

    cordon bank entry annotate 4711 "seen in case 17"
    cordon bank entry annotate 4711 -
    """
    from app.store.banks import entry_marks

    _decide(partial(entry_marks.annotate, entry_id=entry_id, note=in_words(note, "NOTE") or None))
    say(f"entry {entry_id} is annotated")


@app.command()
def keep(entry_id: EntryId) -> None:
    """Decide that a parked entry is right: what it matches is queued for custodians again.

    It is not parked again for 30 days. The other decision is to disable it.

        cordon bank entry list hashlist --state parked
        cordon bank entry keep 4711
    """
    from app.store.banks import entry_marks

    _decide(partial(entry_marks.keep, entry_id=entry_id))
    say(f"entry {entry_id} is kept; every running gate follows within seconds")


@app.command()
def pair(
    entry_id: EntryId,
    suppressor_id: Annotated[
        int,
        typer.Argument(metavar="SUPPRESSOR", callback=fits, help="Id of an entry of a suppression bank."),
    ],
) -> None:
    """Let one entry of a suppression bank cancel near matches of one csam entry.

    Entries of other banks need no pair. An exact match is not cancelled even so.

        cordon bank entry pair 4711 815
    """
    from app.store.banks import entry_marks

    _decide(partial(entry_marks.name_pair, entry_id=entry_id, suppressor_id=suppressor_id))
    say(f"entry {suppressor_id} may cancel near matches of entry {entry_id}")


@app.command()
def unpair(
    entry_id: EntryId,
    suppressor_id: Annotated[
        int,
        typer.Argument(metavar="SUPPRESSOR", callback=fits, help="Id of an entry of a suppression bank."),
    ],
) -> None:
    """Take such a pair apart.

    cordon bank entry unpair 4711 815
    """
    from app.store.banks import entry_marks

    _decide(partial(entry_marks.drop_pair, entry_id=entry_id, suppressor_id=suppressor_id))
    say(f"entry {suppressor_id} cancels no match of entry {entry_id} any more")


def show_history(name: str, *, before: int | None, limit: int, as_json: bool) -> None:
    """Tell what became of a bank, newest first."""
    found = asyncio.run(_history(name, before, limit))
    if as_json:
        for change in found:
            emit_json(
                {
                    "seq": change.seq,
                    "at": change.at.isoformat(),
                    "what": change.what,
                    "by": change.by,
                    "entries": change.entries,
                    "entry_id": change.entry_id,
                    "details": change.details,
                }
            )
        return
    rows = [
        (
            str(change.seq),
            f"{change.at:%Y-%m-%d %H:%M:%S}",
            change.what,
            change.by,
            _entries(change),
            "" if change.entry_id is None else str(change.entry_id),
            _policy(change),
        )
        for change in found
    ]
    emit_table(("seq", "at (UTC)", "what", "by", "entries", "entry", "policy"), rows)


def _entries(change: "BankChange") -> str:
    """How many it added or removed, and of how many that were there it told something."""
    if change.entries is None:
        return ""
    there = (f"{change.details[word]:,} {word}" for word in ("known", "kept") if change.details.get(word))
    return "; ".join([str(change.entries), *there])


def _policy(change: "BankChange") -> str:
    """What the bank does from then on, where that was said."""
    details = change.details
    if not isinstance(details.get("action"), str):
        return ""
    said = [details["action"]]
    for several in (details.get("tiers"), details.get("thresholds")):
        said += [str(each) for each in several] if isinstance(several, list) else []
    if details.get("minimum_quality") not in {None, PDQ_MINIMUM_QUALITY}:
        said.append(f"quality={details['minimum_quality']}")
    return printable(" ".join(said))


def _show(found: "tuple[BankEntry, ...]", *, as_json: bool) -> None:
    if as_json:
        for each in found:
            emit_json(_document(each))
        return
    rows = [
        (
            str(each.id),
            each.type.value,
            f"{each.value.hex()[:SHOWN_DIGITS]}…",
            _state(each),
            printable(", ".join(source.source for source in each.sources)),
            printable(each.note or ""),
        )
        for each in found
    ]
    emit_table(("id", "type", "value", "state", "sources", "note"), rows)


def _state(each: "BankEntry") -> str:
    holds = {"disabled": each.disabled, "parked": each.parked_at, "disputed": each.disputed}
    return ", ".join(name for name, held in holds.items() if held) or "in force"


def _lines(each: "BankEntry") -> list[tuple[str, str]]:
    lines = [
        ("id", str(each.id)),
        ("bank", each.bank),
        ("type", each.type.value),
        ("value", each.value.hex()),
        ("state", _state(each)),
        ("added (UTC)", f"{each.added_at:%Y-%m-%d %H:%M:%S}"),
    ]
    if each.note:
        lines.append(("note", printable(each.note)))
    if each.disabled is not None:
        lines.append(
            (
                "disabled",
                f"{each.disabled.at:%Y-%m-%d %H:%M} by {each.disabled.by}: {printable(each.disabled.why)}",
            )
        )
    if each.parked_at is not None:
        lines.append(("parked since", f"{each.parked_at:%Y-%m-%d %H:%M}"))
    if each.tolerated_until is not None:
        lines.append(("not parked until", f"{each.tolerated_until:%Y-%m-%d %H:%M}"))
    for source in each.sources:
        said = {
            "id": source.reference,
            "classification": source.classification,
            "restrictions": source.restrictions,
            "listed": source.listed_at,
            "imported": f"{source.imported_at:%Y-%m-%d %H:%M}",
        }
        told = "; ".join(f"{name} {value}" for name, value in said.items() if value)
        lines.append(("source", printable(f"{source.source}: {told}")))
    lines += [("suppressor", str(other)) for other in each.suppressors]
    lines += [("different media", f"{count} on {day}") for day, count in each.media.items()]
    return lines


def _document(each: "BankEntry") -> dict[str, Any]:
    disabled = each.disabled
    return {
        "id": each.id,
        "bank": each.bank,
        "type": each.type.value,
        "value": each.value.hex(),
        "note": each.note,
        "added_at": each.added_at.isoformat(),
        "sources": [
            {
                "source": source.source,
                "reference": source.reference,
                "classification": source.classification,
                "restrictions": source.restrictions,
                "listed_at": source.listed_at,
                "imported_at": source.imported_at.isoformat(),
            }
            for source in each.sources
        ],
        "disputed": each.disputed,
        "disabled": {"at": disabled.at.isoformat(), "by": disabled.by, "why": disabled.why}
        if disabled
        else None,
        "parked_at": each.parked_at.isoformat() if each.parked_at else None,
        "tolerated_until": each.tolerated_until.isoformat() if each.tolerated_until else None,
        "suppressors": list(each.suppressors),
        "media": {day.isoformat(): count for day, count in each.media.items()},
    }


def _decide(decision: Callable[..., Awaitable[int | None]], may_empty_bank_of: int | None = None) -> None:
    """Make one decision of ``store.banks.entry_marks``, and wait until every running process follows it."""
    asyncio.run(_decided(decision, may_empty_bank_of))


async def _decided(decision: Callable[..., Awaitable[int | None]], may_empty_bank_of: int | None) -> None:
    from app.cli import importing
    from app.cli.state import BY, open_state
    from app.store.banks import bank_listing, entry_marks

    async with open_state() as database:
        async with database.begin() as connection:
            generation = await decision(connection, by=BY)
        released = await entry_marks.release_reports(database)
        if released:
            say(f"{released} reports that waited with it are queued for custodians")
        if may_empty_bank_of is not None:
            async with database.connect() as connection:
                bank = (await bank_listing.get(connection, may_empty_bank_of)).bank
            await importing.tell_if_emptied(database, bank)
        if generation is not None:
            await importing.wait_for_small_change(database, generation)


async def _page(name: str, state: "EntryState | None", after: int, limit: int) -> "tuple[BankEntry, ...]":
    from app.cli.state import open_state
    from app.store.banks import bank_listing

    async with open_state() as database, database.connect() as connection:
        return await bank_listing.page(connection, name, state=state, after=after, limit=limit)


async def _find(name: str, signals: list[Any]) -> "tuple[BankEntry, ...]":
    from app.cli.state import open_state
    from app.store.banks import bank_listing

    async with open_state() as database, database.connect() as connection:
        return await bank_listing.find(connection, name, signals)


async def _get(entry_id: int) -> "BankEntry":
    from app.cli.state import open_state
    from app.store.banks import bank_listing

    async with open_state() as database, database.connect() as connection:
        return await bank_listing.get(connection, entry_id)


async def _history(name: str, before: int | None, limit: int) -> "tuple[BankChange, ...]":
    from app.cli.state import open_state
    from app.store.banks import bank_history

    async with open_state() as database, database.connect() as connection:
        return await bank_history.history(connection, name, before=before, limit=limit)
