"""``cordon key``: the tokens that clients show."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.console import FailedError, UsageError, emit, emit_json, emit_table, printable, say

if TYPE_CHECKING:
    from app.store.keys import Key, Scope

app = typer.Typer(no_args_is_help=True)

MAX_NAME_CHARACTERS: Final = 128

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.callback()
def key() -> None:
    """Make, list and revoke the keys of clients. A key's token is shown once and stored only as a hash.

    cordon key create --name scraper --scope ingest
    cordon key list
    cordon key revoke 01J9ZK3V5T8QX2M4N6P8R0S1T2
    """


@app.command()
def create(
    name: Annotated[str, typer.Option(help="What the key is for, in your words.")],
    scope: Annotated[
        list[str], typer.Option(help="ingest, bank, report or ops; give it again for more than one.")
    ],
    profile: Annotated[
        str, typer.Option(help="The intake policy it is bound to: a table [profile.NAME] of cordon.toml.")
    ] = "default",
    rate: Annotated[
        int, typer.Option(min=1, max=100_000, help="Requests and batch lines a second, over all gates.")
    ] = 50,
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests and batch lines at once, over all gates.")
    ] = 32,
    no_probe_guard: Annotated[
        bool,
        typer.Option(
            "--no-probe-guard",
            help="Do not slow what looks like a search for edits that slip through; for CI. Audited.",
        ),
    ] = False,
    more_scopes: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its token, once. Keep the token where only its client can read it.

    Scopes: 'ingest' hands media in, 'bank' changes banks, 'bank:suppress' beside it makes and fills banks of
    what is harmless, 'report' lists and holds sealed reports, 'ops' reads /v1/status. Give each client only
    what it needs.

        cordon key create --name scraper --scope ingest
        cordon key create --name ci --scope ingest --scope bank --json
    """
    wanted = _Wanted(name, [*scope, *(more_scopes or [])], profile, rate, concurrency, not no_probe_guard)
    made, token = asyncio.run(_create(wanted))
    scopes = sorted(each.value for each in made.scopes)
    if as_json:
        emit_json({"id": made.id, "token": token, "scopes": scopes})
        return
    emit(token)
    say(f"key {made.id} ({', '.join(scopes)}); this token is shown once, and nobody can show it again")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, the revoked ones too. No token is shown: none is known.

    cordon key list
    """
    keys, unreadable = asyncio.run(_list())
    if as_json:
        for each in keys:
            emit_json(_told(each))
    else:
        emit_table(_COLUMNS, list(map(_cells, keys)))
    for key_id in unreadable:
        say(f"key {printable(key_id)} cannot be read")
    if unreadable:
        raise FailedError(
            f"{len(unreadable)} of the keys cannot be read, and open nothing: somebody changed the database"
        )


_COLUMNS: Final = ("id", "name", "scopes", "profile", "a second", "at once", "guard", "last used", "state")


def _cells(key: "Key") -> tuple[str, ...]:
    return (
        key.id,
        printable(key.name),
        ",".join(sorted(key.scopes)),
        printable(key.profile),
        str(key.rate_per_second),
        str(key.concurrency),
        "on" if key.probe_guard else "off",
        f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never",
        "revoked" if key.revoked_at else "active",
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As 'cordon key list' shows it.")],
) -> None:
    """End a key. Every running gate refuses it within a few seconds; nothing brings it back.

    cordon key revoke 01J9ZK3V5T8QX2M4N6P8R0S1T2
    """
    asyncio.run(_revoke(key_id))
    say(f"key {printable(key_id)} is revoked")


@dataclass(frozen=True)
class _Wanted:
    """A key as it was asked for."""

    name: str
    scopes: list[str]
    profile: str
    rate_per_second: int
    concurrency: int
    probe_guard: bool


async def _create(wanted: _Wanted) -> "tuple[Key, str]":
    from app.cli.state import open_state, read_settings
    from app.store import keys

    settings = read_settings()
    if not wanted.name.strip() or len(wanted.name) > MAX_NAME_CHARACTERS or not wanted.name.isprintable():
        raise UsageError(f"--name takes 1 to {MAX_NAME_CHARACTERS} printable characters")
    if wanted.profile not in settings.profiles:
        known = ", ".join(sorted(settings.profiles))
        raise UsageError(
            f"there is no profile '{printable(wanted.profile)}' in the configuration; known: {known}"
        )
    scopes = _checked(wanted.scopes)
    async with open_state(settings) as database, database.begin() as connection:
        return await keys.create(
            connection,
            name=wanted.name,
            scopes=scopes,
            profile=wanted.profile,
            rate_per_second=wanted.rate_per_second,
            concurrency=wanted.concurrency,
            probe_guard=wanted.probe_guard,
        )


def _checked(scopes: list[str]) -> "frozenset[Scope]":
    from app.store.keys import Scope

    named = {part.strip() for scope in scopes for part in scope.split(",")}
    unknown = sorted(named.difference(Scope))
    if unknown:
        known = ", ".join(scope.value for scope in Scope)
        raise UsageError(f"there is no scope '{printable(unknown[0])}'; known: {known}")
    return frozenset(Scope(scope) for scope in named)


async def _list() -> "tuple[tuple[Key, ...], tuple[str, ...]]":
    from app.cli.state import open_state
    from app.store import keys

    async with open_state() as database, database.connect() as connection:
        return await keys.list_keys(connection)


async def _revoke(key_id: str) -> None:
    from app.cli.state import open_state
    from app.store import keys

    async with open_state() as database, database.begin() as connection:
        await keys.revoke(connection, key_id)


def _told(key: "Key") -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "profile": key.profile,
        "rate_per_second": key.rate_per_second,
        "concurrency": key.concurrency,
        "probe_guard": key.probe_guard,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }
