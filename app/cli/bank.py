"""``cordon bank``: banks of known signals, and the lists that fill them."""

import asyncio
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli import bank_entry
from app.cli.asking import in_words
from app.cli.console import UsageError, emit_json, emit_table, printable, say
from app.media import PDQ_MINIMUM_QUALITY, BankAction, BankKind, SignalType, Tier

if TYPE_CHECKING:
    from app.entries import Bank

_BITS: Final = re.compile(r"[0-9]{1,4}")

app = typer.Typer(no_args_is_help=True)
app.add_typer(bank_entry.app, name="entry")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The bank's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Thresholds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TYPE=BITS",
        help="Largest Hamming distance that still matches, as pdq=31 or phash=6; give it again for both.",
    ),
]
Tiers = Annotated[
    list[str] | None,
    typer.Option(
        "--tier",
        metavar="TIER=ACTION",
        help="What a perceptual match does by its distance, as near=block: strong is PDQ within 16 bits, "
        "near is farther, and pHash always. Never more than a closer one, nor than --action, which is what "
        "digests do.",
    ),
]
QUALITY_HELP = "PDQ matches of pictures below this quality, 50 to 100, do not count."
Reason = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Why matches of a csam bank are blocked without a report; - asks for the words."
    ),
]
ListType = Annotated[
    SignalType | None,
    typer.Option("--type", help="What all values are, where the list does not tell (64 hex digits)."),
]


@dataclass(frozen=True)
class _Policy:
    """What was said of a bank's policy; None is what was not."""

    action: BankAction | None
    thresholds: dict[SignalType, int]
    tiers: dict[Tier, BankAction]
    minimum_quality: int | None
    no_report_reason: str | None


@app.callback()
def bank() -> None:
    """Banks: named sets of known signals of one kind of harm, with what to do on a match.

    cordon bank create hashlist --kind csam --action report
    cordon bank import hashlist hashes.csv
    cordon bank list
    """


@app.command()
def create(
    name: Name,
    kind: Annotated[BankKind, typer.Option(help="The kind of harm; it never changes.")],
    action: Annotated[
        BankAction,
        typer.Option(
            help="On a match: drop and report, drop only, or only count ('observe' lets it pass). 'suppress' "
            "makes a list of what is harmless."
        ),
    ],
    threshold: Thresholds = None,
    tier: Tiers = None,
    minimum_quality: Annotated[int, typer.Option(help=QUALITY_HELP)] = PDQ_MINIMUM_QUALITY,
    no_report_reason: Reason = None,
) -> None:
    """Make an empty bank. It counts once the first import into it is in force.

    'observe' is refused for csam, and 'block' on csam needs --no-report-reason.

    A suppression bank (--kind other --action suppress) lists what was found to be harmless: a picture that
    is nearer to one of its entries than to the entry it matched is no match. It never cancels an exact
    match, and one of a csam bank only where 'cordon bank entry pair' named both entries.

        cordon bank create hashlist --kind csam --action report
        cordon bank create spam --kind other --action block --threshold pdq=20
        cordon bank create leaks --kind ncii --action report --tier near=block --minimum-quality 70
        cordon bank create harmless --kind other --action suppress
    """
    reason = _asked(no_report_reason)
    policy = _Policy(action, _thresholds(threshold), _tiers(tier), minimum_quality, reason)
    asyncio.run(_create(name, kind, action, policy))
    say(f"bank {name} is made; 'cordon bank import {name} FILE' fills it")


@app.command("set")
def set_policy(
    name: Name,
    action: Annotated[BankAction | None, typer.Option(help="On a match, from now on.")] = None,
    threshold: Thresholds = None,
    tier: Tiers = None,
    minimum_quality: Annotated[int | None, typer.Option(help=QUALITY_HELP)] = None,
    no_report_reason: Reason = None,
) -> None:
    """Change what a bank does on a match, or how close a match must be. What is not given stays.

    cordon bank set hashlist --threshold pdq=20
    cordon bank set leaks --tier near=observe
    """
    if action is None and not threshold and not tier and minimum_quality is None and no_report_reason is None:
        raise UsageError(
            "nothing to set: give --action, --threshold, --tier, --minimum-quality or --no-report-reason"
        )
    reason = _asked(no_report_reason)
    asyncio.run(_set(name, _Policy(action, _thresholds(threshold), _tiers(tier), minimum_quality, reason)))
    say(f"bank {name} is changed; every running gate follows within seconds")


