"""``mild report``: the command line of reports."""

from pathlib import Path
from typing import Annotated

import typer

from mild_trainer import options as o
from mild_trainer.one_line import one_line_errors


def report(
    run: Annotated[str, typer.Argument(help="The folder of a training (its --out), or a run's name at --url.")],
    url: o.Url = None,
    api_key: o.ApiKey = None,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one page of a run: its rounds, its data map, and the samples whose labels look wrong, with pictures."""
    from mild_trainer import report_run

    with one_line_errors():
        typer.echo(f"Written: {report_run.write(run, url, api_key, out)}")
