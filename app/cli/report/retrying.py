"""``cordon report retry``: try to file again what is parked or put off."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.cli.asking import confirmed
from app.cli.console import FailedError, say
from app.cli.report.reading import ReportId


def retry(
    report_id: ReportId,
    afresh: Annotated[
        bool,
        typer.Option(
            "--afresh", help="Open a new report, though an earlier one may be filed. Ask NCMEC first."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False,
) -> None:
    """Let the worker try again now to file a report that is parked, or that it put off for a while.

    Where the irreversible call was made before and its outcome is not known, it is asked for again under the
    very same id: nothing is filed twice. --afresh forgets that id; only NCMEC can tell whether that report
    was filed. A document that NCMEC refused is not tried again but approved anew.

        cordon report retry 01J9ZK3V5T8QX2M4N6P8R0S1T2
        cordon report retry 01J9ZK3V5T8QX2M4N6P8R0S1T2 --afresh
    """
    if afresh and not yes and not confirmed("File it as a new report, though an earlier one may be filed"):
        raise FailedError("nothing was changed")
    attempted = asyncio.run(_retry(report_id, afresh=afresh))
    again = "it is asked for again under the id that it has" if attempted and not afresh else "it begins anew"
    say(f"the worker takes report {report_id} up at its next turn; {again}")


async def _retry(report_id: str, *, afresh: bool) -> bool:
    from app.cli.state import BY, open_state
    from app.store import filings

    async with open_state() as database, database.begin() as connection:
        return await filings.retry(connection, report_id, now=datetime.now(UTC), afresh=afresh, by=BY)
