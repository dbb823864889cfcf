"""The calls that read results, and `ServiceCalls`, their base, which knows the service's versions and limits."""

import base64
import dataclasses
import io
from collections.abc import Mapping
from typing import Any, TypeAlias

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import to_array, to_integer, to_json, to_mask, to_options, to_round
from mild_client.backend import RoundFit
from mild_client.compatibility import warn_if_outdated
from mild_client.errors import TooLarge
from mild_client.requests import BITMAP, NPY, Call, JsonObject, Request, build_round_path, build_run_path
from mild_client.transport import make_intermediary_error
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions, validate_run_id

_SMALL_BYTES = 1024
"""Bodies up to this size are sent without asking for the service's limits."""


class ServiceCalls:
    """Calls about the service itself, and uploads that check its limits first."""

    def __init__(self) -> None:
        self._limits: Mapping[str, float] | None = None

    def ready(self) -> Call[None]:
        """Wait until the service and its store answer, or until the deadline of the client's `Retry`."""
        yield Request("GET", "/ready")

    def version(self) -> Call[JsonObject]:
        """Return the versions and the limits of the service, as in the HTTP API."""
        versions = yield from self._get_json("/version", {})
        if self._limits is None:
            warn_if_outdated(versions)
        self._limits = versions.get("limits", {})  # without published limits the service refuses what is too large
        return versions

    def limits(self) -> Call[Mapping[str, float]]:
        """Return the limits of the service by name, such as ``max_body_bytes``; only the first call fetches them."""
        if self._limits is None:
            yield from self.version()
        return self._limits or {}

    def _get_json(self, path: str, params: Mapping[str, Any], *names: str) -> Call[JsonObject]:
        """Return the JSON object of a resource, which has the fields `names`."""
        return parse_json_object((yield Request("GET", path, params)), *names)

    def _get_pages(self, path: str, params: Mapping[str, Any], name: str, limit: int) -> Call[list[Any]]:
        """Return the entries of the list `name` of a resource, of all of its pages of `limit` entries."""
        entries: list[Any] = []
        while True:
            page = yield from self._get_json(path, {**params, "offset": len(entries), "limit": limit}, name)
            entries += page[name]
            if len(page[name]) < limit:
                return entries

    def upload(self, request: Request) -> Call[httpx.Response]:
        """Send a request with a body that cannot be split, and return the response.

        Raises
        ------
        TooLarge
            If the body is larger than the service accepts; nothing is sent.
        """
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


