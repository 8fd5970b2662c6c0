"""``cordon custodian``: the people whose public keys reports are sealed to."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.asking import ask_new_passphrase, confirmed
from app.cli.console import FailedError, UsageError, emit, emit_json, emit_table, printable, say

if TYPE_CHECKING:
    from app.custody.identity import Identity
    from app.custody.roster import Roster
    from app.store.custodians import Custodian, Difference, Readable

app = typer.Typer(no_args_is_help=True)


@app.callback()
def custodian() -> None:
    """The people who may open reports. The gate knows their public keys alone; keep at least two of them.

    cordon custodian keygen --out ada.key          (on ada's machine; the file stays there)
    cordon custodian add ada age1...               (on the gate's)
    """


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.command()
def keygen(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the private key goes; a new file.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the file by a passphrase, asked on the terminal.")
    ] = False,
    plugin: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An identity file of an age plugin, to open with in the place of a new key.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key pair on the custodian's own machine. Prints the public key; the file is private.

    The file has mode 0600, 'age -i' accepts it, and it holds an Ed25519 signing key in a comment line. Back
    it up where only you can reach it: whoever has it can open every report sealed to you. Under a passphrase
    the file alone is of no use; one that is forgotten cannot be reset.

    Who opens with a hardware key through an age plugin names the identity file that the plugin wrote: the new
    file holds that identity, and a signing key beside it.

        cordon custodian keygen --out ada.key --passphrase
        cordon custodian keygen --out ada.key --plugin yubikey.txt
    """
    from app.custody.identity import generate, write_identity
    from app.custody.roster import WorkerKeys
    from app.kernel import harden_this_process

    harden_this_process()
    identity = generate() if plugin is None else _with_signing_key(plugin)
    write_identity(identity, out, ask_new_passphrase() if passphrase else None)
    if as_json:
        emit_json({"public_key": identity.public_key, "signing_key": identity.signing_public_key})
        return
    emit(identity.public_key)
    say(f"the private key is in {printable(str(out))}; on the gate's machine, run for a custodian's:")
    say(f"  cordon custodian add NAME {identity.public_key} --signing-key {identity.signing_public_key}")
    if plugin is None:
        say("or for the filing worker's:")
        say(f"  {WorkerKeys.of(identity).pinned_by}")


def _with_signing_key(plugin: Path) -> "Identity":
    """A plugin's identity, and a new key to sign with."""
    from dataclasses import replace

    from app.cli.report.opening import read_key
    from app.custody.identity import generate

    identity = read_key(plugin)
    if not identity.is_of_plugin:
        raise UsageError(f"{printable(str(plugin))} holds no identity of an age plugin ('AGE-PLUGIN-...')")
    return replace(identity, signing_seed=identity.signing_seed or generate().signing_seed)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Who it is, in letters, digits and . _ @ -")],
    public_key: Annotated[
        str,
        typer.Argument(
            help="The age1... key that keygen or an age plugin printed, or an SSH public key in quotes."
        ),
    ],
    signing_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="The ed25519:... key that keygen named. Without one this person opens reports, and decides "
            "nothing; an ssh-ed25519 key signs with itself.",
        ),
    ] = None,
) -> None:
    """Seal every report to one more custodian from now on. Reports from before stay closed to them.

    The key is pinned in the file that CORDON_CUSTODIANS names, and written to the database for all to see.
    Other gates on the same database with files of their own pin it with 'cordon custodian pin'.

    A key of an age plugin (age1NAME1...) takes its program, age-plugin-NAME, in the PATH of whatever seals:
    gates, the worker, and each custodian's own machine. It is tried here once before anything is written.

        cordon custodian add ada age1q0x... --signing-key ed25519:...
    """
    from app.custody.roster import NAME

    if not NAME.fullmatch(name):
        raise UsageError("name a custodian with 1 to 64 letters, digits and . _ @ -, a letter or digit first")
    _try_to_seal(public_key)
    added, known = asyncio.run(_add(name, public_key, signing_key))
    say(f"reports are sealed to {added.name} (fingerprint {added.fingerprint}) from now on")
    if added.signing_key is None:
        say(
            f"warning: {added.name} opens reports and decides nothing: no signing key was given. To let "
            f"{added.name} decide, run 'cordon custodian remove {added.name}' and add them with --signing-key"
        )
    _warn_if_too_few(known)


