"""``cordon ingest``: files, URLs and standard input through the gate, here or on a server."""

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.cli.console import UsageError, emit, emit_json, printable, say
from app.media import SignalType

if TYPE_CHECKING:
    from rich.console import Console

    from app.banks.listed import ListedBanks
    from app.cli.outcomes import Outcome, Tell
    from app.cli.saving import SaveDirectory
    from app.cli.sources import Source

MATCHED: Final = 3
FAILED: Final = 1
UNDECIDABLE: Final = 4

TOKEN_VARIABLE: Final = "CORDON_TOKEN"  # noqa: S105 - where a token may stand, not one

_VERDICTS: Final = ("clear", "match", "undecidable", "failed")
_COLOURS: Final = {"clear": "green", "match": "red", "undecidable": "yellow", "failed": "magenta"}
_MOST_AT_ONCE: Final = 256


def ingest(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Files, directories, URLs, or - for standard input."),
    ] = None,
    from_list: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="Take the sources from a list; - is standard input."),
    ] = None,
    list_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="lines|jsonl|csv",
            help='How the list is written: a source a line; {"url", "context"} a line; or CSV with a header '
            "of url or source and any keys of the context.",
        ),
    ] = "lines",
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what is clear there, as new files of mode 0600.")
    ] = None,
    bank: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="LIST",
            help="Match against this list of hashes alone, without any state; give it again for more.",
        ),
    ] = None,
    signal_type: Annotated[
        SignalType | None,
        typer.Option("--type", help="What plain values of the lists are, where their length does not tell."),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Hand everything to the gate that serves there.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help=f"The key's token. Others on this machine see it: prefer --token-file or {TOKEN_VARIABLE}.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the token.")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM certificates to trust for --server, instead of the system's."),
    ] = None,
    hide_matched_sources: Annotated[
        bool,
        typer.Option(
            "--hide-matched-sources", help="Tell matches by line number and client_ref, not by source."
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, max=_MOST_AT_ONCE, help="Sources at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a source.")] = False,
) -> None:
    """Take media through the gate: hash in memory, match, and keep only what is clear.

    With --bank, against lists of hashes, with no state and no report. Without, against the banks of this
    machine's gate: what matches is reported to its custodians. With --server, by a gate elsewhere.

        cordon ingest --bank hashes.csv pictures/
        cordon ingest --from urls.txt --save clean/
        cordon ingest --server https://gate.example --token-file token --from urls.txt --json

    Exit codes: 3 if anything matched; else 1 if any source failed; else 4 if any could not be decided; else
    0. A source that does not exist is 2, before anything is taken in. A file that matched stays where it is:
    Cordon never deletes it, and says so on stderr.
    """
    save_to = None
    given = _given_sources(sources or [], from_list, list_format)
    if save is not None:
        from app.cli.saving import SaveDirectory

        save_to = SaveDirectory(save)
    if server is None:
        if token is not None or token_file is not None or ca_file is not None:
            raise UsageError("--token, --token-file and --ca-file go with --server")
        if signal_type is not None and not bank:
            raise UsageError("--type goes with --bank")
    elif bank or signal_type is not None:
        raise UsageError("--bank and --type are for runs without a server: its banks are its own")
    if not given:
        say("no files there; nothing was taken in")
        raise typer.Exit(1)
    with _shown(len(given), as_json=as_json, hide=hide_matched_sources) as tally:
        run = _Run(given, save_to, tally.tell, concurrency)
        if server is not None:
            asyncio.run(_on_server(run, server, given_token(token, token_file), ca_file))
        elif bank:
            _on_lists(run, bank, signal_type)
        else:
            asyncio.run(_on_state(run))
    raise typer.Exit(tally.exit_code)


@dataclass(frozen=True)
class _Run:
    """What every way of ingesting is given."""

    sources: "list[Source]"
    save: "SaveDirectory | None"
    tell: "Tell"
    at_once: int


