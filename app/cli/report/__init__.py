"""``cordon report``: what custodians and operators do with reports."""

import typer

from app.cli.report import (
    deciding,
    destroying,
    exporting,
    filed,
    filing,
    holding,
    keeping,
    purging,
    reading,
    resealing,
    retrying,
    schema,
)

app = typer.Typer(no_args_is_help=True)
app.command("list")(reading.list_reports)
app.command("show")(reading.show)
app.command("open")(reading.open_report)
app.command("approve")(deciding.approve)
app.command("reject")(deciding.reject)
app.command("annotate")(deciding.annotate)
app.command("hold")(holding.hold)
app.command("unhold")(holding.unhold)
app.command("file")(filing.file_report)
app.command("filed")(filed.filed)
app.command("export")(exporting.export)
app.command("retry")(retrying.retry)
app.command("reseal")(resealing.reseal)
app.command("destroy")(destroying.destroy)
app.command("purge")(purging.purge)
app.command("xsd")(schema.xsd)
app.command("alarms")(keeping.list_alarms)
app.command("count")(keeping.count_reports)


@app.callback()
def report() -> None:
    """The sealed reports of matches: metadata only, readable with a custodian's key alone.

    cordon report list
    cordon report open 01J9ZK3V5T8QX2M4N6P8R0S1T2 --identity ada.key
    """