@app.command("list")
def list_custodians(
    as_json: AsJson = False,
) -> None:
    """List the pinned custodians, whom new reports are sealed to, and where the database says otherwise.

    cordon custodian list
    """
    known, roster, difference = asyncio.run(_list())
    since = {each.as_pinned: each.added_at for each in known}
    if as_json:
        for each in roster.custodians:
            added_at = since.get(each)
            emit_json(
                {
                    "name": each.name,
                    "fingerprint": each.fingerprint,
                    "public_key": each.public_key,
                    "signing_key": each.signing_key,
                    "added_at": added_at.isoformat() if added_at else None,
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
                    f"{since[each]:%Y-%m-%d}" if each in since else "",
                )
                for each in roster.custodians
            ],
        )
    for line in difference.told():
        say(f"warning: {printable(line)}")
    _warn_if_too_few(len(roster.custodians))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="As 'cordon custodian list' shows it.")]) -> None:
    """Seal no more reports to a custodian. What was sealed to them until now, their key still opens.

    cordon custodian remove ada
    """
    readable, left = asyncio.run(_remove(name))
    say(f"no new report is sealed to {printable(name)}; earlier ones still open with that key")
    if readable is not None:
        say(f"still readable with it: {readable.reports} reports, recorded in the audit log")
    _warn_if_too_few(left)


@app.command()
def pin(
    worker: Annotated[
        str | None, typer.Option(metavar="KEY", help="Pin this age1... key as the filing worker's.")
    ] = None,
    worker_signing_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="And its ed25519:... key; both go together.")
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Write the pinned to the database instead, and no other stays.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
) -> None:
    """Pin the custodians that the database tells of, after showing every difference and asking.

    For a second gate on one database: compare each fingerprint with what that custodian reads to you from the
    key itself, then say yes. Where somebody changed the database who should not have, --restore writes the
    custodians of the file there again. With --worker only the worker's key is pinned.

        cordon custodian pin
        cordon custodian pin --restore
        cordon custodian pin --worker age1... --worker-signing-key ed25519:...
    """
    if (worker is None) != (worker_signing_key is None):
        raise UsageError("--worker and --worker-signing-key go together")
    if restore:
        if worker is not None:
            raise UsageError("--restore goes without --worker")
        _restore_after_asking(yes=yes)
        return
    before, after = asyncio.run(_to_pin(worker, worker_signing_key))
    lines = list(_changes(before, after))
    if not lines:
        say("nothing to pin: the file and the database agree")
        return
    for line in lines:
        emit(printable(line))
    if not yes and not confirmed("Did you compare these with the custodians themselves? Pin them"):
        raise FailedError("nothing was pinned")
    asyncio.run(_pin(before, after))
    say("pinned")


def _restore_after_asking(*, yes: bool) -> None:
    _, roster, difference = asyncio.run(_list())
    if not roster.custodians:
        raise FailedError("the file pins nobody, so there is nobody to write to the database")
    if not difference.told():
        say("nothing to restore: the file and the database agree")
        return
    for line in difference.told():
        emit(printable(line))
    if not yes and not confirmed("Write the pinned custodians to the database, and take others out of it"):
        raise FailedError("nothing was written")
    asyncio.run(_restore())
    say("the database tells of the pinned custodians again")


async def _restore() -> None:
    from app.cli.state import open_custody
    from app.store import custodians

    async with open_custody() as (database, pins), database.begin() as connection:
        await custodians.restore(connection, pins.read_if_there())


def _try_to_seal(public_key: str) -> None:
    """Nothing at all, sealed to the key: without its plugin a gate would take nothing in from now on.

    Raises:
        InvalidRequestError: it is no public key.
        NotReadyError: its plugin does not seal here.
    """
    from app.custody.identity import checked_public_key, encrypt

    encrypt(b"", [checked_public_key(public_key)])


