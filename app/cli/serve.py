"""``cordon serve`` and ``cordon worker``: the processes that run until they are told to stop."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; CORDON_HOST, or 127.0.0.1.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on, 0 picks one; CORDON_PORT, or 8080.", show_default=False
        ),
    ] = None,
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the base URL there, on one line, once the gate listens."),
    ] = None,
) -> None:
    """Run the gate's HTTP server until SIGTERM or SIGINT; then it finishes what it began.

    Everything else is a setting: CORDON_... variables, or cordon.toml. Beyond loopback it serves only with
    CORDON_TLS_CERT and CORDON_TLS_KEY, or with CORDON_PLAIN_HTTP=true behind a proxy that ends TLS. It takes
    nothing in before a bank has its first import and a custodian is known: GET /readyz says what is missing.

        cordon serve
        cordon serve --host 0.0.0.0 --port 8443
        cordon serve --port 0 --ready-file /run/cordon/url
    """
    from app import log, main
    from app.settings import load

    settings = load()
    log.configure(settings.serve.log_level)
    code = asyncio.run(
        main.serve(
            settings,
            host=settings.serve.host if host is None else host,
            port=settings.serve.port if port is None else port,
            ready_file=ready_file,
        )
    )
    raise typer.Exit(code)


def worker() -> None:
    """Run the worker until SIGTERM or SIGINT: it files, builds the index, removes what is past its time.

    A gate matches and stores reports without it. The worker files what custodians approved where
    CORDON_CYBERTIP says (nowhere by default; with 'double', at the 'cordon dev cybertip-double' of this
    machine), tells custodians of new reports and alarms by webhook and mail, signs the audit log once an
    hour, and removes reports whose time is over. One does for all gates of a database. Where these share a
    snapshot directory, it saves each of them from building a large index itself.

        cordon worker
    """
    from app import log
    from app.settings import load
    from app.worker import work

    settings = load()
    log.configure(settings.serve.log_level)
    raise typer.Exit(asyncio.run(work(settings)))
