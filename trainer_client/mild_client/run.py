"""The handles of one run, blocking and asynchronous: the same calls (`run_calls`), run by two drivers.

One run as its writer sees it: where it stands, and the calls that move it on.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeAlias, get_args

import anyio
import numpy as np
from numpy.typing import NDArray

from mild_client.api import Calls
from mild_client.backend import Position, RunSpec
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
from mild_client.executors import AsyncDriver, Awaiting, Blocking, Driver, awaiting, blocking
from mild_client.requests import Answer, Flow
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, Observe, Pass, SelectionOptions

logger = logging.getLogger(__name__)

Resume: TypeAlias = Literal["allow", "must", "never"]


class RunCalls:
    """The flows behind `Run` and `AsyncRun`.

    Attributes
    ----------
    spec
        What the run is opened with.
    round, epoch
        Where the next epoch goes.
    attempt
        What this writer's requests are sent as; None before the run is open.
    """

    def __init__(self, calls: Calls, spec: RunSpec, resume: Resume) -> None:
        self.spec = spec
        self.round = self.epoch = 0
        self.attempt: int | None = None
        self._calls = calls
        self._resume = resume
        self._is_finished = False

    def open(self) -> Flow[None]:
        """Open the run, or go on behind its last epoch, as `resume` says.

        Raises
        ------
        RunExists
            If the run has epochs or finished rounds, and is not to be resumed.
        RunMissing
            If there is no run, and one must be resumed.
        Conflict
            If the run was opened with other properties (``run-conflict``).
        """
        yield from self._calls.limits()  # the first contact: says, too, whether this client is too old
        found = yield from self._find()
        position = None if found is None else _next(found)
        if position is not None and self._resume == "never":
            raise RunExists(
                f"run {self.spec.run_id!r} exists already and is at round {position.round}, epoch {position.epoch}"
            )
        state = yield from self._calls.open_run(self.spec, position)
        self.attempt = state["attempt"]
        self.round, self.epoch = state["round"], position.epoch if position else 0
        if state["status"] != "running":
            yield from self._calls.patch_run(self.spec.run_id, status="running")

    def put_epoch(
        self,
        correct: EpochBits | NDArray[np.bool_],
        observed: NDArray[np.bool_] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Flow[None]:
        """Commit the next epoch.

        Parameters
        ----------
        correct
            Shape (n_samples,), booleans: whether the model predicted each sample's given label. Or packed bits, such
            as `CorrectnessTracker.end_epoch` returns.
        observed
            Shape (n_samples,), booleans: who was seen; None: everyone whom the run observes.
        metrics
            Scalars of the epoch, such as ``train_loss``.

        Raises
        ------
        ParameterError
            If an array does not hold a boolean for each sample.
        StaleAttempt
            If somebody else has resumed the run meanwhile.
        """
        bits = correct if isinstance(correct, EpochBits) else self._packed(correct, observed)
        run_id, attempt = self.spec.run_id, self._open_attempt()
        yield from self._calls.put_epoch(run_id, self.round, self.epoch, bits, attempt)
        if metrics:
            yield from self._calls.put_metrics(run_id, self.round, self.epoch, metrics, attempt)
        self.epoch += 1
        self._is_finished = False

    def log_predictions(
        self,
        epoch: int,
        samples: NDArray[np.integer] | NDArray[np.str_],
        predicted: NDArray[np.integer],
        labels: NDArray[np.integer],
        complete: bool = False,
    ) -> Flow[Answer]:
        """Merge predictions into an epoch of the open round, each array of shape (n_records,).

        `samples` are indices, or external ids.

        An epoch fills up over several calls, and is committed once everyone whom the run observes is in, or a call says
        `complete`. The same record again changes nothing.
        """
        answer = yield from self._calls.log_predictions(
            self.spec.run_id, epoch, samples, predicted, labels, self.round, complete, self._open_attempt()
        )
        self.epoch = max(self.epoch, epoch + 1)
        self._is_finished = False
        return answer

    def put_metrics(self, epoch: int, metrics: Mapping[str, float]) -> Flow[None]:
        """Attach scalars to an epoch of the open round."""
        yield from self._calls.put_metrics(self.spec.run_id, self.round, epoch, metrics, self._open_attempt())

    def put_planted(self, planted: Bitmap) -> Flow[None]:
        """Say who is mislabelled on purpose in round 0, before its first epoch; `planted` has shape (n_bytes,)."""
        yield from self._calls.put_planted(self.spec.run_id, planted, self._open_attempt())

    def put_members(self, members: Bitmap) -> Flow[None]:
        """Set whom the model is trained on, before the round's first epoch; `members` has shape (n_bytes,)."""
        yield from self._calls.put_members(self.spec.run_id, self.round, members, self._open_attempt())

    def finish(self, allow_gaps: bool = False) -> Flow[Answer]:
        """Freeze the open round, go on to the next one, and return the selection in the wire's names."""
        selection = yield from self._calls.finish(self.spec.run_id, self.round, self._open_attempt(), allow_gaps)
        self.round, self.epoch, self._is_finished = self.round + 1, 0, True
        return selection

    def selection(self, round: int | str = "latest") -> Flow[Answer]:
        """Return a round's selection with its indices; the open round's is provisional.

        `round` is a number, ``latest`` or ``best`` (by the audit, or else by ``validation_accuracy``).

        Raises
        ------
        Conflict
            If nothing tells which round is the best (``rounds-not-comparable``), or there is nothing to select from.
        """
        return (yield from self._calls.selection(self.spec.run_id, round))

    def selected(self, round: int | str = "latest") -> Flow[NDArray[np.bool_]]:
        """Return a round's clean set as a mask, shape (n_samples,); `round` is as for `selection`."""
        n_samples = self.spec.n_samples
        selected = yield from self._calls.selected(self.spec.run_id, n_samples, round)
        return bitmap.unpack(selected, n_samples)

    def close(self, error: BaseException | None = None) -> Flow[None]:
        """Say how the writing ended; nothing is finished that `finish` was not called for.

        The run's status becomes ``finished`` if its last epoch's round is, and ``failed`` if an `error` ended it: the
        run stays open, to be resumed. A run that somebody else has taken over, or that cannot be reached, is left.
        """
        if isinstance(error, (StaleAttempt, ServiceUnreachable, Unavailable)) or self.attempt is None:
            return
        status = "failed" if error is not None else "finished" if self._is_finished else None
        if status is None:
            return
        try:
            state = yield from self._calls.get_run(self.spec.run_id)
            if state["attempt"] == self.attempt:
                yield from self._calls.patch_run(self.spec.run_id, status=status)
        except ClientError as trouble:  # a label for listings: no reason to fail, nor to hide what has failed
            logger.warning("run %s could not be marked as %s: %s", self.spec.run_id, status, trouble)

    def _find(self) -> Flow[Answer | None]:
        try:
            return (yield from self._calls.get_run(self.spec.run_id))
        except NotFound as error:
            if error.code != "run-not-found":
                raise
        if self._resume == "must":
            raise RunMissing(
                f"there is no run {self.spec.run_id!r} to resume; check the name, or open it with resume='allow'"
            )
        return None

    def _open_attempt(self) -> int:
        if self.attempt is None:
            raise LocalStateError(f"run {self.spec.run_id!r} is not open; write to it in a `with` block")
        return self.attempt

    def _packed(self, correct: Any, observed: Any) -> EpochBits:
        for name, array in (("correct", correct), ("observed", observed)):
            if array is not None and (np.shape(array) != (self.spec.n_samples,) or array.dtype != bool):
                raise ParameterError(
                    f"{name} has shape {np.shape(array)} and type {np.asarray(array).dtype}; give booleans of shape "
                    f"({self.spec.n_samples},), one for each sample of the run, or EpochBits"
                )
        return EpochBits(self.spec.n_samples, bitmap.pack(correct), None if observed is None else bitmap.pack(observed))


