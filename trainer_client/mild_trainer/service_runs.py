"""Runs of a service for ``mild runs``, ``get``, ``finish`` and ``push --create``."""

import time
from pathlib import Path

from rich.table import Table

from mild_client import MildClient, RunSpec
from mild_client.errors import NotFound
from mild_client.logs import SamplesBy
from mild_client.requests import JsonObject
from mild_trainer.errors import DataError
from mild_trainer.file_selection import read_source
from mild_trainer.recorded_bits import COLUMNS_HINT, LABELS_HINT, FileSource, RecordedBits

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
    client: MildClient, run_id: str, log: Path, n_samples: int | None, samples_by: SamplesBy | None = None
) -> None:
    """Open a run for a prediction log, unless the run exists.

    Parameters
    ----------
    client, run_id
        The service, and the run.
    log
        The log, whose samples, external ids and labels the run gets.
    n_samples
        Samples of the run, numbered from 0; the log is not read then. None: those of the log.
    samples_by
        Whether the log names samples by ids or by indices; None decides by the first name.

    Raises
    ------
    DataError
        If the log cannot be read, or names its classes, which the service takes as numbers.
    """
    try:
        client.get_run(run_id)
    except NotFound as error:
        if error.code != "run-not-found":
            raise
    else:
        return
    if n_samples is not None:
        client.open_run(RunSpec(run_id, n_samples))
        return
    recorded = _read_log(log, samples_by)
    client.open_run(RunSpec(run_id, recorded.n_samples))
    if recorded.ids is not None:
        client.put_sample_ids(run_id, recorded.ids)
    if recorded.labels is not None and (recorded.labels >= 0).all():
        client.put_labels(run_id, recorded.labels)


def _read_log(log: Path, samples_by: SamplesBy | None) -> RecordedBits:
    """Read a log that is sent as it is afterwards, so that its columns and classes have to be the service's."""
    try:
        recorded = read_source(FileSource(log, samples_by=samples_by))
    except DataError as error:
        text = str(error).removesuffix(COLUMNS_HINT).removesuffix(LABELS_HINT)
        if text == str(error):
            raise
        raise DataError(
            f"{text}; name the columns `epoch`, `sample`, and `correct`, or `predicted` and `label`"
        ) from error
    if recorded.class_names is not None:
        raise DataError(
            f"{log} names its classes, such as {recorded.class_names[0]!r}, and a run takes numbers; number the "
            "classes, or give `correct` (0 or 1) in place of `predicted` and `label`"
        )
    return recorded


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
