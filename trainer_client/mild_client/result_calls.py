"""The calls that read what a round gave: its clean set, what that was read off, and how good it is."""

import base64
import dataclasses
import io
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import RoundFit
from mild_client.flow import BITMAP, NPY, Answer, Flow, Request
from mild_client.problems import unexpected
from mild_client.service_calls import ServiceCalls, document
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import AuditUse, Evidence, Fit, Metric, Rule, SelectionOptions


class Choice(TypedDict, total=False):
    """Options to look at in place of the run's own; the names and their meanings are those of `SelectionOptions`."""

    metric: Metric
    fit: Fit
    evidence: Evidence
    threshold: Rule
    p: float
    value: float
    fraction: float
    target: float
    cost_ratio: float
    min_keep: float
    per_class: bool
    min_keep_class: float
    audit: AuditUse


_PAGE = 1_000_000
"""Samples in one answer of scores."""
_SUGGESTIONS = 100_000
"""Dropped samples in one answer."""
_WAIT_PATIENCE = 60.0
"""Seconds that an answer may take beyond what it was to wait for."""


class ResultCalls(ServiceCalls):
    """Flows that read. Each takes a `choice` of options to look at; nothing is stored of it."""

    def selection(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        choice: Choice | None = None,
        wait: float = 0,
        ids: bool = False,
    ) -> Flow[Answer]:
        """Return a round's selection with its indices, in the wire's names.

        Parameters
        ----------
        run_id, round
            Which; ``latest`` is the last one that is finished, or else round 0, and ``best`` the finished one with the
            best F1 against the audit, or else with the best ``validation_accuracy``.
        until_epoch
            Last epoch of the round that counts; None: all do.
        choice
            Options to look at in place of the run's own.
        wait
            Seconds to wait for the round, which is then to be named, to be finished.
        ids
            Whether to add external ids.

        Raises
        ------
        Conflict
            If nothing tells which round is the best (``rounds-not-comparable``), or there is nothing to select from.
        """
        params = _looked_at(until_epoch, choice, round=round)
        if wait:
            params["wait"] = wait
        if ids:
            params["ids"] = "true"
        patience = wait + _WAIT_PATIENCE if wait else None
        return document((yield Request("GET", f"/selection/{run_id}", params, patience=patience)))

    def selected(
        self,
        run_id: str,
        n_samples: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        choice: Choice | None = None,
    ) -> Flow[Bitmap]:
        """Return a round's clean set, shape (n_bytes,)."""
        params = _looked_at(until_epoch, choice, round=round)
        response = yield Request("GET", f"/selection/{run_id}", params, {"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "selection")

    def fit(
        self, run_id: str, round: int, until_epoch: int | None = None, choice: Choice | None = None
    ) -> Flow[RoundFit | None]:
        """Return what a round's clean set was read off; None where nothing was fitted."""
        params = _looked_at(until_epoch, choice)
        answer = document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/fit", params)))
        histogram = answer["histogram"]
        if histogram is None:
            return None
        return RoundFit(
            origin=histogram["origin"],
            width=histogram["width"],
            counts=tuple(histogram["counts"]),
            densities=tuple(tuple(density) for density in answer["densities"] or ()),
        )

    def sweep(
        self, run_id: str, round: int, until_epoch: int | None = None, choice: Choice | None = None
    ) -> Flow[Answer]:
        """Return every cut of a round: what it keeps and how good that is, in the wire's names."""
        params = _looked_at(until_epoch, choice)
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/sweep", params)))

    def evaluation(
        self, run_id: str, round: int, until_epoch: int | None = None, choice: Choice | None = None
    ) -> Flow[Answer]:
        """Return how good a round's clean set is by the audit, in the wire's names.

        Raises
        ------
        Conflict
            If there is no audit (``no-audit``).
        """
        params = _looked_at(until_epoch, choice)
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/evaluation", params)))

    def scores(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        choice: Choice | None = None,
    ) -> Flow[NDArray[np.float32]]:
        """Return every sample's score and probability of being mislabelled, shape (2, n_samples); NaN: none."""
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _PAGE:
            params = _looked_at(until_epoch, choice, round=round, offset=len(pages) * _PAGE, limit=_PAGE)
            response = yield Request("GET", f"/runs/{run_id}/scores", params, {"Accept": NPY})
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise unexpected(response) from error
        return np.concatenate(pages, axis=1)

    def sample(
        self,
        run_id: str,
        index: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        choice: Choice | None = None,
    ) -> Flow[Answer]:
        """Return one sample's history, and why it was kept or dropped, in the wire's names."""
        params = _looked_at(until_epoch, choice, round=round)
        return document((yield Request("GET", f"/runs/{run_id}/samples/{index}", params)))

    def suggestions(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        choice: Choice | None = None,
    ) -> Flow[list[Answer]]:
        """Return every dropped sample with the class that logs predicted most often, in the wire's names."""
        found: list[Answer] = []
        while True:
            params = _looked_at(until_epoch, choice, round=round, offset=len(found), limit=_SUGGESTIONS)
            page = document((yield Request("GET", f"/runs/{run_id}/suggestions", params)))["suggestions"]
            found += page
            if len(page) < _SUGGESTIONS:
                return found

    def select(
        self,
        correct: NDArray[np.bool_],
        observed: NDArray[np.bool_] | None = None,
        options: SelectionOptions | None = None,
    ) -> Flow[Answer]:
        """Return the selection of one round's bits, each array of shape (n_epochs, n_samples); nothing is stored."""
        body: Answer = {
            "num_samples": correct.shape[1],
            "correct": _encoded(correct),
            "options": dataclasses.asdict(options or SelectionOptions()),
        }
        if observed is not None:
            body["observed"] = _encoded(observed)
        return document((yield from self.upload(Request.of_json("POST", "/selection", body))))


def _looked_at(until_epoch: int | None, choice: Choice | None, **more: Any) -> dict[str, Any]:
    params = {**more, **(choice or {})}
    if until_epoch is not None:
        params["until_epoch"] = until_epoch
    return params


def _encoded(rows: NDArray[np.bool_]) -> list[str]:
    return [base64.b64encode(row).decode() for row in bitmap.pack(rows)]
