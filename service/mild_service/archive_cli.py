"""``mild-service export`` and ``import``: a run in one file, to keep it or to move it to another store."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mild_service import archive
from mild_service.errors import InvalidRequest
from mild_service.state import Run
from mild_service.store import Store
from mild_service.store_cli import DataDir, Embedded, in_store, one_line_errors

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def export_run(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Write a run, with all its rounds, to one file."""

    async def exported(store: Store) -> int:
        return await archive.export(store, run, file)

    with one_line_errors():
        print(f"{file}: run {run}, {in_store(exported, embedded, data_dir)} bytes")


def import_run(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="As `export` has written it.")],
    name: Annotated[str | None, typer.Option("--as", help="The run's id here; without: the one that it had.")] = None,
    embedded: Embedded = False,
    data_dir: DataDir = None,
) -> None:
    """Put a file's run into the store; nothing is written unless the whole file is sound."""

    async def imported(store: Store) -> Run:
        return await archive.load(store, file, wanted)

    with one_line_errors():
        wanted = archive.check(file)["run_id"] if name is None else name
        if not _RUN_ID.fullmatch(wanted):
            raise InvalidRequest(f"{wanted!r} is no run id; use letters, digits, '.', '_' and '-', up to 64")
        run = in_store(imported, embedded, data_dir)
        print(f"run {run.run_id}: {run.config.n_samples} samples, round {run.round} is open")
