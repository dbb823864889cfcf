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
from mild_client.requests import BITMAP, NPY, JsonObject, Request, build_round_path, build_run_path, drop_none
from mild_client.responses import make_intermediary_error, parse_json_object
from mild_client.transport import Transport
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions, validate_run_id

_SMALL_BYTES = 1024
"""Bodies up to this size are sent without asking for the service's limits."""


class ServiceCalls:
    """Calls about the service itself, and the sending of requests within its limits."""

    _transport: Transport
    _limits: Mapping[str, float] | None = None

    async def ready(self) -> None:
        """Wait until the service and its store answer, or until the deadline of the client's `Retry`."""
        await self._send(Request("GET", "/ready"))

    async def version(self) -> JsonObject:
        """Return the versions and the limits of the service, as in the HTTP API."""
        versions = await self._fetch(Request("GET", "/version"))
        if self._limits is None:
            warn_if_outdated(versions)
        self._limits = versions.get("limits", {})  # without published limits the service refuses what is too large
        return versions

    async def limits(self) -> Mapping[str, float]:
        """Return the limits of the service by name, such as ``max_body_bytes``; only the first call fetches them."""
        if self._limits is None:
            await self.version()
        return self._limits or {}

    async def _send(self, request: Request) -> httpx.Response:
        """Send a request, and return its successful response.

        Raises
        ------
        TooLarge
            If the body is larger than the service accepts; nothing is sent.
        """
        if isinstance(request.content, bytes) and len(request.content) > _SMALL_BYTES:
            n_bytes, limits = len(request.content), await self.limits()
            limit = limits.get(request.limit, n_bytes)
            if n_bytes > limit:
                shards = ", or send an epoch in several shards" if "/epochs/" in request.path else ""
                raise TooLarge(
                    f"{request.method} {request.path} takes {n_bytes} bytes, this service takes bodies of {limit:.0f}; "
                    f"have MILD_{request.limit.upper()} raised there{shards}"
                )
        return await self._transport.send(request)

    async def _fetch(self, request: Request, *names: str) -> JsonObject:
        """Send a request, and return the JSON object of its response, which has the fields `names`."""
        return parse_json_object(await self._send(request), *names)

    async def _fetch_pages(self, path: str, params: Mapping[str, Any], name: str, limit: int) -> list[Any]:
        """Return the entries of the list `name` of a resource, of all of its pages of `limit` entries."""
        entries: list[Any] = []
        while True:
            page = await self._fetch(Request("GET", path, {**params, "offset": len(entries), "limit": limit}), name)
            entries += page[name]
            if len(page[name]) < limit:
                return entries

    async def _fetch_bitmap(self, path: str, n_samples: int, name: str, params: Mapping[str, Any] = {}) -> Bitmap:
        """Return the bitmap, shape (n_bytes,), of a resource; `name` is its name in error messages."""
        response = await self._send(Request("GET", path, params, {"Accept": BITMAP}))
        return bitmap.validate(response.content, n_samples, name)


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

    async def selection(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
        wait: float = 0,
        ids: bool = False,
    ) -> JsonObject:
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
        options = drop_none(wait=to_json(wait) or None, ids=ids or None)
        params = _build_params(until_epoch, changes, round=round, **options)
        read_timeout = wait + _WAIT_MARGIN if wait else None
        return await self._fetch(Request("GET", _build_selection_path(run_id), params, read_timeout=read_timeout))

    async def selected(
        self,
        run_id: str,
        n_samples: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> Bitmap:
        """Return the clean set of a round as a bitmap, shape (n_bytes,); see `selection` for the parameters."""
        params = _build_params(until_epoch, changes, round=round)
        return await self._fetch_bitmap(_build_selection_path(run_id), n_samples, "selection", params)

    async def fit(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> RoundFit | None:
        """Return the histogram of a round's scores and the fitted components; None if there is no histogram.

        See `selection` for the parameters.
        """
        request = Request("GET", build_round_path(run_id, round, "fit"), _build_params(until_epoch, changes))
        answer = await self._fetch(request, "histogram", "densities")
        if (histogram := answer["histogram"]) is None:
            return None
        counts, densities = histogram["counts"], answer["densities"] or ()
        return RoundFit(histogram["origin"], histogram["width"], tuple(counts), tuple(map(tuple, densities)))

    async def sweep(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> JsonObject:
        """Return the size and the quality of the clean set at every possible threshold of a round, as in the HTTP API.

        See `selection` for the parameters.
        """
        path = build_round_path(run_id, round, "sweep")
        return await self._fetch(Request("GET", path, _build_params(until_epoch, changes)))

    async def evaluation(
        self, run_id: str, round: int, until_epoch: int | None = None, changes: OptionChanges | None = None
    ) -> JsonObject:
        """Return the quality of a round's clean set, measured on the audited samples, as in the HTTP API.

        See `selection` for the parameters.

        Raises
        ------
        Conflict
            If the run has no audit (``no-audit``).
        """
        path = build_round_path(run_id, round, "evaluation")
        return await self._fetch(Request("GET", path, _build_params(until_epoch, changes)))

    async def scores(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> NDArray[np.float32]:
        """Return each sample's score and its probability of being mislabelled, shape (2, n_samples).

        A value is NaN where the sample has no score. See `selection` for the parameters.
        """
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _SCORES_PER_PAGE:
            offset, limit = len(pages) * _SCORES_PER_PAGE, _SCORES_PER_PAGE
            params = _build_params(until_epoch, changes, round=round, offset=offset, limit=limit)
            response = await self._send(Request("GET", build_run_path(run_id, "scores"), params, {"Accept": NPY}))
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise make_intermediary_error(response) from error
        return np.concatenate(pages, axis=1)

    async def sample(
        self,
        run_id: str,
        index: int,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> JsonObject:
        """Return the history of one sample, and why it was kept or dropped, as in the HTTP API.

        See `selection` for the parameters.
        """
        path = build_run_path(run_id, "samples", to_integer(index, "index"))
        return await self._fetch(Request("GET", path, _build_params(until_epoch, changes, round=round)))

    async def suggestions(
        self,
        run_id: str,
        round: int | str = "latest",
        until_epoch: int | None = None,
        changes: OptionChanges | None = None,
    ) -> list[JsonObject]:
        """Return every dropped sample with the class that was predicted for it most often, as in the HTTP API.

        See `selection` for the parameters.
        """
        path, params = build_run_path(run_id, "suggestions"), _build_params(until_epoch, changes, round=round)
        return await self._fetch_pages(path, params, "suggestions", _SUGGESTIONS_PER_PAGE)

    async def select(
        self,
        correct: ArrayLike,
        observed: ArrayLike | None = None,
        options: SelectionOptions | None = None,
    ) -> JsonObject:
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
        observed_rows = None if observed is None else _encode_rows(_to_rows(observed, "observed"))
        values = dataclasses.asdict(to_options(options))
        body = drop_none(num_samples=rows.shape[1], correct=_encode_rows(rows), observed=observed_rows, options=values)
        return await self._fetch(Request.with_json("POST", "/selection", body))


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
