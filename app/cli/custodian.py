"""``cordon custodian``: the people whose public keys reports are sealed to."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from app.cli.console import UsageError, emit, emit_json, emit_table, printable, say

if TYPE_CHECKING:
    from app.store.custodians import Custodian

app = typer.Typer(no_args_is_help=True)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@app.callback()
def custodian() -> None:
    """The people who may open reports. The gate knows their public keys alone; keep at least two of them.

    cordon custodian keygen --out ada.key          (on ada's machine; the file stays there)
    cordon custodian add ada age1...               (on the gate's)
    """


@app.command()
def keygen(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the private key goes; a new file.")],
) -> None:
    """Make a key pair on the custodian's own machine. Prints the public key; the file is private.

    The file has mode 0600, 'age -i' accepts it, and it holds an Ed25519 signing key in a comment line. Back
    it up where only you can reach it: whoever has it can open every report sealed to you.

        cordon custodian keygen --out ada.key
    """
    from app.custody import identity as custody_identity

    identity = custody_identity.generate()
    custody.write_identity(identity, out)
    emit(identity.public_key)
    say(f"the private key is in {printable(str(out))}; on the gate's machine, run:")
    say(f"  cordon custodian add NAME {identity.public_key} --signing-key {identity.signing_public_key}")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Who it is, in letters, digits and . _ @ -")],
    public_key: Annotated[str, typer.Argument(help="The age1... key that keygen printed.")],
    signing_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The ed25519:... key that keygen named.")
    ] = None,
) -> None:
    """Seal every report to one more custodian from now on. Reports from before stay closed to them.

    cordon custodian add ada age1q0x... --signing-key ed25519:...
    """
    if not _NAME.fullmatch(name):
        raise UsageError("name a custodian with 1 to 64 letters, digits and . _ @ -, a letter or digit first")
    added, known = asyncio.run(_add(name, public_key, signing_key))
    say(f"reports are sealed to {added.name} (fingerprint {added.fingerprint}) from now on")
    _warn_if_too_few(known)


@app.command("list")
def list_custodians(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """List the custodians that new reports are sealed to.

    cordon custodian list
    """
    known = asyncio.run(_list())
    if as_json:
        for each in known:
            emit_json(
                {
                    "name": each.name,
                    "fingerprint": each.fingerprint,
                    "public_key": each.public_key,
                    "signing_key": each.signing_key,
                    "added_at": each.added_at.isoformat(),
                }
            )
    else:
        emit_table(
            ("name", "fingerprint", "public key", "signs", "since"),
            [
                (
                    each.name,
                    each.fingerprint,
                    each.public_key,
                    "yes" if each.signing_key else "no",
                    f"{each.added_at:%Y-%m-%d}",
                )
                for each in known
            ],
        )
    _warn_if_too_few(len(known))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="As 'cordon custodian list' shows it.")]) -> None:
    """Seal no more reports to a custodian. What was sealed to them until now, their key still opens.

    cordon custodian remove ada
    """
    left = asyncio.run(_remove(name))
    say(f"no new report is sealed to {printable(name)}; earlier ones still open with that key")
    _warn_if_too_few(left)


async def _add(name: str, public_key: str, signing_key: str | None) -> "tuple[Custodian, int]":
    from app.cli.state import open_state
    from app.store import custodians

    async with open_state() as database, database.begin() as connection:
        added = await custodians.add(
            connection, name=name, untrusted_public_key=public_key, untrusted_signing_key=signing_key
        )
        return added, await custodians.count(connection)


async def _list() -> "tuple[Custodian, ...]":
    from app.cli.state import open_state
    from app.store import custodians

    async with open_state() as database, database.connect() as connection:
        return await custodians.active(connection)


async def _remove(name: str) -> int:
    from app.cli.state import open_state
    from app.store import custodians

    async with open_state() as database, database.begin() as connection:
        await custodians.remove(connection, name)
        return await custodians.count(connection)


def _warn_if_too_few(known: int) -> None:
    from app.store.custodians import ENOUGH, TOO_FEW

    if known < ENOUGH:
        say(f"warning: {TOO_FEW}" + ("" if known else "; without one, the gate takes nothing in"))
