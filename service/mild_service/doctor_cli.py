"""``mild-service doctor``: looks at the store and at the settings, and says what to do."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mild_service import doctor
from mild_service.store import Store
from mild_service.store_cli import DataDir, Embedded, in_store, one_line_errors
from mild_service.terminal import read_settings

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def examine(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what nothing refers to; safe while writers are at work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Look at the store and at the settings; ends with 0 where all is well, 1 where something needs a hand."""

    async def examined(store: Store) -> doctor.Report:
        return await doctor.examine(store, read_settings(data_dir=data_dir), repair)

    with one_line_errors():
        report = in_store(examined, embedded, data_dir)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        table = Table("", "where", "what", "what to do")
        for finding in report.findings:
            level = f"[{_COLOURS[finding.level]}]{finding.level}[/]"
            table.add_row(level, finding.where, finding.what, finding.remedy)
        Console(soft_wrap=True).print(table)
    raise typer.Exit(0 if report.is_well else 1)