@app.command("import")
def import_list(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list; - is standard input.")],
    signal_type: ListType = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Import the good lines, and name those left out on stderr.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Believe --type pdq although the values look like SHA-256.")
    ] = False,
    source: Annotated[str | None, typer.Option(help="Who gives all of it, like 'NCMEC'.")] = None,
    classification: Annotated[
        str | None, typer.Option(help="What all of it is, in the source's own terms, like 'A1'.")
    ] = None,
    restrictions: Annotated[
        str | None, typer.Option(help="What it may be used for, and by whom, as the source has it.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="How many seconds to wait until every running gate has it in force."),
    ] = 600,
    as_json: AsJson = False,
) -> None:
    """Add the signals of a list to a bank: all of it, or nothing if one line is bad.

    The list is CSV with the header type,value or type,value,note; or JSON lines, as 'cordon bank hash --json'
    prints them; or one value a line: 32 hex digits are md5, 40 sha1, 16 phash, and 64 need --type pdq or
    --type sha256. Blank lines and lines that begin with # are skipped.

    What a source says is kept with each entry: name it with --source, or in a column. More columns can be
    reference (the source's id), classification, restrictions and listed_at (a date). A signal that several
    sources give is one entry; if they disagree on what it is, 'bank entry list' calls it disputed. The note
    of a line goes with a new entry alone: 'bank entry annotate' changes that of one the bank holds.

    Up to 10,000 new entries are in force in every running gate within 5 seconds. A longer list is in force
    once its index is built, and until then gates go on with what they have. The command waits for that: exit
    code 1 says that the list is imported and stored, but not in force everywhere within --wait seconds.

        cordon bank import hashlist hashes.csv
        cordon bank import hashlist values.txt --type pdq
        cordon bank import hashlist ncmec.csv --source NCMEC --restrictions "CyberTipline reports only"
        cordon bank hash pictures/ --json | cordon bank import hashlist -
    """
    from app.banks.importing import ListFile
    from app.banks.lists import BadSignalError, new_origin
    from app.cli import importing

    if force and signal_type is not SignalType.PDQ:
        raise UsageError("--force goes with --type pdq")
    said = {"source": source, "classification": classification, "restrictions": restrictions}
    try:
        origin = new_origin(said)
    except BadSignalError as error:
        raise UsageError(str(error)) from None
    if source is not None and (origin is None or origin.source is None):
        raise UsageError("--source is empty: name who gives them, or leave it out")
    if origin is not None and origin.source is None:
        raise UsageError("--classification and --restrictions go with --source")
    listed = ListFile(file, signal_type, force=force, skip_bad=skip_bad, origin=origin)
    importing.import_file(name, listed, wait_seconds=wait, as_json=as_json)


@app.command("list")
def list_banks(as_json: AsJson = False) -> None:
    """List all banks, what they do, and how many entries they hold, disabled ones among them.

    A bank of which no entry is left in force is emptied, and gates refuse to decide.

    cordon bank list
    """
    rows = []
    for each, entries, disabled in asyncio.run(_list()):
        if as_json:
            emit_json(
                {
                    "name": each.name,
                    "kind": each.kind.value,
                    "action": each.action.value,
                    "thresholds": {of.value: each.threshold(of) for of in SignalType if not of.is_digest},
                    "tiers": {tier.value: each.action_of(tier).value for tier in Tier}
                    if not each.suppresses
                    else {},
                    "minimum_quality": each.minimum_quality,
                    "no_report_reason": each.no_report_reason,
                    "entries": {of.value: count for of, count in entries.items()},
                    "disabled": disabled,
                    "imported_at": each.changed_at.isoformat() if each.changed_at else None,
                }
            )
        held = ", ".join(f"{count} {of.value}" for of, count in entries.items() if count)
        if held and disabled:
            in_force = sum(entries.values()) - disabled
            held += f"; {disabled} disabled" if in_force else "; emptied: all disabled"
        rows.append(
            (
                each.name,
                each.kind.value,
                _actions(each),
                held or ("emptied" if each.first_generation is not None else "nothing imported yet"),
                f"{each.changed_at:%Y-%m-%d %H:%M}" if each.changed_at else "",
                _reach(each),
            )
        )
    if not as_json:
        emit_table(("name", "kind", "action", "entries", "imported (UTC)", "thresholds"), rows)