async def _add(name: str, public_key: str, signing_key: str | None) -> "tuple[Custodian, int]":
    from app.cli.state import open_custody
    from app.store import custodians
    from app.store.record import audit

    async with open_custody() as (database, pins):
        roster = pins.read_if_there()
        async with database.begin() as connection:
            added = await custodians.add(
                connection, name=name, untrusted_public_key=public_key, untrusted_signing_key=signing_key
            )
            newest = await audit.head(connection)
            roster = roster.bounded(newest.seq if newest is not None else None)
            roster = roster.with_custodian(added.as_pinned)
            # Before the commit: a key that is pinned and in no row is told, and nothing is lost by it.
            pins.write(roster)
        return added, len(roster.custodians)


async def _list() -> "tuple[list[Custodian], Roster, Difference]":
    from app.cli.state import open_custody
    from app.store import custodians

    async with open_custody() as (database, pins), database.connect() as connection:
        roster = pins.read_if_there()
        known, _ = await custodians.each_readable(connection)
        return known, roster, await custodians.compare(connection, roster)


async def _remove(name: str) -> "tuple[Readable | None, int]":
    from app.cli.state import open_custody
    from app.errors import NotFoundError
    from app.store import custodians
    from app.store.record import audit

    async with open_custody() as (database, pins):
        roster = pins.read_if_there()
        pinned = name in [each.name for each in roster.custodians]
        async with database.begin() as connection:
            newest = await audit.settled_head(connection)
            until = newest.seq if newest is not None else None
            try:
                readable = await custodians.remove(connection, name)
            except NotFoundError:
                # Somebody may have taken the row away; the pin goes all the same.
                if not pinned:
                    raise
                readable = None
            if pinned:
                roster = roster.without_custodian(name, until=until).bounded(until)
                pins.write(roster)
        return readable, len(roster.custodians)


async def _to_pin(worker: str | None, worker_signing_key: str | None) -> "tuple[Roster, Roster]":
    """Who is pinned, and who would be."""
    from app.cli.state import open_custody
    from app.custody.identity import checked_public_key, checked_signing_key
    from app.custody.roster import WorkerKeys
    from app.store import custodians

    async with open_custody() as (database, pins), database.connect() as connection:
        before = after = pins.read_if_there()
        # Whoever pins a worker's key compared that one, and no custodian's.
        rows = [row.as_pinned for row in await custodians.active(connection)] if worker is None else None
    if rows is not None:
        for each in before.custodians:
            if each not in rows:
                after = after.without_custodian(each.name)
        for row in rows:
            if row not in after.custodians:
                after = after.with_custodian(row)
    if worker is not None and worker_signing_key is not None:
        after = after.with_worker(
            WorkerKeys(checked_public_key(worker), checked_signing_key(worker_signing_key))
        )
    return before, after


async def _pin(before: "Roster", after: "Roster") -> None:
    from app.cli.state import open_custody
    from app.errors import ConflictError
    from app.store import custodians
    from app.store.record import audit

    async with open_custody() as (database, pins), database.begin() as connection:
        newest = await audit.settled_head(connection)
        if pins.read_if_there() != before:
            raise ConflictError("The file of the custodians changed meanwhile; look again.")
        await custodians.record_pinning(connection, after)
        pins.write(after.bounded(newest.seq if newest is not None else 0))


def _changes(before: "Roster", after: "Roster") -> Iterator[str]:
    added = [each for each in after.custodians if each not in before.custodians]
    gone = [each for each in before.custodians if each not in after.custodians]
    for sign, people in (("+", added), ("-", gone)):
        for each in people:
            signs = each.signing_key or "does not sign"
            yield f"{sign} {each.name}  {each.fingerprint}  {each.public_key}  {signs}"
    for each in after.former:
        if each.until is None:
            yield f"~ {each.name}  {each.fingerprint}  what was signed with that key counts up to now alone"
    if before.worker != after.worker:
        for sign, keys in (("-", before.worker), ("+", after.worker)):
            if keys is not None:
                yield f"{sign} worker  {keys.fingerprint}  {keys.public_key}  {keys.signing_key}"


def _warn_if_too_few(known: int) -> None:
    from app.store.custodians import ENOUGH, TOO_FEW

    if known < ENOUGH:
        say(f"warning: {TOO_FEW}" + ("" if known else "; without one, the gate takes nothing in"))
