"""Every call of the service as a flow: one method a route, written once for both clients."""

import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundFit, RunSpec
from mild_client.errors import NotFound
from mild_client.events import EventStream
from mild_client.flow import BITMAP, NPY, Answer, Flow, Request, attempt_header
from mild_client.log_calls import LogCalls
from mild_client.problems import unexpected
from mild_client.service_calls import document
from mild_core import bitmap
from mild_core.audit import Audit
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits

_PAGE = 1_000_000
"""Samples in one answer of scores."""


class Calls(LogCalls):
    """The flows behind `MildClient` and `AsyncMildClient`: runs, what is put into their rounds, and what comes out."""

    def open_run(self, spec: RunSpec, resume_from: Position | None = None) -> Flow[Answer]:
        """Open a run, or open it again with the same properties; return its state."""
        body: Answer = {
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
        return document((yield Request.of_json("PUT", f"/runs/{spec.run_id}", body)))

    def list_runs(self, limit: int = 50, cursor: str | None = None) -> Flow[Answer]:
        """Return some ``runs``, newest first, and the ``next_cursor`` to go on with; that is None at the end."""
        params: dict[str, str | int] = {"limit": limit} if cursor is None else {"limit": limit, "cursor": cursor}
        return document((yield Request("GET", "/runs", params)))

    def get_run(self, run_id: str) -> Flow[Answer]:
        """Return a run's state with its rounds."""
        return document((yield Request("GET", f"/runs/{run_id}")))

    def patch_run(
        self,
        run_id: str,
        tags: Mapping[str, str] | None = None,
        status: str | None = None,
        ttl_seconds: int | None = None,
    ) -> Flow[Answer]:
        """Change a run's tags, status or time to live, and return its state; None leaves them."""
        given = {"tags": tags and dict(tags), "status": status, "ttl_seconds": ttl_seconds}
        body = {name: value for name, value in given.items() if value is not None}
        return document((yield Request.of_json("PATCH", f"/runs/{run_id}", body)))

    def delete_run(self, run_id: str) -> Flow[None]:
        """Delete a run with all that belongs to it; afterwards there is none, whether or not there was one."""
        try:
            yield Request("DELETE", f"/runs/{run_id}")
        except NotFound as error:  # also what a repeated request gets whose first answer was lost
            if error.code != "run-not-found":
                raise

    def put_labels(self, run_id: str, labels: NDArray[np.integer]) -> Flow[None]:
        """Store the given labels, shape (n_samples,); they are fixed once an epoch is in."""
        body = io.BytesIO()
        np.save(body, labels, allow_pickle=False)
        yield from self.upload(Request.of_body("PUT", f"/runs/{run_id}/labels", body.getvalue(), NPY))

    def put_audit(self, run_id: str, indices: Sequence[int], clean: Sequence[bool]) -> Flow[Answer]:
        """Say of some samples whether their given label is true; return how many marks are new or changed."""
        body = {"indices": list(indices), "clean": list(clean)}
        return document((yield from self.upload(Request.of_json("PUT", f"/runs/{run_id}/audit", body))))

    def audit(self, run_id: str, n_samples: int) -> Flow[Audit]:
        """Return all marks of a run."""
        response = yield Request("GET", f"/runs/{run_id}/audit", headers={"Accept": BITMAP})
        return Audit.from_body(response.content, n_samples)

    def put_members(self, run_id: str, round: int, members: Bitmap, attempt: int | None = None) -> Flow[None]:
        """Set whom the model is trained on in a round that has no epochs yet; `members` has shape (n_bytes,)."""
        path = f"/runs/{run_id}/rounds/{round}/members"
        yield from self.upload(Request.of_body("PUT", path, members.tobytes(), BITMAP, attempt))

    def put_epoch(self, run_id: str, round: int, epoch: int, bits: EpochBits, attempt: int | None = None) -> Flow[None]:
        """Commit one epoch's bits.

        Raises
        ------
        TooLarge
            If the service takes no body of that size; an epoch cannot be cut.
        """
        path = f"/runs/{run_id}/rounds/{round}/epochs/{epoch}"
        yield from self.upload(Request.of_body("PUT", path, bits.to_body(), BITMAP, attempt))

    def put_metrics(
        self, run_id: str, round: int, epoch: int, metrics: Mapping[str, float], attempt: int | None = None
    ) -> Flow[None]:
        """Attach scalars to an epoch."""
        yield Request.of_json("PUT", f"/runs/{run_id}/rounds/{round}/metrics/{epoch}", dict(metrics), attempt)

    def finish(self, run_id: str, round: int, attempt: int | None = None, allow_gaps: bool = False) -> Flow[Answer]:
        """Freeze a round and return its selection, in the wire's names; `allow_gaps`: missing epochs are unobserved."""
        path, headers = f"/runs/{run_id}/rounds/{round}/finish", attempt_header(attempt)
        return document((yield Request("POST", path, {"allow_gaps": "true"} if allow_gaps else {}, headers)))

    def selection(self, run_id: str, round: int | str = "latest") -> Flow[Answer]:
        """Return a round's selection with its indices, in the wire's names."""
        return document((yield Request("GET", f"/selection/{run_id}", {"round": round})))

    def selected(self, run_id: str, n_samples: int, round: int | str = "latest") -> Flow[Bitmap]:
        """Return a round's clean set, shape (n_bytes,)."""
        response = yield Request("GET", f"/selection/{run_id}", {"round": round}, {"Accept": BITMAP})
        return bitmap.check(response.content, n_samples, "selection")

    def fit(self, run_id: str, round: int) -> Flow[RoundFit | None]:
        """Return what a round's clean set was read off; None where nothing was fitted."""
        answer = document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/fit")))
        histogram = answer["histogram"]
        if histogram is None:
            return None
        return RoundFit(
            origin=histogram["origin"],
            width=histogram["width"],
            counts=tuple(histogram["counts"]),
            densities=tuple(tuple(density) for density in answer["densities"] or ()),
        )

    def sweep(self, run_id: str, round: int) -> Flow[Answer]:
        """Return every cut of a round: what it keeps and how good that is, in the wire's names."""
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/sweep")))

    def evaluation(self, run_id: str, round: int) -> Flow[Answer]:
        """Return how good a round's clean set is by the audit, in the wire's names.

        Raises
        ------
        Conflict
            If there is no audit (``no-audit``).
        """
        return document((yield Request("GET", f"/runs/{run_id}/rounds/{round}/evaluation")))

    def scores(self, run_id: str, round: int | str = "latest") -> Flow[NDArray[np.float32]]:
        """Return every sample's score and probability of being mislabelled, shape (2, n_samples); NaN: none."""
        pages: list[NDArray[np.float32]] = []
        while not pages or pages[-1].shape[1] == _PAGE:
            params = {"round": round, "offset": len(pages) * _PAGE, "limit": _PAGE}
            response = yield Request("GET", f"/runs/{run_id}/scores", params, {"Accept": NPY})
            try:
                pages.append(np.load(io.BytesIO(response.content), allow_pickle=False))
            except ValueError as error:
                raise unexpected(response) from error
        return np.concatenate(pages, axis=1)

    def sample(self, run_id: str, index: int, round: int | str = "latest") -> Flow[Answer]:
        """Return one sample's history, and why it was kept or dropped, in the wire's names."""
        return document((yield Request("GET", f"/runs/{run_id}/samples/{index}", {"round": round})))

    def events(self, run_id: str, last_event_id: str | None = None) -> EventStream:
        """Iterate over what happens to a run, as it happens, until the run is gone.

        First comes what has happened since `last_event_id`, or since the oldest event that is kept. A connection that
        is lost is made again, behind the last event that was read.

        Raises
        ------
        NotFound
            If there is no such run.
        """
        return EventStream(run_id, last_event_id)
