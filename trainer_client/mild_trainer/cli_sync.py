"""``mild sync``: the command line of spools."""

from pathlib import Path
from typing import Annotated

import typer

from mild_trainer import options as o
from mild_trainer.one_line import one_line_errors


def sync(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="[DIR]", envvar="MILD_SPOOL_DIR", help="A spool, or a folder with spools somewhere in it."
        ),
    ] = Path(),
    url: o.SyncUrl = None,
    api_key: o.ApiKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to send, and send nothing.")] = False,
) -> None:
    """Send what trainings have kept while the service was away; exit with 1 if anything is refused or left."""
    from rich.console import Console
    from rich.table import Table

    from mild_client import sync as spools

    with one_line_errors():
        found = list(spools.look(folder) if dry_run else spools.sync(folder, url, api_key))
        if not found:
            typer.echo(f"{folder}: no spool is in it or below, so there is nothing to send")
            return
        table = Table("run", "sent", "refused", "left", "bytes left", "spool")
        for each in found:
            numbers = (each.n_sent, each.n_refused, each.n_left, each.n_bytes_left)
            table.add_row(each.run_id, *map(str, numbers), str(each.folder), style=None if each.is_done else "yellow")
        Console().print(table)
        for each in found:
            if each.trouble:
                typer.echo(f"{each.folder}: {each.trouble}", err=True)
            if each.n_refused:
                typer.echo(f"{each.folder / 'refused'} has what was refused, each with the reason beside it", err=True)
        if not dry_run and not all(each.is_done for each in found):
            raise typer.Exit(1)
