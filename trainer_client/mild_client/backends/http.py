"""`HttpBackend`: selection by the service, over HTTP."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundResult, RunState, compute_sample_weights
from mild_client.client import MildClient
from mild_client.errors import Conflict, ResumeError, RunExists
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits, RunSpec


class HttpBackend:
    """`SelectionBackend` for one run of a service; it keeps the attempt number of this trainer.

    Parameters
    ----------
    client
        Client of the service.
    """

    def __init__(self, client: MildClient) -> None:
        self._client = client
        self._spec = RunSpec(run_id="unopened", num_samples=0)
        self._attempt: int | None = None

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Open the run, or take it over at `resume_from`.

        A trainer that was stopped after finishing a round and before its checkpoint resumes at the end of that round:
        the service has opened the next round, and `finish` returns the stored set.

        Raises
        ------
        RunExists
            If the run has epochs or finished rounds, and `resume_from` is None.
        ResumeError
            If the service does not have all epochs before `resume_from`.
        """
        self._spec = spec
        try:
            answer = self._client.open_run(spec, resume_from)
        except Conflict as conflict:
            if conflict.code != "round-finished" or resume_from is None:
                raise
            resume_from = Position(resume_from.round + 1, 0)
            answer = self._client.open_run(spec, resume_from)
        self._attempt = int(answer["attempt"])
        if resume_from is None:
            self._check_new()
        else:
            self._check_epochs(resume_from)
        return RunState(round=int(answer["round"]), attempt=self._attempt)

    def use_attempt(self, spec: RunSpec, attempt: int) -> None:
        """Write to a run that is open already, as `attempt`."""
        self._spec, self._attempt = spec, attempt

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Store the given labels."""
        self._client.put_labels(self._spec.run_id, labels)

    def put_planted(self, planted: Bitmap) -> None:
        """Set the samples whose labels are broken on purpose in round 0."""
        self._client.put_planted(self._spec.run_id, planted, self._attempt)

    def put_members(self, round: int, members: Bitmap) -> None:
        """Set the training samples of a round."""
        self._client.put_members(self._spec.run_id, round, members, self._attempt)

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Commit one epoch's bits."""
        self._client.put_epoch(self._spec.run_id, round, epoch, bits, self._attempt)

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Store an epoch's scalars."""
        self._client.put_metrics(self._spec.run_id, round, epoch, metrics, self._attempt)

    def finish(self, round: int) -> RoundResult:
        """Freeze the round and fetch its clean set."""
        run_id, n_samples = self._spec.run_id, self._spec.num_samples
        summary = self._client.finish(run_id, round, self._attempt)
        summary.pop("indices", None)
        return RoundResult(
            round=round,
            n_samples=n_samples,
            selected=self._client.selected(run_id, n_samples, round),
            summary=summary,
            fit=self._client.fit(run_id, round),
        )

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """Return the probability that each label is right, after a finished round, shape (n_samples,); 0: no score."""
        _, posterior = self._client.scores(self._spec.run_id, round=result.round)
        return compute_sample_weights(posterior, result.selected, result.summary["verdict"])

    def _check_new(self) -> None:
        run_id = self._spec.run_id
        last = self._client.get_run(run_id)["rounds"][-1]
        number, n_epochs = last["round"], last["num_epochs"]
        if number or n_epochs:
            position = f"round {number}" + (f", epoch {n_epochs}" if n_epochs else "")
            raise RunExists(f"run {run_id!r} exists already and is at {position}")

    def _check_epochs(self, position: Position) -> None:
        run_id = self._spec.run_id
        stored_epochs = self._client.get_run(run_id)["rounds"][position.round]["epochs"]
        if stored_epochs != list(range(position.epoch)):
            raise ResumeError(
                f"run {run_id} goes on at round {position.round}, epoch {position.epoch}, but the service holds "
                f"{len(stored_epochs)} of the {position.epoch} epochs before; its store was lost or replaced: start a "
                "new run"
            )