def given_token(token: str | None, token_file: Path | None) -> str:
    """The token that was given in one of the three ways.

    Raises:
        UsageError: none was given, or two, or its file cannot be read.
    """
    if token is not None and token_file is not None:
        raise UsageError("give --token or --token-file, not both")
    if token is not None:
        return token.strip()
    if token_file is not None:
        try:
            return token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise UsageError(
                f"--token-file {printable(str(token_file))}: cannot be read as a token"
            ) from None
    if TOKEN_VARIABLE in os.environ:
        return os.environ[TOKEN_VARIABLE].strip()
    raise UsageError(f"--server needs a token: --token-file FILE, {TOKEN_VARIABLE}, or --token TOKEN")


def _given_sources(arguments: list[str], from_list: str | None, list_format: str) -> "list[Source]":
    from app.cli import sources

    if bool(arguments) == (from_list is not None):
        raise UsageError("name sources, or a list of them with --from; one of the two")
    if from_list is None:
        return sources.named(arguments)
    try:
        written_as = sources.ListFormat(list_format)
    except ValueError:
        raise UsageError("--format is lines, jsonl or csv") from None
    if from_list == sources.STANDARD_INPUT:
        return sources.listed(sys.stdin.buffer, written_as)
    try:
        with Path(from_list).open("rb") as file:
            return sources.listed(file, written_as)
    except OSError as error:
        raise UsageError(f"--from {printable(from_list)}: {error.strerror}") from None


async def _on_server(run: _Run, server: str, token: str, ca_file: Path | None) -> None:
    from app.cli.remote import RemoteRun, open_client

    async with open_client(server, token, ca_file) as client:
        await RemoteRun(client, run.save).take_in_all(run.sources, run.tell, at_once=run.at_once)


async def _on_state(run: _Run) -> None:
    from app.cli.local import ENTRANCE, LocalRun, drained, wait_for_banks
    from app.cli.outcomes import work_on_all
    from app.cli.state import read_settings
    from app.kernel import harden_this_process
    from app.pipeline import check_ready
    from app.wiring import open_gate

    settings = read_settings()
    profile = settings.profiles["default"]
    harden_this_process()
    async with open_gate(settings, ENTRANCE) as wired:
        await wait_for_banks(wired)
        await check_ready(wired.gate, profile)
        local = LocalRun(wired, profile, disclose_banks=profile.disclose_banks, save=run.save)
        async with drained(wired.gate):
            await work_on_all(run.sources, local.take_in, run.tell, at_once=run.at_once)


def _on_lists(run: _Run, lists: list[Path], signal_type: SignalType | None) -> None:
    from app.banks.importing import BadLinesError, ListFile
    from app.banks.listed import ListedBanks
    from app.banks.lists import ListError
    from app.cli.importing import rereadable

    with contextlib.ExitStack() as kept:
        files = [kept.enter_context(rereadable(ListFile(path, signal_type))) for path in lists]
        try:
            banks = ListedBanks.read(files)
        except BadLinesError as error:
            first = error.summary.first_bad[0]
            raise UsageError(f"--bank: {first}; {error.summary.bad} lines of the list are bad") from None
        except ListError as error:
            raise UsageError(f"--bank: {error}") from None
    asyncio.run(_on_listed(run, banks))


async def _on_listed(run: _Run, banks: "ListedBanks") -> None:
    from app.cli.local import LocalRun, drained
    from app.cli.outcomes import work_on_all
    from app.cli.state import read_settings
    from app.kernel import harden_this_process
    from app.settings import Profile
    from app.wiring import open_listed_gate

    harden_this_process()
    async with open_listed_gate(read_settings(), banks) as wired:
        # Whoever holds the lists may know which of them matched.
        local = LocalRun(wired, Profile(), disclose_banks=True, save=run.save)
        async with drained(wired.gate):
            await work_on_all(run.sources, local.take_in, run.tell, at_once=run.at_once)


