"""``cordon dev``: what helps to try Cordon out, and has no place in production."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from app.cli.console import FailedError, emit, say

app = typer.Typer(no_args_is_help=True)


@app.callback()
def dev() -> None:
    """Stand-ins for services that Cordon speaks to, on this machine.

    cordon dev cybertip-double
    """


@app.command("cybertip-double")
def cybertip_double(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 picks one.")] = 8091,
    user: Annotated[str, typer.Option(help="User it knows.")] = "double",
    password: Annotated[str, typer.Option(help="Its password.")] = "double",  # noqa: S107 - it guards nothing
    xsd: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="NCMEC's schema, to check with too."),
    ] = None,
    error_status: Annotated[
        int,
        typer.Option(
            min=200,
            max=599,
            help="HTTP status of answers that are no success; the real one was seen with 400 and 200.",
        ),
    ] = 400,
) -> None:
    """Run a stand-in for NCMEC's CyberTipline. Nothing that it gets leaves this machine; nothing is filed.

    It speaks the seven calls of the API, checks documents as the real one is documented to, and keeps what
    it gets in memory until it ends. Set CORDON_CYBERTIP=double for the worker to file with it; such reports
    become 'dry_run', never 'filed'. Stdout is its base URL.

        cordon dev cybertip-double
        CORDON_CYBERTIP=double cordon worker

    Ask it what came of a report, make it fail, or move its clock:

        curl http://127.0.0.1:8091/double/reports/01J9ZK3V5T8QX2M4N6P8R0S1T2
        curl http://127.0.0.1:8091/double/faults -d '{"call": "finish", "fault": "unanswered", "times": 2}'
        curl http://127.0.0.1:8091/double/clock -d '{"advance_seconds": 86400}'

    Faults: unheard, unanswered, too_many, slow, html_502, empty_500, redirect, huge, doctype, deep,
    truncated, wrong_root, no_report_id, encoded, html_200, empty_200; or give "code" and "status" for an
    answer with a code.
    """
    from app import log
    from app.filing.cybertip.schema import load
    from app.filing.cybertip_double.application import Application
    from app.filing.cybertip_double.service import Service
    from app.filing.cybertip_double.serving import serve

    log.configure("warning")
    service = Service(load(xsd) if xsd is not None else None)
    application = Application(service, user, password, error_status)

    def tell(url: str) -> None:
        say("this is a DOUBLE of the CyberTipline: nothing is filed, and nothing leaves this machine")
        emit(url)

    try:
        asyncio.run(serve(application, port, tell))
    except SystemExit:
        raise FailedError(f"port {port} of 127.0.0.1 cannot be listened on") from None
