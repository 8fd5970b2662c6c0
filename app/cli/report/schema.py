"""``cordon report xsd``: fetch NCMEC's schema with the credentials that it gave out."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.console import FailedError, printable, say
from app.cli.report.writing import write_new

if TYPE_CHECKING:
    from app.filing.cybertip.answers import Answer
    from app.filing.cybertip.environment import Endpoint

_OK = 200


def xsd(
    out: Annotated[Path, typer.Option(metavar="FILE", dir_okay=False, help="Where to write it; a new file.")],
) -> None:
    """Fetch the schema of reports from the host that CORDON_CYBERTIP names, for CORDON_CYBERTIP_XSD.

    It comes with credentials and under no licence, so Cordon brings no copy. Documents are checked without
    it too; with it, the worker checks them a second time before anything is sent.

        cordon report xsd --out cybertip.xsd
    """
    from app.cli.state import read_settings
    from app.filing.cybertip.environment import endpoint
    from app.filing.cybertip.reading import UnreadableError
    from app.filing.cybertip.schema import Schema

    where = endpoint(read_settings())
    if where is None:
        raise FailedError("CORDON_CYBERTIP is off; set it to the host that is asked: test or production")
    answer = asyncio.run(_fetch(where))
    if answer.status != _OK:
        said = "no answer" if answer.status is None else f"HTTP {answer.status}"
        raise FailedError(f"the host gave no schema: {said}; are the credentials right?")
    try:
        schema = Schema(answer.body)
    except UnreadableError:
        raise FailedError("the host answered with something that is no schema") from None
    write_new(out, schema.text)
    say(f"the schema is in {printable(str(out))}; set CORDON_CYBERTIP_XSD to it")


async def _fetch(where: "Endpoint") -> "Answer":
    from app.filing.cybertip.client import open_client

    async with open_client(where) as authority:
        return await authority.schema()
