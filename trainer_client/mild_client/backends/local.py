"""Selection in the training process: the backend's protocol with `mild_core` behind it and no server."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_client.backend import Position, RoundFit, RoundResult, RunSpec, RunState, sample_weights
from mild_client.errors import LocalStateError, ResumeError
from mild_core import bitmap, selection
from mild_core.audit import Annotations
from mild_core.bitmap import Bitmap
from mild_core.errors import CorrectNotObservedError, ParameterError
from mild_core.results import Selection
from mild_core.types import EpochBits, RoundBits, SelectionOptions

_LABELS = "round-0/labels.npy"
_PLANTED = "round-0/planted.bits"

Select: TypeAlias = Callable[[Sequence[RoundBits], SelectionOptions, Annotations | None], Selection]


@dataclass
class _Round:
    members: Bitmap | None = None
    planted: Bitmap | None = None
    epochs: dict[int, EpochBits] = field(default_factory=dict)
    result: RoundResult | None = None
    posterior: NDArray[np.float32] | None = None


class LocalSelector:
    """Keeps a run's bits in memory and selects in the process.

    Parameters
    ----------
    folder
        Where the bodies are also written, one file each in the wire format (``round-0/epoch-3.bits``,
        ``round-0/planted.bits``, ``round-1/members.bits``), so that an interrupted training can go on. None keeps them
        in memory only.
    select
        The function that turns rounds of bits into a clean set.
    """

    def __init__(self, folder: Path | None = None, select: Select = selection.select) -> None:
        self._folder = folder
        self._select = select
        self._spec = RunSpec(run_id="local", n_samples=0)
        self._rounds: list[_Round] = []
        self._beside: Annotations | None = None

    def open(self, spec: RunSpec, resume_from: Position | None = None) -> RunState:
        """Start empty, or with the epochs before `resume_from`.

        Raises
        ------
        ResumeError
            If epochs before `resume_from` are missing from the folder.
        """
        self._spec = spec
        if resume_from is None:
            self._beside = None
            self._clear()
            self._rounds = [_Round()]
        else:
            self._rounds = self._read(resume_from)
        return RunState(round=len(self._rounds) - 1, attempt=1)

    def put_labels(self, labels: NDArray[np.integer]) -> None:
        """Say the given labels, shape (n_samples,), which fits and floors per class go by.

        Raises
        ------
        ParameterError
            If there is not one label per sample.
        """
        if labels.shape != (self._spec.n_samples,):
            raise ParameterError(
                f"labels have the shape {labels.shape} for {self._spec.n_samples} samples; give one per sample"
            )
        self._beside = Annotations(labels)
        if self._folder is not None:
            body = io.BytesIO()
            np.save(body, labels, allow_pickle=False)
            self._write(_LABELS, body.getvalue())

    @property
    def labels(self) -> NDArray[np.integer] | None:
        """The given labels, shape (n_samples,), as far as they were said."""
        return None if self._beside is None else self._beside.labels

    def put_planted(self, planted: Bitmap) -> None:
        """Say who is mislabelled on purpose in round 0; the same ones again change nothing at any time.

        Raises
        ------
        LocalStateError
            If round 0 is finished or has epochs.
        """
        held = self._rounds[0].planted
        if held is not None and np.array_equal(held, planted):
            return
        first = self._open_round(0)
        if first.epochs:
            raise LocalStateError(
                f"round 0 has {len(first.epochs)} epochs already, so its planted samples are fixed; "
                "give them before its first epoch"
            )
        first.planted = bitmap.check(planted, self._spec.n_samples, "planted bitmap")
        self._write(_PLANTED, planted.tobytes())

    def look(self, spec: RunSpec, n_rounds: int) -> tuple[RoundBits, ...]:
        """Evidence of the first `n_rounds` rounds in the folder, which stays as it is.

        Raises
        ------
        ResumeError
            If epochs of these rounds are missing from the folder.
        """
        self._spec = spec
        self._rounds = self._read(Position(n_rounds, 0), prune=False)
        return self.evidence()

    def put_members(self, round: int, members: Bitmap) -> None:
        """Say whom the model is trained on in `round`; it must be the open one."""
        self._open_round(round).members = bitmap.check(members, self._spec.n_samples, "members bitmap")
        self._write(f"round-{round}/members.bits", members.tobytes())

    def put_epoch(self, round: int, epoch: int, bits: EpochBits) -> None:
        """Keep one epoch's bits; the round must be the open one.

        Raises
        ------
        CorrectNotObservedError
            If the run observes members only, and one bitmap says that somebody else is correct.
        """
        current = self._open_round(round)
        if self._spec.observe == "members" and bits.observed is None and current.members is not None:
            stray = bitmap.popcount(bits.correct & ~current.members)
            if stray:
                raise CorrectNotObservedError(
                    f"{stray} samples are correct but no members of round {round}, and the run observes members only; "
                    "clear the others' bits, or give an observed bitmap"
                )
        current.epochs[epoch] = bits
        self._write(f"round-{round}/epoch-{epoch}.bits", bits.to_body())

    def put_metrics(self, round: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing: there is nobody here to plot an epoch's scalars."""

    def finish(self, round: int) -> RoundResult:
        """Select over all rounds up to this one, and open the next.

        Raises
        ------
        LocalStateError
            If the round is not open, has no epoch, or has a gap in its epochs.
        """
        if 0 <= round < len(self._rounds) and (stored := self._rounds[round].result) is not None:
            return stored
        current = self._open_round(round)
        if not current.epochs:
            raise LocalStateError(f"round {round} has 0 epochs, at least 1 is needed; put one before finishing it")
        selected = self._select(self.evidence(), self._spec.options, self._beside)
        current.result, current.posterior = _result(round, selected), selected.noisy_posterior
        self._begin_next(current.result)
        return current.result

    def adopt(self, result: RoundResult) -> None:
        """Finish the open round with the set that somebody else has made of the same bits, and open the next."""
        current = self._open_round(result.round)
        current.result = result
        self._begin_next(result)

    def weights(self, result: RoundResult) -> NDArray[np.float32]:
        """How likely each sample's label is right after a finished round, shape (n_samples,); 0: not judged.

        Raises
        ------
        LocalStateError
            If the round is not finished here, or was by `adopt` and is not the last one.
        """
        kept = self._rounds[result.round] if result.round < len(self._rounds) else _Round()
        if kept.posterior is None and kept.result is not None and result.round == len(self._rounds) - 2:
            kept.posterior = self._select(self.evidence(), self._spec.options, self._beside).noisy_posterior
        if kept.posterior is None:
            raise LocalStateError(f"round {result.round} was not finished here; finish it before asking for weights")
        return sample_weights(kept.posterior, result.selected, result.summary["verdict"])

    def evidence(self) -> tuple[RoundBits, ...]:
        """Every round that has epochs, oldest first, as the selection takes them.

        Raises
        ------
        LocalStateError
            If the open round has a gap in its epochs, or no round has any.
        """
        rounds = [r for r in self._rounds if r.epochs] or self._rounds
        return tuple(self._round_bits(number, r) for number, r in enumerate(rounds))

    def _begin_next(self, result: RoundResult) -> None:
        self._write(f"round-{result.round + 1}/members.bits", result.selected.tobytes())
        self._rounds.append(_Round(members=result.selected))

    def _round_bits(self, number: int, kept: _Round) -> RoundBits:
        n_epochs = len(kept.epochs)
        missing = sorted(set(range(max(kept.epochs, default=0) + 1)) - set(kept.epochs))
        if missing:
            raise LocalStateError(
                f"round {number} has {n_epochs} epochs and lacks epoch {missing[0]}; "
                "put every epoch from 0 on before selecting"
            )
        epochs = [kept.epochs[e] for e in range(n_epochs)]
        correct, observed = np.stack([e.correct for e in epochs]), [e.observed for e in epochs]
        return RoundBits.of(self._spec.n_samples, correct, observed, kept.members, self._spec.observe, kept.planted)

    def _open_round(self, round: int) -> _Round:
        if round != len(self._rounds) - 1:
            raise LocalStateError(
                f"round {round} is not open, round {len(self._rounds) - 1} is; finished rounds never change"
            )
        return self._rounds[round]

    def _clear(self) -> None:
        """Remove the bodies of a run before this one, which a later resumption would mistake for its own."""
        if self._folder is not None:
            for path in (*self._folder.glob("round-*/*.bits"), self._folder / _LABELS):
                path.unlink(missing_ok=True)

    def _write(self, name: str, body: bytes) -> None:
        if self._folder is None:
            return
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(body)
        part.replace(path)

    def _read(self, until: Position, prune: bool = True) -> list[_Round]:
        """Rounds as they stood when epoch `until` was about to be written; what was written since is pruned."""
        if self._folder is None:
            raise ResumeError("cannot resume: this selector was given no folder to keep bits in; pass one")
        n_samples = self._spec.n_samples
        rounds = []
        for number in range(until.round + 1):
            folder = self._folder / f"round-{number}"
            members = folder / "members.bits"
            kept = _Round(members=bitmap.check(members.read_bytes(), n_samples) if members.exists() else None)
            for path in folder.glob("epoch-*.bits"):
                epoch = int(path.stem.removeprefix("epoch-"))
                if number < until.round or epoch < until.epoch:
                    kept.epochs[epoch] = EpochBits.from_body(path.read_bytes(), n_samples)
                elif prune:
                    path.unlink()
            rounds.append(kept)
        labels = self._folder / _LABELS
        self._beside = Annotations(np.load(labels, allow_pickle=False)) if labels.exists() else None
        planted = self._folder / _PLANTED
        if planted.exists():
            rounds[0].planted = bitmap.check(planted.read_bytes(), n_samples)
        if len(rounds[-1].epochs) != until.epoch or not all(r.epochs for r in rounds[:-1]):
            raise ResumeError(
                f"cannot resume at round {until.round}, epoch {until.epoch}: {self._folder} holds "
                f"{[len(r.epochs) for r in rounds]} epochs of rounds 0..{until.round}; start anew"
            )
        return rounds


def _result(round: int, selected: Selection) -> RoundResult:
    return RoundResult(round, selected.n_samples, selected.bitmap, selected.summary(), RoundFit.of(selected))