def _next(state: Mapping[str, Any]) -> Position | None:
    """Behind the last epoch that has all before it; None where nothing was written yet."""
    round_ = state["rounds"][-1]
    if state["round"] == 0 and not round_["epochs"] and not round_["partial"]:
        return None
    epochs = set(round_["epochs"])
    return Position(state["round"], next(e for e in range(len(epochs) + 1) if e not in epochs))


def plan(
    calls: Calls,
    run_id: str,
    num_samples: int,
    num_classes: int | None = None,
    observe: Observe = "all",
    forward_pass: Pass = "eval",
    selection: SelectionOptions | None = None,
    expected_epochs: int | None = None,
    expected_rounds: int | None = None,
    tags: Mapping[str, str] | None = None,
    resume: Resume = "never",
) -> RunCalls:
    """A run for a ``with`` block, which opens it; it keeps count of round, epoch and attempt by itself.

    A block that ends with an exception leaves the run open, with status ``failed``; nothing is finished by accident.
    A run has one writer: processes that write for it use the client's own calls, with its `attempt`.

    Parameters
    ----------
    run_id
        The caller's name for it, ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``.
    num_samples
        Samples of the data set; a sample's index never changes over a run.
    num_classes
        Classes, where known.
    observe
        Who counts as observed in an epoch that carries one bitmap.
    forward_pass
        Which forward pass makes the bits of the members.
    selection
        How the clean set is chosen; None takes the defaults.
    expected_epochs, expected_rounds
        The plan, for progress displays.
    tags
        Free text, for listings.
    resume
        ``never``: a run that has epochs already is an error. ``allow``: it goes on behind its last whole epoch, and
        whoever wrote it before is refused from then on. ``must``: the same, and there being no such run is an error.

    Raises
    ------
    ParameterError
        If `resume` is none of these.
    """
    if resume not in get_args(Resume):
        raise ParameterError(f"resume is {resume!r}; choose one of {', '.join(get_args(Resume))}")
    spec = RunSpec(
        run_id=run_id,
        n_samples=num_samples,
        n_classes=num_classes,
        observe=observe,
        forward_pass=forward_pass,
        options=selection or SelectionOptions(),
        expected_epochs=expected_epochs,
        expected_rounds=expected_rounds,
        tags=tags or {},
    )
    return RunCalls(calls, spec, resume)


