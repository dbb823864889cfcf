"""`Run` and `AsyncRun`, which write to one run and keep count of its round, epoch and attempt."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, SupportsFloat, TypeAlias, get_args

import anyio
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mild_client.api import Calls
from mild_client.arguments import SampleSet, to_bitmap, to_epoch_body, to_integer, to_spec
from mild_client.backend import Position
from mild_client.blocking import make_blocking, run_blocking
from mild_client.errors import (
    ClientError,
    LocalStateError,
    NotFound,
    RunExists,
    RunMissing,
    ServiceUnreachable,
    StaleAttempt,
    Unavailable,
)
from mild_client.logs import SamplesBy
from mild_client.requests import JsonObject, drop_none
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, RunSpec

logger = logging.getLogger(__name__)

Resume: TypeAlias = Literal["allow", "must", "never"]

_CLOSE_DEADLINE = 5.0
"""Deadline for setting the run's status at the end of a ``with`` block."""


class AsyncRun:
    """Writer of a run that is open within an ``async with`` block; created by `AsyncMildClient.run`.

    Attributes
    ----------
    run_id
        Id of the run.
    round, epoch
        Position of the next epoch.
    attempt
        Number of this writer, which its requests carry. None before the run is open.
    """

    def __init__(self, calls: Calls, spec: RunSpec, resume: Resume) -> None:
        self.run_id = spec.run_id
        self.round = self.epoch = 0
        self.attempt: int | None = None
        self._calls, self._spec, self._resume = calls, spec, resume
        self._is_finished = False

    async def __aenter__(self) -> Self:
        """Open the run, or resume it at its first missing epoch.

        Raises
        ------
        RunExists
            If the run has epochs or finished rounds, and `resume` is ``never``.
        RunMissing
            If the run does not exist, and `resume` is ``must``.
        Conflict
            If the run was opened before with other properties (``run-conflict``).
        """
        await self._calls.limits()  # the first request; warns if this client is too old
        try:
            position = _find_next_position(await self._calls.get_run(self.run_id))
        except NotFound as error:
            if error.code != "run-not-found":
                raise
            if self._resume == "must":
                raise RunMissing(
                    f"there is no run {self.run_id!r} to resume; check the name, or open it with resume='allow'"
                ) from None
            position = None
        if position is not None and self._resume == "never":
            raise RunExists(
                f"run {self.run_id!r} exists already and is at round {position.round}, epoch {position.epoch}"
            )
        state = await self._calls.open_run(self._spec, position)
        self.attempt = state["attempt"]
        self.round, self.epoch = state["round"], position.epoch if position else 0
        if state.get("status") != "running":
            await self._calls.patch_run(self.run_id, status="running")
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with anyio.move_on_after(2 * _CLOSE_DEADLINE, shield=True):  # also in a cancelled task
            await self._close(error)

    async def put_epoch(
        self,
        correct: EpochBits | ArrayLike,
        observed: ArrayLike | None = None,
        metrics: Mapping[str, SupportsFloat] | None = None,
    ) -> None:
        """Send the correctness bits of the next epoch, and add 1 to `epoch`.

        Parameters
        ----------
        correct
            Booleans of shape (n_samples,), as an array, tensor or list: whether the model predicted each sample's
            given label. The packed bits that `CorrectnessTracker.end_epoch` returns are accepted too.
        observed
            Booleans of shape (n_samples,): whether each sample was evaluated. None stands for all samples that the run
            observes.
        metrics
            Scalars of the epoch by name, such as ``train_loss``. Those that cannot be stored, such as NaN, are dropped
            with a warning.

        Raises
        ------
        ParameterError
            If an array does not hold a boolean for each sample.
        StaleAttempt
            If another writer has resumed the run.
        """
        body = to_epoch_body(correct, observed, self._spec.num_samples)
        await self._calls.put_epoch(self.run_id, self.round, self.epoch, body, self._require_attempt())
        epoch, self.epoch = self.epoch, self.epoch + 1
        self._is_finished = False
        if metrics:
            await self.put_metrics(epoch, metrics)

    async def log_predictions(
        self,
        epoch: int,
        samples: ArrayLike,
        predicted: ArrayLike,
        labels: ArrayLike,
        complete: bool = False,
        samples_by: SamplesBy | None = None,
    ) -> JsonObject:
        """Send predictions of some samples for an epoch of the open round, and return the states of the epochs.

        Several calls may fill one epoch. A record that is stored already changes nothing.

        Parameters
        ----------
        epoch
            Number of the epoch.
        samples
            Shape (n_records,), indices or external ids of the samples.
        predicted, labels
            Shape (n_records,), the predicted classes and the given labels.
        complete
            Whether to commit the epoch now. Otherwise the service commits the epoch once it has all observed samples.
        samples_by
            Whether `samples` are external ids or indices. None: a text is an id; a number is one if the run has a
            number for an id.
        """
        epoch, attempt = to_integer(epoch, "epoch"), self._require_attempt()
        answer = await self._calls.log_predictions(
            self.run_id, epoch, samples, predicted, labels, self.round, complete, attempt, samples_by
        )
        self.epoch = max(self.epoch, epoch + 1)
        self._is_finished = False
        return answer

    async def put_metrics(self, epoch: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Store scalars, such as ``train_loss``, with an epoch of the open round.

        Metrics that cannot be stored are dropped with a warning; only StaleAttempt is raised.
        """
        with warn_of_dropped_metrics(self.run_id, epoch):
            await self._calls.put_metrics(self.run_id, self.round, epoch, metrics, self._require_attempt())

    async def put_planted(self, planted: SampleSet) -> None:
        """Store the samples that round 0 trains on with planted (wrong) labels: a bitmap, a mask, or indices.

        Call it before the first epoch of round 0.
        """
        planted = to_bitmap(planted, "planted", self._spec.num_samples)
        await self._calls.put_planted(self.run_id, planted, self._require_attempt())

    async def put_members(self, members: SampleSet) -> None:
        """Store the samples that the open round trains on: a bitmap, a mask, or indices.

        Call it before the first epoch of the round.
        """
        members = to_bitmap(members, "members", self._spec.num_samples)
        await self._calls.put_members(self.run_id, self.round, members, self._require_attempt())

    async def finish(self, allow_gaps: bool = False) -> JsonObject:
        """Freeze the open round, begin the next one, and return the selection as in the HTTP API.

        With `allow_gaps`, missing epochs of the round count as unobserved; without it, they are an error.
        """
        selection = await self._calls.finish(self.run_id, self.round, self._require_attempt(), allow_gaps)
        self.round, self.epoch, self._is_finished = self.round + 1, 0, True
        return selection

    async def selection(self, round: int | str = "latest") -> JsonObject:
        """Return the selection of a round with the indices of its clean set, as in the HTTP API.

        The selection of the open round is provisional.

        Parameters
        ----------
        round
            A number, ``latest``, or ``best``: the finished round with the best F1 against the audit, or, without an
            audit, with the best ``validation_accuracy``.

        Raises
        ------
        Conflict
            If the rounds cannot be compared for ``best`` (``rounds-not-comparable``), or the round has no epochs.
        """
        return await self._calls.selection(self.run_id, round)

    async def selected(self, round: int | str = "latest") -> NDArray[np.bool_]:
        """Return the clean set of a round as a mask, shape (n_samples,); `round` has the values of `selection`."""
        n_samples = self._spec.num_samples
        selected = await self._calls.selected(self.run_id, n_samples, round)
        return bitmap.unpack(selected, n_samples)

    async def _close(self, error: BaseException | None) -> None:
        """Set the status of the run at the end of a ``with`` block; no round is finished.

        The status becomes ``failed`` if an `error` ended the block, after which the run can be resumed. It becomes
        ``finished`` if the round of the last epoch is finished. It does not change if another writer has taken over
        the run, or the service cannot be reached.
        """
        status = "failed" if error is not None else "finished" if self._is_finished else None
        is_lost = isinstance(error, (StaleAttempt, ServiceUnreachable, Unavailable)) or self.attempt is None
        if status is None or is_lost:
            return
        calls = self._calls._with_deadline(_CLOSE_DEADLINE)
        try:
            if (await calls.get_run(self.run_id))["attempt"] == self.attempt:
                await calls.patch_run(self.run_id, status=status)
        except ClientError as failure:  # the status is informative: it must not hide `error`
            logger.warning("run %s could not be marked as %s: %s", self.run_id, status, failure)

    def _require_attempt(self) -> int:
        if self.attempt is None:
            raise LocalStateError(f"run {self.run_id!r} is not open; write to it in a `with` block")
        return self.attempt


@contextlib.contextmanager
def warn_of_dropped_metrics(run_id: str, epoch: int) -> Iterator[None]:
    """Log a warning in place of an error of the service, as no metric ends a training; StaleAttempt is raised."""
    try:
        yield
    except ClientError as error:
        if isinstance(error, (StaleAttempt, LocalStateError)):
            raise
        logger.warning("run %s: the metrics of epoch %d are dropped: %s", run_id, epoch, error)


def _find_next_position(state: Mapping[str, Any]) -> Position | None:
    """Return the position of the first missing epoch; None if the run has no epochs."""
    last_round = state["rounds"][-1]
    if state["round"] == 0 and not last_round["epochs"] and not last_round["partial"]:
        return None
    epochs = set(last_round["epochs"])
    return Position(state["round"], next(e for e in range(len(epochs) + 1) if e not in epochs))


def create_run(calls: Calls, /, run_id: str, num_samples: int, resume: Resume = "never", **fields: Any) -> AsyncRun:
    """Create a run object for a ``with`` block; the block opens the run and counts its rounds and epochs.

    A block that ends with an exception leaves the run open, with status ``failed``. No round is finished implicitly.
    A run has one writer. Other processes of a training write with the client's own calls, and pass `attempt`.

    Parameters
    ----------
    run_id
        Id of the run, ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``.
    num_samples
        Number of samples of the data set; a sample's index never changes during a run.
    resume
        What to do with a run that has epochs already. ``never``: raise RunExists. ``allow``: continue after its last
        complete epoch, and refuse earlier writers from then on. ``must``: the same, and raise RunMissing if the run
        does not exist.
    **fields
        Other fields of `RunSpec`, such as ``num_classes``, ``observe``, ``selection``, ``tags``. None takes the
        default.

    Raises
    ------
    ParameterError
        If `resume` has another value, a name in `fields` is not a field of `RunSpec`, or the id or the value of a
        field is invalid.
    """
    if resume not in get_args(Resume):
        raise ParameterError(f"resume is {resume!r}; choose one of {', '.join(get_args(Resume))}")
    names = [field.name for field in dataclasses.fields(RunSpec)]
    if unknown := [name for name in fields if name not in names]:
        raise ParameterError(f"{unknown[0]} is no field of a run; give some of {', '.join(names)}")
    return AsyncRun(calls, to_spec(RunSpec(run_id, num_samples, **drop_none(**fields))), resume)


class Run:
    """Writer of a run that is open within a ``with`` block; created by `MildClient.run`."""

    def __init__(self, run: AsyncRun) -> None:
        self._calls = run

    def __enter__(self) -> Self:
        run_blocking(self._calls.__aenter__())
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        run_blocking(self._calls._close(error))

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self._calls.run_id

    @property
    def round(self) -> int:
        """Number of the open round."""
        return self._calls.round

    @property
    def epoch(self) -> int:
        """Number of the next epoch."""
        return self._calls.epoch

    @property
    def attempt(self) -> int | None:
        """Number of this writer, which its requests carry; None before the run is open."""
        return self._calls.attempt

    put_epoch = make_blocking(AsyncRun.put_epoch)
    log_predictions = make_blocking(AsyncRun.log_predictions)
    put_metrics = make_blocking(AsyncRun.put_metrics)
    put_planted = make_blocking(AsyncRun.put_planted)
    put_members = make_blocking(AsyncRun.put_members)
    finish = make_blocking(AsyncRun.finish)
    selection = make_blocking(AsyncRun.selection)
    selected = make_blocking(AsyncRun.selected)