def parse_json_object(response: httpx.Response, *names: str) -> JsonObject:
    """Parse the JSON object of a response.

    Raises
    ------
    IntermediaryError
        If the response is not a JSON object, or lacks one of the fields `names`.
    """
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not all(name in answer for name in names):
        raise make_intermediary_error(response)
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
    """Calls that read results, each with `changes` to the run's options for this request only."""

    def selection(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
        wait: float = 0,
        ids: bool = False,
    ) -> Call[JsonObject]:
        """Return the selection of a round with the indices of its clean set, as in the HTTP API.

        Parameters
        ----------
        run_id, round
            The round. ``latest`` is the last finished round, or round 0 if none is finished. ``best`` is the finished
            round with the best F1 against the audit, or, without an audit, with the best ``validation_accuracy``.
        until_epoch
            Last epoch of the round to use; None for all epochs.
        changes
            Options, by name, that replace those of the run in this request.
        wait
            Longest time in seconds to wait until the round is finished; `round` must then be a number.
        ids
            Whether to add the external ids of the samples.

        Raises
        ------
        Conflict
            If the rounds cannot be compared for ``best`` (``rounds-not-comparable``), or the round has no epochs.
        """
        params = _build_params(until_epoch, changes, round=round)
        if wait:
            params["wait"] = to_json(wait)
        if ids:
            params["ids"] = "true"
        read_timeout = wait + _WAIT_MARGIN if wait else None
        request = Request("GET", _build_selection_path(run_id), params, read_timeout=read_timeout)
        return parse_json_object((yield request))

    def selected(
        self,
        run_id: str,
        n_samples: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[Bitmap]:
        """Return the clean set of a round as a bitmap, shape (n_bytes,); see `selection` for the parameters."""
        params = _build_params(until_epoch, changes, round=round)
        response = yield Request("GET", _build_selection_path(run_id), params, {"Accept": BITMAP})
        return bitmap.validate(response.content, n_samples, "selection")

    def fit(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> Call[RoundFit | None]:
        """Return the histogram of a round's scores and the fitted components; None if there is no histogram.

        See `selection` for the parameters.
        """
        path, params = build_round_path(run_id, round, "fit"), _build_params(until_epoch, changes)
        answer = yield from self._get_json(path, params, "histogram", "densities")
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
        """Return the size and the quality of the clean set at every possible threshold of a round, as in the HTTP API.

        See `selection` for the parameters.
        """
        path = build_round_path(run_id, round, "sweep")
        return (yield from self._get_json(path, _build_params(until_epoch, changes)))

    def evaluation(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> Call[JsonObject]:
        """Return the quality of a round's clean set, measured on the audited samples, as in the HTTP API.

        See `selection` for the parameters.

        Raises
        ------
        Conflict
            If the run has no audit (``no-audit``).
        """
        path = build_round_path(run_id, round, "evaluation")
        return (yield from self._get_json(path, _build_params(until_epoch, changes)))

    def scores(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[NDArray[np.float32]]:
        """Return each sample's score and its probability of being mislabelled, shape (2, n_samples).

        A value is NaN where the sample has no score. See `selection` for the parameters.
        """
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _SCORES_PER_PAGE:
            params = _build_params(
                until_epoch, changes, round=round, offset=len(pages) * _SCORES_PER_PAGE, limit=_SCORES_PER_PAGE
            )
            response = yield Request("GET", build_run_path(run_id, "scores"), params, {"Accept": NPY})
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise make_intermediary_error(response) from error
        return np.concatenate(pages, axis=1)

    def sample(
        self,
        run_id: str,
        index: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[JsonObject]:
        """Return the history of one sample, and why it was kept or dropped, as in the HTTP API.

        See `selection` for the parameters.
        """
        path = build_run_path(run_id, "samples", to_integer(index, "index"))
        return (yield from self._get_json(path, _build_params(until_epoch, changes, round=round)))

    def suggestions(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Call[list[JsonObject]]:
        """Return every dropped sample with the class that was predicted for it most often, as in the HTTP API.

        See `selection` for the parameters.
        """
        path, params = build_run_path(run_id, "suggestions"), _build_params(until_epoch, changes, round=round)
        return (yield from self._get_pages(path, params, "suggestions", _SUGGESTIONS_PER_PAGE))

    def select(
        self,
        correct: ArrayLike,
        observed: ArrayLike | None = None,
        options: SelectionOptions | None = None,
    ) -> Call[JsonObject]:
        """Return the selection from the bits of one round, as in the HTTP API, without storing anything.

        Parameters
        ----------
        correct
            Booleans of shape (n_epochs, n_samples): whether the model predicted the sample's given label.
        observed
            Booleans of the same shape: whether the sample was evaluated. None stands for all.
        options
            How the clean set is chosen; None takes the defaults.
        """
        rows = _to_rows(correct, "correct")
        body: JsonObject = {
            "num_samples": rows.shape[1],
            "correct": _encode_rows(rows),
            "options": dataclasses.asdict(to_options(options)),
        }
        if observed is not None:
            body["observed"] = _encode_rows(_to_rows(observed, "observed"))
        return parse_json_object((yield from self.upload(Request.with_json("POST", "/selection", body))))


def _build_params(until_epoch: int | None, changes: OptionChanges | None, **params: Any) -> dict[str, Any]:
    """Return query parameters: `params`, `changes`, and `until_epoch` unless that is None."""
    if "round" in params:
        params["round"] = to_round(params["round"])
    if until_epoch is not None:
        params["until_epoch"] = to_integer(until_epoch, "until_epoch")
    return {**params, **to_json(changes or {})}


def _build_selection_path(run_id: str) -> str:
    return f"/selection/{validate_run_id(run_id)}"


def _to_rows(bits: Any, name: str) -> NDArray[np.bool_]:
    """Convert the bits of a round to booleans of shape (n_epochs, n_samples)."""
    array = bits if hasattr(bits, "shape") else np.stack([to_mask(row, name) for row in bits])
    if len(array.shape) != 2:
        raise ParameterError(f"{name} has shape {tuple(array.shape)}; give booleans of shape (n_epochs, n_samples)")
    n_epochs, n_samples = array.shape
    return to_mask(to_array(array, name).reshape(-1), name).reshape(n_epochs, n_samples)


def _encode_rows(rows: NDArray[np.bool_]) -> list[str]:
    """Pack each row into a bitmap in base64."""
    return [base64.b64encode(row).decode() for row in bitmap.pack(rows)]
