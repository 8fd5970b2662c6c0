"""``cordon``: all commands, and the one place where an error becomes a line on stderr and an exit code.

Commands import what is heavy (the database, NumPy, the web framework) only when they run, so that help is
there at once.
"""

import os
import re
import sys
import textwrap
from typing import Annotated, Final

import typer
from typer.core import TyperCommand, TyperGroup

from app import __version__
from app.cli import audit, bank, custodian, db, dev, doctor, ingest, key, report, serve, testpicture
from app.cli.console import emit, say

INTERRUPTED: Final = 130
"""Exit code after SIGINT, as shells count it."""

_HELP_COLUMNS: Final = 100
_ORDER: Final = (
    *("serve", "worker", "ingest", "bank", "key", "custodian", "report", "audit", "db"),
    *("test-picture", "doctor", "dev"),
)

# Their texts are written for operators. By name, since importing their modules takes longer than to fail.
_FOR_OPERATORS: Final = frozenset({"SchemaError", "SandboxError", "ControlMissingError"})

_PRIVATE_KEY: Final = re.compile("PRIVATE KEY|AGE-SECRET-KEY-|AGE-PLUGIN-[^ ]+-1")

app = typer.Typer(
    name="cordon",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _HELP_COLUMNS},
)
app.command("serve")(serve.serve)
app.command("worker")(serve.worker)
app.command("ingest")(ingest.ingest)
app.add_typer(bank.app, name="bank")
app.add_typer(key.app, name="key")
app.add_typer(custodian.app, name="custodian")
app.add_typer(report.app, name="report")
app.add_typer(audit.app, name="audit")
app.add_typer(db.app, name="db")
app.command("test-picture")(testpicture.write)
app.command("doctor")(doctor.doctor)
app.add_typer(dev.app, name="dev")


def _tell_version(asked: bool) -> None:
    if asked:
        emit(f"cordon {__version__}")
        raise typer.Exit


@app.callback()
def cordon(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """A quarantine gate for media: hash in memory, match against banks, release only what is clear.

    The first steps, in order:

        cordon custodian keygen --out ada.key
        cordon custodian add ada age1... --signing-key ed25519:...
        cordon bank create hashlist --kind csam --action report
        cordon bank import hashlist hashes.csv
        cordon key create --name scraper --scope ingest
        cordon serve

    Without any state, to check files against a list:

        cordon ingest --bank hashes.csv pictures/

    Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 bad usage or a bad
    input file, 130 interrupted; 'cordon ingest --help' has more. Settings are CORDON_... variables, or stand
    in cordon.toml: docs/reference/settings.md lists them.
    """


def command_tree() -> TyperGroup:
    """All commands, with their help as it was written: examples by the line, first sentences whole."""
    root = typer.main.get_command(app)
    if not isinstance(root, TyperGroup):
        message = "the root of all commands is a group"
        raise TypeError(message)
    _keep_as_written(root)
    root.commands = {name: root.commands[name] for name in _ORDER}
    return root


def main() -> int:
    """Run one command; its exit code. No error passes with a traceback: its locals could hold secrets."""
    # Names of files need not be text; what cannot be shown is shown as an escape.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = command_tree()(standalone_mode=False, prog_name="cordon")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - an edge of the process: no error may pass with its text
        code = _tell(_first(error))
    return code if isinstance(code, int) else 0


def _keep_as_written(command: TyperCommand | TyperGroup) -> None:
    """Indent the examples in the help of a command and of those below it, and keep their lines.

    Their first sentences, which the list of a group shows, are wrapped there and not cut short.
    """
    command.short_help = command.get_short_help_str(limit=_HELP_COLUMNS * 3)
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(
        "\b\n" + textwrap.indent(textwrap.dedent(text), "    ")
        if text.lstrip().startswith(("cordon ", "curl "))
        else text
        for text in paragraphs
    )
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            if isinstance(below, TyperCommand | TyperGroup):
                _keep_as_written(below)


def _first(error: Exception) -> Exception:
    """The first of the errors that tasks running side by side ended with."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _tell(error: Exception) -> int:
    """Say what went wrong, and give the exit code. Of an error that nobody foresaw only its place is told."""
    from app import log
    from app.errors import CordonError, InvalidContextError, InvalidRequestError, MalformedError
    from app.settings import SettingsError

    if isinstance(error, BrokenPipeError):
        # Whoever read the results has gone, as `head` does; the interpreter must not try to flush them.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, typer.TyperException):
        return _tell_usage(error)
    if isinstance(error, SettingsError):
        say(str(error))
        return 2
    if isinstance(error, CordonError):
        say(str(error))
        return 2 if isinstance(error, InvalidRequestError | InvalidContextError | MalformedError) else 1
    if type(error).__name__ in _FOR_OPERATORS and type(error).__module__.startswith("app."):
        say(str(error))
        return 1
    say(f"failed inside: {type(error).__name__} at {log.location(error)}")
    return 1


def _tell_usage(error: typer.TyperException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return error.exit_code
    context = getattr(error, "ctx", None)
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    message = " ".join(error.format_message().replace("Value error, ", "").split())
    if _PRIVATE_KEY.search(message.upper()):
        # An SSH key begins like an option.
        message = "A private key stands in this command. Give the public one"
    say(message + hint)
    return error.exit_code