@dataclass
class Tally:
    """Tells of outcomes as they come, and counts them."""

    as_json: bool
    hide: bool
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    bar: Any = None

    @property
    def exit_code(self) -> int:
        """Of all outcomes so far, the worst."""
        if self.counts["match"]:
            return MATCHED
        if self.counts["failed"]:
            return FAILED
        return UNDECIDABLE if self.counts["undecidable"] else 0

    def tell(self, outcome: "Outcome") -> None:
        """Print one outcome, and count it."""
        self.counts[outcome.verdict] += 1
        why = _why(outcome)
        if outcome.verdict != "clear":
            self.reasons[outcome.verdict, why.partition(":")[0]] += 1
        source = self._source(outcome)
        on_disk = outcome.verdict == "match" and outcome.source.kind == "file"
        if self.as_json:
            emit_json(_document(outcome, source, on_disk=on_disk))
        else:
            shown = source if isinstance(source, str) else f"line {source['line']}"
            if isinstance(source, dict) and source["client_ref"]:
                shown += f" ({source['client_ref']})"
            emit(f"{outcome.verdict:<12}{printable(shown)}{f'  {printable(why)}' if why else ''}")
        if on_disk:
            shown = printable(source) if isinstance(source, str) else f"that of line {source['line']}"
            say(
                f"the file that matched is still there: {shown}. Cordon never deletes it. Do not open, copy "
                "or send it; tell whoever answers for reports, and remove it only as they say"
            )
        if self.bar is not None:
            self.bar.advance()

    def _source(self, outcome: "Outcome") -> str | dict[str, Any]:
        if self.hide and outcome.matched:
            return {"line": outcome.source.line, "client_ref": outcome.source.context.client_ref}
        return outcome.source.name


def _document(outcome: "Outcome", source: str | dict[str, Any], *, on_disk: bool) -> dict[str, Any]:
    if outcome.answer is None:
        return {"source": source, "problem": outcome.problem}
    document = {"source": source, **outcome.answer}
    if on_disk:
        document["on_disk"] = True
    if outcome.saved is not None:
        document["saved"] = str(outcome.saved)
    return document


def _why(outcome: "Outcome") -> str:
    if outcome.problem is not None:
        return f"{outcome.problem.get('code')}: {outcome.problem.get('detail')}"
    answer = outcome.answer or {}
    if outcome.verdict == "match":
        told = [each["bank"] for each in answer.get("matches") or []]
        report = answer.get("report")
        return ", ".join([*told, f"report {report['id']}"] if report else told)
    return str(answer.get("reason") or "") if outcome.saved is None else f"saved as {outcome.saved}"


class _Bar:
    """A progress bar on stderr, while the results go by above it."""

    def __init__(self, console: "Console", total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # Only results on the same terminal may be drawn above the bar; a pipe must get them as they are.
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )
        self._task = self.progress.add_task("through the gate", total=total)

    def advance(self) -> None:
        self.progress.advance(self._task)


@contextlib.contextmanager
def _shown(total: int, *, as_json: bool, hide: bool) -> Iterator[Tally]:
    """A tally that shows its progress on a terminal, and a closing table once all is done."""
    tally = Tally(as_json=as_json, hide=hide)
    began = time.monotonic()
    if not sys.stderr.isatty():
        yield tally
        if total > 1:
            say(", ".join(f"{tally.counts[verdict]} {verdict}" for verdict in _VERDICTS))
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    tally.bar = _Bar(console, total)
    with tally.bar.progress:
        yield tally
    _print_table(console, tally, time.monotonic() - began)


def _print_table(console: "Console", tally: Tally, seconds: float) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=f"{tally.counts.total()} sources in {seconds:.1f} s", caption_justify="left")
    table.add_column("verdict")
    table.add_column("sources", justify="right")
    table.add_column("why")
    for verdict in _VERDICTS:
        if not tally.counts[verdict]:
            continue
        reasons = {why: count for (of, why), count in tally.reasons.items() if of == verdict and why}
        told = ", ".join(f"{why} {count}" for why, count in reasons.items()) if verdict != "match" else ""
        colour = _COLOURS[verdict]
        table.add_row(f"[{colour}]{verdict}[/{colour}]", str(tally.counts[verdict]), escape(told))
    console.print(table)