P = ParamSpec("P")

_CLOSING_SECONDS = 5.0
"""How long the end of a ``with`` block tries to say how it ended."""


class _Place:
    """Where a run stands."""

    _calls: RunCalls

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self._calls.spec.run_id

    @property
    def round(self) -> int:
        """The open round."""
        return self._calls.round

    @property
    def epoch(self) -> int:
        """The next epoch's number."""
        return self._calls.epoch

    @property
    def attempt(self) -> int | None:
        """What this writer's requests are sent as; None before the run is open."""
        return self._calls.attempt


class Run(_Place, Blocking[RunCalls]):
    """One run, open within a ``with`` block; made by `MildClient.run`."""

    def __init__(self, driver: Driver, calls: RunCalls) -> None:
        self._driver = driver
        self._calls = calls

    def __enter__(self) -> Self:
        self._driver.run(self._calls.open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.run(self._calls.close(error), _CLOSING_SECONDS)

    put_epoch = blocking(RunCalls.put_epoch)
    log_predictions = blocking(RunCalls.log_predictions)
    put_metrics = blocking(RunCalls.put_metrics)
    put_planted = blocking(RunCalls.put_planted)
    put_members = blocking(RunCalls.put_members)
    finish = blocking(RunCalls.finish)
    selection = blocking(RunCalls.selection)
    selected = blocking(RunCalls.selected)


class AsyncRun(_Place, Awaiting[RunCalls]):
    """One run, open within an ``async with`` block; made by `AsyncMildClient.run`."""

    def __init__(self, driver: AsyncDriver, calls: RunCalls) -> None:
        self._driver = driver
        self._calls = calls

    async def __aenter__(self) -> Self:
        await self._driver.run(self._calls.open())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(2 * _CLOSING_SECONDS, shield=True):  # a task that is cancelled says so, too
            await self._driver.run(self._calls.close(error), _CLOSING_SECONDS)

    put_epoch = awaiting(RunCalls.put_epoch)
    log_predictions = awaiting(RunCalls.log_predictions)
    put_metrics = awaiting(RunCalls.put_metrics)
    put_planted = awaiting(RunCalls.put_planted)
    put_members = awaiting(RunCalls.put_members)
    finish = awaiting(RunCalls.finish)
    selection = awaiting(RunCalls.selection)
    selected = awaiting(RunCalls.selected)


def blocking_run(plan: Callable[Concatenate[Calls, P], RunCalls]) -> Callable[Concatenate[Blocking[Calls], P], Run]:
    """A method that makes a `Run` of what `plan` makes, with its parameters and documentation."""

    @functools.wraps(plan)
    def method(self: Blocking[Calls], /, *args: P.args, **kwargs: P.kwargs) -> Run:
        return Run(self._driver, plan(self._calls, *args, **kwargs))

    return method


def awaiting_run(
    plan: Callable[Concatenate[Calls, P], RunCalls],
) -> Callable[Concatenate[Awaiting[Calls], P], AsyncRun]:
    """A method that makes an `AsyncRun` of what `plan` makes, with its parameters and documentation."""

    @functools.wraps(plan)
    def method(self: Awaiting[Calls], /, *args: P.args, **kwargs: P.kwargs) -> AsyncRun:
        return AsyncRun(self._driver, plan(self._calls, *args, **kwargs))

    return method
