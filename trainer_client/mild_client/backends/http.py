"""`HttpBackend`, with which the service selects, over HTTP."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.arguments import SampleSet, to_bitmap, to_epoch_body, to_spec
from mild_client.backend import EndStatus, Position, RoundResult, RunState, check_epoch_order, compute_sample_weights
from mild_client.client import MildClient
from mild_client.errors import Conflict, ResumeError, RunExists
from mild_client.run import warn_of_dropped_metrics
from mild_core.types import EpochBits, RunSpec


class HttpBackend:
    """`SelectionBackend` that sends the bits of one run to the service, and returns the service's clean sets.

    Parameters
    ----------
    client
        Client of the service.
    spec, attempt
        A run that is open already, and the number of its writer; None for a run that `open` opens.
    """

    def __init__(self, client: MildClient, spec: RunSpec | None = None, attempt: int | None = None) -> None:
        self._client = client
        self._spec = spec or RunSpec(run_id="unopened", num_samples=0)
        self._attempt = attempt
        self._next_epoch: Position | None = None

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open a new run, or resume the run at `resume_from`, the next epoch to write.

        If a trainer was stopped after it finished a round and before it wrote its checkpoint, `resume_from` lies in the
        finished round. The run is then open in the next round, and `finish` returns the stored clean set.

        Raises
        ------
        RunExists
            If the run has epochs or finished rounds, and `resume_from` is None.
        ResumeError
            If the service does not have all rounds and epochs before `resume_from`.
        """
        self._spec = spec = to_spec(spec)
        try:
            answer = self._client.open_run(spec, resume_from)
        except Conflict as conflict:
            if conflict.code == "round-not-open" and resume_from is not None:
                problem = f"has not finished the rounds before ({conflict.detail})"
                raise self._make_resume_error(resume_from, problem) from conflict
            if conflict.code != "round-finished" or resume_from is None:
                raise
            resume_from = Position(resume_from.round + 1, 0)
            answer = self._client.open_run(spec, resume_from)
        self._attempt = int(answer["attempt"])
        rounds = self._client.get_run(spec.run_id)["rounds"]
        number, n_epochs = rounds[-1]["round"], rounds[-1]["num_epochs"]
        if resume_from is None and (number or n_epochs):
            position = f"round {number}" + (f", epoch {n_epochs}" if n_epochs else "")
            raise RunExists(f"run {spec.run_id!r} exists already and is at {position}")
        epochs = [] if resume_from is None else rounds[resume_from.round]["epochs"]
        if resume_from is not None and epochs != list(range(resume_from.epoch)):
            problem = f"has {len(epochs)} of the {resume_from.epoch} epochs before"
            raise self._make_resume_error(resume_from, problem)
        self._next_epoch = resume_from or Position(int(answer["round"]), 0)
        return RunState(round=int(answer["round"]), attempt=self._attempt)

    def put_labels(self, labels: ArrayLike) -> None:
        """Store the given labels, shape (n_samples,), before the first epoch."""
        self._client.put_labels(self._spec.run_id, labels)

    def put_sample_ids(self, ids: Sequence[str]) -> None:
        """Store the external id of each sample before the first epoch."""
        self._client.put_sample_ids(self._spec.run_id, ids)

    def put_planted(self, planted: SampleSet) -> None:
        """Store which samples round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices."""
        planted = to_bitmap(planted, "planted", self._spec.num_samples)
        self._client.put_planted(self._spec.run_id, planted, self._attempt)

    def put_members(self, round: int, members: SampleSet) -> None:
        """Store the samples that a round trains on: a bitmap, a mask, or indices."""
        members = to_bitmap(members, "members", self._spec.num_samples)
        self._client.put_members(self._spec.run_id, round, members, self._attempt)

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Store the correctness bits of all samples for one epoch.

        Raises
        ------
        LocalStateError
            If the epoch leaves a gap behind the ones before.
        """
        body = to_epoch_body(bits, n_samples=self._spec.num_samples)
        if self._next_epoch is not None:
            check_epoch_order(self._next_epoch, round, epoch)
        self._client.put_epoch(self._spec.run_id, round, epoch, body, self._attempt)
        if self._next_epoch == Position(round, epoch):
            self._next_epoch = Position(round, epoch + 1)

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store scalars of an epoch, such as ``train_loss``.

        Metrics that cannot be stored are dropped with a warning; only StaleAttempt is raised.
        """
        with warn_of_dropped_metrics(self._spec.run_id, epoch):
            self._client.put_metrics(self._spec.run_id, round, epoch, metrics, self._attempt)

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and return the clean set that the service selects from it."""
        run_id, n_samples = self._spec.run_id, self._spec.num_samples
        summary = self._client.finish(run_id, round, self._attempt)
        summary.pop("indices", None)
        self._next_epoch = Position(round + 1, 0)
        selected, fit = self._client.selected(run_id, n_samples, round), self._client.fit(run_id, round)
        return RoundResult(round, n_samples, selected, summary, fit)

    def compute_weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each sample's given label is right, shape (n_samples,).

        The probability is 0 where the sample has no score. `result` is that of a finished round.
        """
        _, posterior = self._client.scores(self._spec.run_id, round=result.round)
        return compute_sample_weights(posterior, result.selected, result.summary["verdict"])

    def set_status(self, status: EndStatus) -> None:
        """Set the status of the run, unless another writer has resumed the run."""
        if self._client.get_run(self._spec.run_id)["attempt"] == self._attempt:
            self._client.patch_run(self._spec.run_id, status=status)

    def _make_resume_error(self, position: Position, problem: str) -> ResumeError:
        """Make the error for a service that lacks rounds or epochs before `position`."""
        return ResumeError(
            f"run {self._spec.run_id} goes on at round {position.round}, epoch {position.epoch}, and the service "
            f"{problem}; its store was lost or replaced: start a new run, or give the address of the service that has "
            "this one"
        )
