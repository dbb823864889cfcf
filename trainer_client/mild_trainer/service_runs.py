"""Runs of a service for ``mild runs``, ``get``, ``finish`` and ``push --create``."""

import time
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from mild_client import MildClient, RunSpec
from mild_client.errors import NotFound
from mild_client.requests import JsonObject
from mild_core.types import take_class_names
from mild_trainer.errors import DataError
from mild_trainer.file_selection import read_source
from mild_trainer.recorded_bits import LABELS_HINT, FileSource, RecordedBits

_RUNS_PER_PAGE = 200


def build_runs_table(client: MildClient, limit: int) -> Table:
    """Return a table of the service's newest runs, at most `limit`."""
    table = Table("run", "status", "samples", "finished rounds", "last write", "tags")
    for run in _list_runs(client, limit):
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["updated_at"]))
        tags = ", ".join(f"{name}={value}" for name, value in run["tags"].items())
        # the open round's number is the number of rounds before it
        table.add_row(run["run_id"], run["status"], f"{run['num_samples']:,}", str(run["round"]), written, tags)
    return table


def create_run(
    client: MildClient, run_id: str, source: FileSource, n_samples: int | None, class_names: Sequence[str] | None
) -> Sequence[str] | None:
    """Open a run for a prediction log, unless the run exists.

    Parameters
    ----------
    client, run_id
        The service, and the run.
    source
        The log, whose samples, external ids and labels the run gets.
    n_samples
        Samples of the run, numbered from 0; the log is not read then. None: those of the log.
    class_names
        Names of the classes 0, 1, … of a log with names; None: those of the log, in alphabetical order.

    Returns
    -------
    class_names
        Names of the classes that the log is to be sent with; None if it gives classes by number.
    """
    try:
        client.get_run(run_id)
    except NotFound as error:
        if error.code != "run-not-found":
            raise
    else:
        return class_names
    if n_samples is not None:
        client.open_run(RunSpec(run_id, n_samples))
        return class_names
    recorded = _read_log(source)
    labels = recorded.labels
    if recorded.class_names is not None:
        class_names = class_names or recorded.class_names
        unknown = [name for name in recorded.class_names if name not in class_names]
        if unknown:
            raise DataError(
                f"{source.path} has the class {unknown[0]!r}, which is none of the {len(class_names)} in "
                "--class-names; name every class"
            )
        numbers = np.array([*map(class_names.index, recorded.class_names), -1])  # -1 stays -1
        labels = None if labels is None else numbers[labels]
    n_classes = None if class_names is None else len(class_names)
    client.open_run(RunSpec(run_id, recorded.n_samples, n_classes, take_class_names(class_names)))
    if recorded.ids is not None:
        client.put_sample_ids(run_id, recorded.ids)
    if labels is not None and (labels >= 0).all():
        client.put_labels(run_id, labels)
    return class_names


def _read_log(source: FileSource) -> RecordedBits:
    """Read a log that is sent as it is afterwards, so that its records have to be complete."""
    try:
        return read_source(source)
    except DataError as error:
        text = str(error).removesuffix(LABELS_HINT)
        if text == str(error):
            raise
        raise DataError(
            f"{text}; name the column of the labels with --columns label=NAME, or give `correct`"
        ) from error


def finish_run(client: MildClient, run_id: str, *, allow_gaps: bool) -> JsonObject:
    """Finish the open round of a run and set its status to finished; return the round's selection as in the HTTP API.

    Where the open round has no epochs, the selection is that of the round before it.
    """
    run = client.get_run(run_id)
    number = run["round"]
    open_round = next(round_ for round_ in run["rounds"] if round_["round"] == number)
    has_epochs = open_round["num_epochs"] or open_round["partial"]
    selection = client.finish(run_id, number if has_epochs or not number else number - 1, allow_gaps=allow_gaps)
    client.patch_run(run_id, status="finished")
    return selection


def _list_runs(client: MildClient, limit: int) -> list[JsonObject]:
    """Return the states of the newest runs, at most `limit`."""
    runs: list[JsonObject] = []
    cursor: str | None = None
    while len(runs) < limit:
        page = client.list_runs(min(limit - len(runs), _RUNS_PER_PAGE), cursor)
        runs += page["runs"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    return runs
