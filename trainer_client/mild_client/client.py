"""The service's HTTP client: one method a route, typed errors, and retries that outlast a restart of the service."""

import dataclasses
import io
import logging
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundFit, RunSpec
from mild_client.credentials import authorization
from mild_client.errors import ServiceError, ServiceUnreachable
from mild_client.problems import RETRIED, refusal, retry_after, unexpected
from mild_client.retry import Retry
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits

logger = logging.getLogger(__name__)

_BITMAP = "application/octet-stream"
_NPY = "application/x-npy"
_PAGE = 1_000_000
"""Samples in one answer of scores."""


class MildClient:
    """Speaks to one service. Usable as a context manager.

    Parameters
    ----------
    url
        The service's address, such as ``http://localhost:8000``.
    http
        Client to send through instead of an own one; it stays the caller's to close.
    retry
        When to give up.
    timeout
        Seconds that one answer may take.
    api_key
        Key to send; None takes the one in ``MILD_API_KEY``, if there is one.

    Raises
    ------
    ParameterError
        If `url` is no address of a web server, or the key cannot be sent.

    Notes
    -----
    A first failed try is logged as a warning, which without any logging set up appears on standard error. A wrong
    address is given up on soon (`Retry.first_deadline`): only a service that has answered once is waited for.
    """

    def __init__(
        self,
        url: str,
        http: httpx.Client | None = None,
        retry: Retry | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
    ) -> None:
        self.url = _checked(url)
        self._owned = http is None
        self._http = http or httpx.Client(timeout=httpx.Timeout(timeout, connect=5.0))
        self._retry = retry or Retry()
        self._has_answered = False
        self._authorization = authorization(api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        if self._owned:
            self._http.close()

    def open_run(self, spec: RunSpec, resume_from: Position | None = None) -> dict[str, Any]:
        """Open a run, or open it again with the same properties; return its state."""
        body: dict[str, Any] = {
            "num_samples": spec.n_samples,
            "num_classes": spec.n_classes,
            "observe": spec.observe,
            "pass": spec.forward_pass,
            "selection": dataclasses.asdict(spec.options),
            "expected_epochs": spec.expected_epochs,
            "expected_rounds": spec.expected_rounds,
            "tags": dict(spec.tags),
        }
        if resume_from is not None:
            body["resume_from"] = {"round": resume_from.round, "epoch": resume_from.epoch}
        return self._json("PUT", f"/runs/{spec.run_id}", json=body)

    def run(self, run_id: str) -> dict[str, Any]:
        """Return a run's state."""
        return self._json("GET", f"/runs/{run_id}")

    def put_members(self, run_id: str, round: int, members: Bitmap, attempt: int | None = None) -> None:
        """Set whom the model is trained on in a round that has no epochs yet; `members` has shape (n_bytes,)."""
        self._put_bits(f"/runs/{run_id}/rounds/{round}/members", members.tobytes(), attempt)

    def put_epoch(self, run_id: str, round: int, epoch: int, bits: EpochBits, attempt: int | None = None) -> None:
        """Commit one epoch's bits."""
        self._put_bits(f"/runs/{run_id}/rounds/{round}/epochs/{epoch}", bits.to_body(), attempt)

    def put_metrics(
        self, run_id: str, round: int, epoch: int, metrics: Mapping[str, float], attempt: int | None = None
    ) -> None:
        """Attach scalars to an epoch."""
        path = f"/runs/{run_id}/rounds/{round}/metrics/{epoch}"
        self._request("PUT", path, json=dict(metrics), headers=_attempt(attempt))

    def finish(self, run_id: str, round: int, attempt: int | None = None) -> dict[str, Any]:
        """Freeze a round and return its selection, in the wire's names."""
        return self._json("POST", f"/runs/{run_id}/rounds/{round}/finish", headers=_attempt(attempt))

    def selection(self, run_id: str, round: int | str = "latest") -> dict[str, Any]:
        """Return a round's selection with its indices, in the wire's names."""
        return self._json("GET", f"/selection/{run_id}", params={"round": round})

    def selected(self, run_id: str, n_samples: int, round: int | str = "latest") -> Bitmap:
        """Return a round's clean set, shape (n_bytes,)."""
        response = self._request("GET", f"/selection/{run_id}", params={"round": round}, headers={"Accept": _BITMAP})
        return bitmap.check(response.content, n_samples, "selection")

    def fit(self, run_id: str, round: int) -> RoundFit | None:
        """Return what a round's clean set was read off; None where nothing was fitted."""
        answer = self._json("GET", f"/runs/{run_id}/rounds/{round}/fit")
        histogram = answer["histogram"]
        if histogram is None:
            return None
        return RoundFit(
            origin=histogram["origin"],
            width=histogram["width"],
            counts=tuple(histogram["counts"]),
            densities=tuple(tuple(density) for density in answer["densities"] or ()),
        )

    def put_labels(self, run_id: str, labels: NDArray[np.integer]) -> None:
        """Store the given labels, shape (n_samples,); they are fixed once an epoch is in."""
        body = io.BytesIO()
        np.save(body, labels, allow_pickle=False)
        self._request("PUT", f"/runs/{run_id}/labels", content=body.getvalue(), headers={"Content-Type": _NPY})

    def put_audit(self, run_id: str, indices: Sequence[int], clean: Sequence[bool]) -> dict[str, Any]:
        """Say of some samples whether their given label is true; return how many marks are new or changed."""
        return self._json("PUT", f"/runs/{run_id}/audit", json={"indices": list(indices), "clean": list(clean)})

    def audit(self, run_id: str, n_samples: int) -> Audit:
        """Return all marks of a run."""
        response = self._request("GET", f"/runs/{run_id}/audit", headers={"Accept": _BITMAP})
        return Audit.from_body(response.content, n_samples)

    def evaluation(self, run_id: str, round: int) -> dict[str, Any]:
        """Return how good a round's clean set is by the audit, in the wire's names.

        Raises
        ------
        Conflict
            If there is no audit (``no-audit``).
        """
        return self._json("GET", f"/runs/{run_id}/rounds/{round}/evaluation")

    def scores(self, run_id: str, round: int | str = "latest") -> NDArray[np.float32]:
        """Return every sample's score and probability of being mislabelled, shape (2, n_samples); NaN: none."""
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _PAGE:
            params = {"round": round, "offset": len(pages) * _PAGE, "limit": _PAGE}
            response = self._request("GET", f"/runs/{run_id}/scores", params=params, headers={"Accept": _NPY})
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise unexpected(response) from error
        return np.concatenate(pages, axis=1)

    def sample(self, run_id: str, index: int, round: int | str = "latest") -> dict[str, Any]:
        """Return one sample's history, and why it was kept or dropped, in the wire's names."""
        return self._json("GET", f"/runs/{run_id}/samples/{index}", params={"round": round})

    def _put_bits(self, path: str, body: bytes, attempt: int | None) -> None:
        self._request("PUT", path, content=body, headers={"Content-Type": _BITMAP, **_attempt(attempt)})

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        response = self._request(method, path, **request)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise unexpected(response)
        return answer

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send until there is an answer that is not worth another try, or the deadline has passed."""
        retry = self._retry
        request["headers"] = {**self._authorization, **request.get("headers", {})}
        started = retry.clock()
        n_tries = 0
        while True:
            n_tries += 1
            failure: ServiceError | ServiceUnreachable
            asked = 0.0
            try:
                response = self._http.request(method, self.url + path, **request)
            except httpx.TransportError as error:
                deadline = retry.deadline if self._has_answered else retry.first_deadline
                trouble = f"does not answer ({_reason(error)})"
                failure = ServiceUnreachable(
                    f"{method} {self.url}{path} got no answer in {n_tries} tries over "
                    f"{retry.clock() - started:.0f} s ({_reason(error)}), "
                    f"the deadline is {deadline:g} s; check that the service runs and that the address is right"
                )
            else:
                self._has_answered = True
                if response.is_success:
                    return response
                failure = refusal(response)
                if response.status_code not in RETRIED:
                    raise failure
                deadline = retry.deadline
                trouble = f"cannot serve now ({failure})"
                asked = retry_after(response)
            pause = retry.pause(n_tries, asked)
            if retry.clock() - started + pause > deadline:
                raise failure
            if n_tries == 1:
                logger.warning("%s %s; trying for %g s", self.url, trouble, deadline)
            retry.sleep(pause)


def _checked(url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ParameterError(
            f"url is {url!r}; give one with http:// or https:// and a host, such as http://localhost:8000"
        )
    return url.rstrip("/")


def _reason(error: httpx.TransportError) -> str:
    """What the system said, without its number, or else the kind of error: ``connection refused``."""
    said = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return said[0].lower() + said[1:] if said else type(error).__name__


def _attempt(attempt: int | None) -> dict[str, str]:
    return {} if attempt is None else {"Mild-Attempt": str(attempt)}
