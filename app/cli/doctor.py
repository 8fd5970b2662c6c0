"""``cordon doctor``: whether every protection is in force, and whether a match would be caught."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli import testpicture
from app.cli.console import UsageError, emit, emit_json, printable, say

if TYPE_CHECKING:
    from app.controls import Control
    from app.hashing.sandbox import Sandbox
    from app.settings import Settings

_PLATFORM: Final = "cordon doctor"
"""What the test picture is said to come from: its reports join the one that is queued already."""


def doctor(
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Send the test picture through a running gate, too.")
    ] = False,
    server: Annotated[str | None, typer.Option(metavar="URL", help="The gate for --end-to-end.")] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="A token with the scope ingest; CORDON_TOKEN without it."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file that holds the token.")
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM certificates to trust for --server, instead of the system's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a control.")] = False,
) -> None:
    """Check every control on this machine, and the state of the gate whose settings are in force here.

    Exit code 1 if a control is missing that CORDON_STRICT requires. With --end-to-end, the test picture goes
    through the gate that serves at URL, which needs a test bank ('cordon bank create-test'): exit code 1 if
    it does not match. That leaves a sealed report that says 'test: true'; repeated, it joins the same one.

        cordon doctor
        cordon doctor --end-to-end --server http://127.0.0.1:8080 --token-file token
    """
    if end_to_end != (server is not None):
        raise UsageError("--end-to-end and --server go together")
    if not end_to_end and (token is not None or token_file is not None or ca_file is not None):
        raise UsageError("--token, --token-file and --ca-file go with --end-to-end")
    found = asyncio.run(_examine())
    if server is not None:
        from app.cli.ingest import given_token

        found.append(asyncio.run(_send(server, given_token(token, token_file), ca_file)))
    missing = [each.control for each in found if each.required and not each.in_force]
    if as_json:
        for each in found:
            emit_json(
                {
                    "control": each.control,
                    "required": each.required,
                    "in_force": each.in_force,
                    "detail": each.detail,
                }
            )
    else:
        _show(found)
    if missing:
        say(f"missing, and required: {', '.join(missing)}")
        raise typer.Exit(1)


async def _examine() -> "list[Control]":
    from app.cli.state import read_settings
    from app.controls import Control, controls
    from app.hashing.sandbox import Sandbox, SandboxError
    from app.kernel import harden_this_process

    settings = read_settings()
    harden_this_process()
    sandbox = Sandbox(settings.hashing)
    found: list[Control] = []
    try:
        async with sandbox:
            found += controls(sandbox, settings)
            found.append(await _hash_test_picture(settings, sandbox))
    except SandboxError as error:
        found += controls(sandbox, settings)
        found.append(Control("hashing_self_test", True, False, str(error)))
    return [*found, *await _state(settings)]


async def _hash_test_picture(settings: "Settings", sandbox: "Sandbox") -> "Control":
    """Whether the decoders give the test picture its known hashes."""
    from app.controls import Control
    from app.quarantine import Quarantine

    content = testpicture.draw()
    quarantine = Quarantine(settings.intake.inflight_bytes)
    with quarantine.admit(max_bytes=len(content), max_video_bytes=len(content)) as media:
        media.write(content)
        media.finish()
        scan = await sandbox.scan(media)
    hashes = [(each.pdq.hex(), each.phash.hex()) for each in scan.renderings]
    right = hashes == [(testpicture.PDQ, testpicture.PHASH)]
    detail = "decoders give the test picture its known PDQ and pHash"
    if not right:
        detail = f"the test picture came out {scan.undecidable or 'with other hashes than it must'}"
    return Control("hashing_self_test", True, right, detail)


async def _state(settings: "Settings") -> "list[Control]":
    """The database and what it holds, for the gate whose settings these are; nothing is made or changed."""
    from app.controls import Control
    from app.custody.roster import RosterFile
    from app.errors import NotReadyError
    from app.settings import SettingsError
    from app.store import alarms, custodians
    from app.store.banks import bank_signals, banks
    from app.store.database import DATABASE_NAME, Database, SchemaError

    if settings.store.database_url is None and not (settings.store.state_dir / DATABASE_NAME).exists():
        detail = "there is none yet; the first command that needs it makes it"
        return [Control("database", False, False, detail)]
    try:
        database = Database.open(settings.store)
    except SettingsError as error:
        return [Control("database", False, False, str(error))]
    try:
        await database.check_current()
        async with database.connect() as connection:
            there = await banks.every(connection)
            in_force = Counter(dict.fromkeys([bank.id for bank in there], 0))
            for (bank_id, _), count in (await bank_signals.counts(connection)).items():
                in_force[bank_id] += count
            in_force.subtract(await bank_signals.disabled(connection))
            roster = RosterFile(settings.roster_path).read_if_there()
            differences = (await custodians.compare(connection, roster)).told()
            standing = sum((await alarms.count_standing(connection)).values())
        async with database.begin():
            # It may answer and take no write, as where a process was stopped in the middle of its own.
            pass
        has_room = database.has_room()
    except (NotReadyError, SchemaError) as error:
        return [Control("database", False, False, str(error))]
    finally:
        await database.close()
    known = len(roster.custodians)
    # What is harmless decides nothing alone, and may be none.
    deciding = [bank for bank in there if not bank.suppresses]
    counting = [bank for bank in deciding if bank.first_generation is not None]
    emptied = [bank.name for bank in counting if not in_force[bank.id]]
    return [
        Control(
            "database",
            False,
            has_room,
            "it answers, takes writes, and has this Cordon's schema"
            if has_room
            else "its disk is full, so that no report can be stored; make room",
        ),
        Control(
            "banks",
            False,
            bool(counting) and not emptied,
            f"bank {emptied[0]} was emptied, so gates take nothing in; fill it, or delete it"
            if emptied
            else f"{len(counting)} of {len(deciding)} banks that decide had their first import"
            if counting
            else "none was imported into yet",
        ),
        Control(
            "custodians",
            False,
            known >= custodians.ENOUGH and not differences,
            "; ".join(
                [
                    f"{known} pinned",
                    *([custodians.TOO_FEW] if known < custodians.ENOUGH else []),
                    *differences,
                ]
            ),
        ),
        Control(
            "alarms",
            False,
            not standing,
            f"not ended: {standing}; 'cordon report alarms' has what to do about them"
            if standing
            else "none stands",
        ),
    ]


async def _send(server: str, token: str, ca_file: Path | None) -> "Control":
    """Send the test picture through a running gate; it must match."""
    import httpx

    from app.cli.remote import open_client, refusal
    from app.controls import Control

    try:
        async with open_client(server, token, ca_file) as client:
            refused = await refusal(client)
            if refused is not None:
                detail = printable(f"{refused.get('code')}: {refused.get('detail')}")
                return Control("end_to_end", True, False, detail)
            response = await client.post(
                "/v1/ingest",
                files={"media": ("media", testpicture.draw(), "image/png")},
                data={"context": json.dumps({"platform": _PLATFORM})},
            )
        answer = response.json()
    except httpx.TransportError as error:
        detail = f"the server did not answer ({type(error).__name__})"
        return Control("end_to_end", True, False, detail)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        detail = f"what answered with status {response.status_code} is no gate"
    elif answer.get("verdict") == "match":
        return Control("end_to_end", True, True, "the test picture matched, and its report was stored")
    elif "verdict" in answer:
        detail = (
            f"the test picture came out {answer['verdict']}; is there a test bank? 'cordon bank create-test'"
        )
    else:
        detail = printable(f"{answer.get('code')}: {answer.get('detail')}")
    return Control("end_to_end", True, False, detail)


def _show(found: "list[Control]") -> None:
    """Print a table for people, coloured where stdout is a terminal, whole lines where it is not."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        for each in found:
            state = "ok" if each.in_force else "MISSING" if each.required else "no"
            emit(printable(f"{state:<8}{each.control:<26}{each.detail}"))
        return
    table = Table()
    for heading in ("control", "required", "in force", "detail"):
        table.add_column(heading)
    for each in found:
        colour = "green" if each.in_force else "red" if each.required else "yellow"
        state = "yes" if each.in_force else "no"
        table.add_row(
            each.control,
            "yes" if each.required else "",
            f"[{colour}]{state}[/{colour}]",
            escape(printable(each.detail)),
        )
    console.print(table)