@app.command("hash")
def hash_files(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files, directories, or -.")],
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Tell each frame or page that differs, by its number too.")
    ] = False,
    types: Annotated[
        list[SignalType] | None, typer.Option("--type", help="Only this type; give it again for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell the fingerprints of files: md5, sha1, sha256, and of the first frame as shown, pdq and phash.

    Needs no state. A pdq under quality 50 says too little to match by, and is left out with a warning. The
    files are decoded in a locked process, as every medium is. With --json, the lines can be imported into a
    bank.

        cordon bank hash picture.jpg
        cordon bank hash pictures/ --json --type pdq > list.jsonl
    """
    from app.cli import hashing

    code = hashing.hash_files(
        files, all_frames=all_frames, types=frozenset(types or SignalType), as_json=as_json
    )
    raise typer.Exit(code)


@app.command()
def remove(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A list, as import takes it; - is stdin.")],
    signal_type: ListType = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only what this source gave, as it withdraws it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove the signals of a list from a bank. Those it does not hold are no error.

    With --source, or where a line names its source, that source alone withdraws the signal: if another one
    gave it too, or somebody put it there without a source, it stays.

    A bank that is emptied this way makes gates refuse to decide: delete it if it is no longer wanted.

        cordon bank remove hashlist wrong.csv
        cordon bank remove hashlist withdrawn.csv --source NCMEC
        echo 9e107d9d372bb6826bd81d3542a419d6 | cordon bank remove hashlist -
    """
    from app.banks.importing import ListFile
    from app.banks.lists import BadSignalError, new_origin
    from app.cli import importing

    try:
        origin = new_origin({"source": source})
    except BadSignalError as error:
        raise UsageError(f"--source: {error}") from None
    if source is not None and origin is None:
        raise UsageError(
            "--source is empty: name who withdraws them, or leave it out to remove them outright"
        )
    # What is not in the bank cannot be removed from it, so a wrong type does no harm.
    importing.remove_file(name, ListFile(file, signal_type, force=True, origin=origin), as_json=as_json)


@app.command()
def history(
    name: Name,
    before: Annotated[
        int | None,
        typer.Option(
            min=1, callback=bank_entry.fits, help="Only changes of a smaller number: the next page."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Tell what became of a bank: who did what, when, and to how many entries. Newest first.

    It is read from the audit log, and told of deleted banks too.

        cordon bank history hashlist
    """
    bank_entry.show_history(name, before=before, limit=limit, as_json=as_json)


@app.command("dry-run")
def dry_run(
    name: Name,
    threshold: Annotated[
        int | None,
        typer.Option(min=0, max=64, help="Try this PDQ threshold in bits; the bank's own by default."),
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Try this list in place of what the bank holds."),
    ] = None,
    signal_type: ListType = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a bank would match of clear traffic, and change nothing.

    Try a list before it is imported, or a wider threshold before it is set. It needs PDQ values of clear
    media, which gates keep only if CORDON_KEEP_CLEAR_DAYS is set (at most 7): with the day, and without URL,
    account or digest. Flips, parts of pictures and suppression banks are not tried.

        cordon bank dry-run hashlist --list new.csv
        cordon bank dry-run hashlist --threshold 40 --json
    """
    from app.banks.importing import ListFile
    from app.cli import bank_dry_run

    tried = ListFile(listed, signal_type, force=True) if listed is not None else None
    bank_dry_run.show(name, threshold, tried, as_json=as_json)


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, on a terminal.")] = False,
) -> None:
    """Delete a bank with all of its entries. Reports of its matches stay.

    cordon bank delete spam
    """
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Delete bank {printable(name)}?", err=True):
        raise typer.Exit(1)
    asyncio.run(_delete(name))
    say(f"bank {printable(name)} is deleted")


@app.command("create-test")
def create_test(name: Annotated[str, typer.Argument(help="The bank's name.")] = "test") -> None:
    """Make a bank of kind 'test' that holds the picture of 'cordon test-picture', and nothing else.

    Its matches are real in every respect, but say 'test: true' and can never be filed.

        cordon bank create-test
        cordon test-picture --out test.png && cordon ingest test.png
    """
    from app.cli import importing

    importing.create_test_bank(name)


def _thresholds(given: list[str] | None) -> dict[SignalType, int]:
    thresholds = {}
    for each in given or []:
        name, _, bits = each.partition("=")
        if name not in set(SignalType) or not _BITS.fullmatch(bits):
            raise UsageError("--threshold is written TYPE=BITS, like pdq=31")
        thresholds[SignalType(name)] = int(bits)
    return thresholds


def _tiers(given: list[str] | None) -> dict[Tier, BankAction]:
    tiers = {}
    for each in given or []:
        name, _, action = each.partition("=")
        if name not in set(Tier) or action not in set(BankAction):
            raise UsageError("--tier is written TIER=ACTION, like near=block or strong=report")
        tiers[Tier(name)] = BankAction(action)
    return tiers


def _asked(no_report_reason: str | None) -> str | None:
    return in_words(no_report_reason, "--no-report-reason") if no_report_reason is not None else None


def _actions(bank: "Bank") -> str:
    """What a bank does, and what it does otherwise on matches of a tier."""
    others = [
        f"{tier.value} {bank.action_of(tier).value}"
        for tier in Tier
        if bank.action_of(tier) is not bank.action
    ]
    return ", ".join([bank.action.value, *others])


def _reach(bank: "Bank") -> str:
    """How close a match must be, and of how good a picture, if that was set."""
    reach = f"pdq {bank.threshold(SignalType.PDQ)}, phash {bank.threshold(SignalType.PHASH)}"
    if bank.minimum_quality == PDQ_MINIMUM_QUALITY:
        return reach
    return f"{reach}; quality {bank.minimum_quality}"


async def _create(name: str, kind: BankKind, action: BankAction, policy: _Policy) -> None:
    from app.cli.state import BY, open_state
    from app.store.banks import banks

    async with open_state() as database, database.begin() as connection:
        whole = banks.Policy(
            action,
            policy.thresholds,
            policy.tiers,
            PDQ_MINIMUM_QUALITY if policy.minimum_quality is None else policy.minimum_quality,
            policy.no_report_reason,
        )
        await banks.create(connection, name, kind, whole, by=BY)


async def _set(name: str, policy: _Policy) -> None:
    from app.cli.state import BY, open_state
    from app.store.banks import bank_changes, banks

    async with open_state() as database, database.begin() as connection:
        # Before it looks: what another sets meanwhile would be put back.
        await bank_changes.take_turn(connection)
        there = await banks.get(connection, name)
        await banks.configure(
            connection,
            name,
            by=BY,
            action=policy.action,
            thresholds={**there.thresholds, **policy.thresholds},
            tier_actions={**there.tier_actions, **policy.tiers},
            minimum_quality=policy.minimum_quality,
            no_report_reason=policy.no_report_reason,
        )


async def _list() -> "list[tuple[Bank, dict[SignalType, int], int]]":
    from app.cli.state import open_state
    from app.store.banks import bank_signals, banks

    async with open_state() as database, database.connect() as connection:
        counts, disabled = await bank_signals.counts(connection), await bank_signals.disabled(connection)
        return [
            (each, {of: counts.get((each.id, of), 0) for of in SignalType}, disabled.get(each.id, 0))
            for each in await banks.every(connection)
        ]


async def _delete(name: str) -> None:
    from app.cli.state import BY, open_state
    from app.store.banks import bank_sweeping, banks, entry_marks

    async with open_state() as database:
        async with database.begin() as connection:
            await banks.delete_bank(connection, name, by=BY)
        await entry_marks.release_reports(database)
        await bank_sweeping.sweep(database)
