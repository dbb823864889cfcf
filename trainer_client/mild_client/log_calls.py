"""The calls that send prediction logs.

Posting one is idempotent, as a record that is stored already changes nothing: a post whose answer was lost is repeated.
"""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_client import logs
from mild_client.flow import Answer, Flow, Request, attempt_header
from mild_client.logs import Part, Place
from mild_client.service_calls import ServiceCalls, document

_PATIENCE = 600.0
"""Seconds that a log of gigabytes may take to be merged."""


class LogCalls(ServiceCalls):
    """Flows that send logs, in as many posts as the service's limits ask for."""

    def log_predictions(
        self,
        run_id: str,
        epoch: int,
        samples: NDArray[np.integer] | NDArray[np.str_],
        predicted: NDArray[np.integer],
        labels: NDArray[np.integer],
        round: int = 0,
        complete: bool = False,
        attempt: int | None = None,
    ) -> Flow[Answer]:
        """Merge predictions into an epoch, each array of shape (n_records,); return what became of it.

        `samples` are indices, or external ids.

        An epoch fills up over several calls, and is committed once everyone whom the run observes is in, or a call says
        `complete`. Large logs are sent in several posts. The same record again changes nothing, so all of it may be
        repeated.
        """
        limits = yield from self.limits()
        parts = logs.of_arrays((round, epoch), samples, predicted, labels, limits)
        return (yield from self._post_log(run_id, parts, complete, attempt))

    def post_records(
        self, run_id: str, records: Iterable[Mapping[str, Any]], complete: bool = False, attempt: int | None = None
    ) -> Flow[Answer]:
        """Merge records into their epochs: ``epoch``, ``sample``, and ``correct``, or ``predicted`` and ``label``.

        They are taken one by one and sent in several posts, each of them all or nothing.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.of_records(records, limits), complete, attempt))

    def push(
        self,
        run_id: str,
        file: str | PathLike[str],
        complete: bool = False,
        media_type: str | None = None,
        attempt: int | None = None,
    ) -> Flow[Answer]:
        """Stream a log's file, and return what the service did with it.

        The extension says its format: .json, .ndjson, .jsonl, .csv, .arrows or .parquet, with .gz or .zst behind it
        where it is compressed; `media_type` wins. A file longer than the service takes in one post is cut between
        lines.

        Raises
        ------
        ParameterError
            If the extension says nothing of the format.
        TooLarge
            If it is too long for one post and cannot be cut.
        """
        limits = yield from self.limits()
        return (yield from self._post_log(run_id, logs.of_file(Path(file), media_type, limits), complete, attempt))

    def _post_log(self, run_id: str, parts: Iterator[Part], complete: bool, attempt: int | None) -> Flow[Answer]:
        """Post a log part by part.

        A part that says ``complete`` closes the epochs that it names, and later parts may name them again. So only the
        last part says it; and of the others, what names an epoch that is still partial then is sent once more.
        """
        n_records, epochs, naming = 0, dict[Place, Answer](), dict[Place, Part]()
        part = next(parts, None)
        while part is not None:
            following = next(parts, None)
            answer = yield from self._post_part(run_id, part, complete and following is None, attempt)
            n_records += answer["records"]
            reminder = part.reminding()
            for told in answer["epochs"]:
                place = told["round"], told["epoch"]
                epochs[place] = told
                if told["state"] == "partial" and complete:
                    naming[place] = reminder
                else:
                    naming.pop(place, None)
            part = following
        for part in {id(reminder): reminder for reminder in naming.values()}.values():
            answer = yield from self._post_part(run_id, part, True, attempt)
            epochs |= {(told["round"], told["epoch"]): told for told in answer["epochs"]}
        return {"run_id": run_id, "records": n_records, "epochs": list(epochs.values())}

    def _post_part(self, run_id: str, part: Part, complete: bool, attempt: int | None) -> Flow[Answer]:
        request = Request(
            "POST",
            f"/runs/{run_id}/predictions",
            {"complete": "true"} if complete else {},
            {**part.headers(), **attempt_header(attempt)},
            part.content,
            patience=_PATIENCE,
        )
        return document((yield request))
