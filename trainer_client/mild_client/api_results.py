"""The calls that read the results of a round, and the base of all calls: the service's versions and limits."""

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client.backend import RoundFit
from mild_client.compatibility import warn_if_outdated
from mild_client.errors import TooLarge
from mild_client.requests import BITMAP, NPY, Call, JsonObject, Request
from mild_client.transport import make_unexpected_answer_error
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.types import SelectionOptions

_SMALL_BYTES = 1024
"""Bodies up to this size are sent without asking for the service's limits."""


class ServiceCalls:
    """Calls about the service, and uploads within its limits."""

    def __init__(self) -> None:
        self._limits: Mapping[str, float] | None = None

    def ready(self) -> Call[None]:
        """Wait until the service and its store answer, as long as the client's `Retry` allows."""
        yield Request("GET", "/ready")

    def version(self) -> Call[JsonObject]:
        """Return the service's versions and its published limits, as in the HTTP API."""
        versions = parse_object((yield Request("GET", "/version")))
        if self._limits is None:
            warn_if_outdated(versions)
        self._limits = versions.get("limits", {})  # without published limits the service refuses what is too large
        return versions

    def limits(self) -> Call[Mapping[str, float]]:
        """Return the service's limits by name, such as ``max_body_bytes``; they are fetched once."""
        if self._limits is None:
            yield from self.version()
        return self._limits or {}

    def upload(self, request: Request) -> Call[httpx.Response]:
        """Send a body that cannot be split; raise TooLarge if the service takes none of its size."""
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


def parse_object(response: httpx.Response) -> JsonObject:
    """Parse the JSON object of a response.

    Raises
    ------
    BadRequest
        If it is not a JSON object (``unexpected-answer``).
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise make_unexpected_answer_error(response)
    return answer


OptionChanges: TypeAlias = Mapping[str, Any]
"""Fields of `SelectionOptions`, by name, to use in place of the run's own; nothing is stored."""

_SCORES_PER_PAGE = 1_000_000
"""Samples in one response of scores."""
_SUGGESTIONS_PER_PAGE = 100_000
"""Dropped samples in one response."""
_WAIT_MARGIN = 60.0
"""Seconds that a response may take in addition to `wait`."""


class ResultCalls(ServiceCalls):
    """Calls that read results. Each takes `changes` to the run's options, which are not stored."""

    def selection(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
        wait: float = 0,
        ids: bool = False,
    ) -> Call[JsonObject]:
        """Return a round's selection with its indices, as in the HTTP API.

        Parameters
        ----------
        run_id, round
            The round: ``latest`` is the last finished one, or else round 0; ``best`` is the finished one with the best
            F1 against the audit, or else with the best ``validation_accuracy``.
        until_epoch
            Last epoch of the round to use; None: all epochs.
        changes
            Options that replace those of the run.
        wait
            Seconds to wait until the round is finished; requires a round number.
        ids
            Whether to add external ids.

        Raises
        ------
        Conflict
            If nothing tells which round is the best (``rounds-not-comparable``), or there is nothing to select from.
        """
        params = _build_params(until_epoch, changes, round=round)
        if wait:
            params["wait"] = wait
        if ids:
            params["ids"] = "true"
        read_timeout = wait + _WAIT_MARGIN if wait else None
        return parse_object((yield Request("GET", f"/selection/{run_id}", params, read_timeout=read_timeout)))

    def selected(
        self,
        run_id: str,
        n_samples: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[Bitmap]:
        """Return a round's clean set, shape (n_bytes,)."""
        params = _build_params(until_epoch, changes, round=round)
        response = yield Request("GET", f"/selection/{run_id}", params, {"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "selection")

    def fit(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> Call[RoundFit | None]:
        """Return the histogram and the fit of a round; None without a fit."""
        params = _build_params(until_epoch, changes)
        answer = parse_object((yield Request("GET", f"/runs/{run_id}/rounds/{round}/fit", params)))
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
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> Call[JsonObject]:
        """Return the number of samples and the quality at every cut of a round, as in the HTTP API."""
        params = _build_params(until_epoch, changes)
        return parse_object((yield Request("GET", f"/runs/{run_id}/rounds/{round}/sweep", params)))

    def evaluation(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> Call[JsonObject]:
        """Return the quality of a round's clean set against the audit, as in the HTTP API.

        Raises
        ------
        Conflict
            If there is no audit (``no-audit``).
        """
        params = _build_params(until_epoch, changes)
        return parse_object((yield Request("GET", f"/runs/{run_id}/rounds/{round}/evaluation", params)))

    def scores(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[NDArray[np.float32]]:
        """Return every sample's score and probability of being mislabelled, shape (2, n_samples); NaN: none."""
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _SCORES_PER_PAGE:
            params = _build_params(
                until_epoch, changes, round=round, offset=len(pages) * _SCORES_PER_PAGE, limit=_SCORES_PER_PAGE
            )
            response = yield Request("GET", f"/runs/{run_id}/scores", params, {"Accept": NPY})
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise make_unexpected_answer_error(response) from error
        return np.concatenate(pages, axis=1)

    def sample(
        self,
        run_id: str,
        index: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[JsonObject]:
        """Return one sample's history, and why it was kept or dropped, as in the HTTP API."""
        params = _build_params(until_epoch, changes, round=round)
        return parse_object((yield Request("GET", f"/runs/{run_id}/samples/{index}", params)))

    def suggestions(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[list[JsonObject]]:
        """Return every dropped sample with the class that its logs predicted most often, as in the HTTP API."""
        suggestions: list[JsonObject] = []
        while True:
            params = _build_params(
                until_epoch, changes, round=round, offset=len(suggestions), limit=_SUGGESTIONS_PER_PAGE
            )
            page = parse_object((yield Request("GET", f"/runs/{run_id}/suggestions", params)))["suggestions"]
            suggestions += page
            if len(page) < _SUGGESTIONS_PER_PAGE:
                return suggestions

    def select(
        self,
        correct: NDArray[np.bool_],
        observed: NDArray[np.bool_] | None = None,
        options: SelectionOptions | None = None,
    ) -> Call[JsonObject]:
        """Return the selection of one round's bits, each array of shape (n_epochs, n_samples); nothing is stored."""
        body: JsonObject = {
            "num_samples": correct.shape[1],
            "correct": _encode_rows(correct),
            "options": dataclasses.asdict(options or SelectionOptions()),
        }
        if observed is not None:
            body["observed"] = _encode_rows(observed)
        return parse_object((yield from self.upload(Request.with_json("POST", "/selection", body))))


def _build_params(until_epoch: int | None, changes: OptionChanges | None, **more: Any) -> dict[str, Any]:
    params = {**more, **(changes or {})}
    if until_epoch is not None:
        params["until_epoch"] = until_epoch
    return params


def _encode_rows(rows: NDArray[np.bool_]) -> list[str]:
    return [base64.b64encode(row).decode() for row in bitmap.pack(rows)]
