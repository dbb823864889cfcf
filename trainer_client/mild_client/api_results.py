"""The calls that read what a round gave: its clean set, what that was read off, and how good it is.

The calls about the service itself: its versions and limits, and bodies that keep within them.
"""

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, TypedDict

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client.backend import RoundFit
from mild_client.compatibility import warn_if_outdated
from mild_client.errors import TooLarge
from mild_client.requests import BITMAP, NPY, Answer, Flow, Request
from mild_client.transport import unexpected
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import AuditUse, Evidence, Fit, Metric, Rule, SelectionOptions

_SMALL_BYTES = 1024
"""Every service takes bodies of this size."""


class ServiceCalls:
    """Flows that know what the service takes."""

    def __init__(self) -> None:
        self._limits: Mapping[str, float] | None = None

    def ready(self) -> Flow[None]:
        """Return once the service and its store answer; the client's `Retry` says for how long to ask."""
        yield Request("GET", "/ready")

    def version(self) -> Flow[Answer]:
        """Return the service's versions and its published limits, in the wire's names."""
        versions = document((yield Request("GET", "/version")))
        if self._limits is None:
            warn_if_outdated(versions)
        self._limits = versions.get("limits", {})  # a service that publishes none says by refusing what is too much
        return versions

    def limits(self) -> Flow[Mapping[str, float]]:
        """Return the service's limits by name, such as ``max_body_bytes``; asked for once."""
        if self._limits is None:
            yield from self.version()
        return self._limits or {}

    def upload(self, request: Request) -> Flow[httpx.Response]:
        """Send a body that is of no use in parts, provided that the service takes one of its size."""
        assert isinstance(request.content, bytes)
        n_bytes = len(request.content)
        if n_bytes > _SMALL_BYTES:
            limits = yield from self.limits()
            limit = limits.get("max_body_bytes", n_bytes)
            if n_bytes > limit:
                raise TooLarge(
                    f"{request.method} {request.path} takes {n_bytes} bytes, this service takes bodies of {limit:.0f}; "
                    "have MILD_MAX_BODY_BYTES raised there, or send one epoch in several shards"
                )
        return (yield request)


def document(response: httpx.Response) -> Answer:
    """An answer's JSON object.

    Raises
    ------
    BadRequest
        If it is none (``unexpected-answer``).
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise unexpected(response)
    return answer


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
