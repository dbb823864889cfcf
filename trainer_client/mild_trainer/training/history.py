"""The records of a training: epochs, rounds, and the metrics of a clean set against the true labels."""

import base64
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mild_client import RoundFit
from mild_core import bitmap
from mild_core.agreement import HeldOutAgreement
from mild_core.bitmap import Bitmap
from mild_core.types import EpochBits
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import ComputeCost
from mild_trainer.training.finetune import FinishResult


@dataclass(frozen=True, slots=True)
class SetMetrics:
    """Metrics of a clean set against the samples whose given labels are right.

    Attributes
    ----------
    precision
        Share of the selected samples that are clean; 0 for an empty set.
    recall
        Share of the clean samples that are selected; 0 where none is clean.
    f1
        Harmonic mean of precision and recall.
    """

    precision: float
    recall: float
    f1: float

    @classmethod
    def compare(cls, selected: NDArray[np.bool_], clean: NDArray[np.bool_]) -> "SetMetrics":
        """Compute the metrics from the masks of the selected and of the clean samples, shape (n_samples,) each."""
        hits, n_selected, n_clean = (int(np.count_nonzero(m)) for m in (selected & clean, selected, clean))
        return cls(
            precision=hits / max(1, n_selected),
            recall=hits / max(1, n_clean),
            f1=2 * hits / max(1, n_selected + n_clean),
        )


def find_set_round(selections: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the round whose set a training delivers, and trains on.

    A round whose verdict allows no cut keeps everyone, and does not replace the set of an earlier round that was cut.
    So it is the last round with a cut, or the last one if there is none.

    Parameters
    ----------
    selections
        The selection of each round as JSON values, as in the HTTP API; at least one.
    """
    cut = [number for number, selection in enumerate(selections) if selection["threshold"]["value"] is not None]
    return cut[-1] if cut else len(selections) - 1


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Metrics and costs of one epoch.

    Attributes
    ----------
    round, epoch
        Number of the round, and of the epoch in the round.
    train_loss, train_accuracy
        Means over the training samples.
    test_accuracy
        Accuracy on the test set; None without one.
    seconds
        Wall time.
    forward, backward
        Numbers of samples in forward and in backward passes.
    validation_accuracy
        Accuracy on the given labels of the held-out samples; None without held-out samples.
    """

    round: int
    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float
    forward: int = 0
    backward: int = 0
    validation_accuracy: float | None = None

    def to_metrics(self) -> dict[str, float]:
        """Return the finite metrics by their names in the HTTP API, for `SelectionBackend.put_metrics`."""
        scalars = {
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "test_accuracy": self.test_accuracy,
            "validation_accuracy": self.validation_accuracy,
        }
        return {name: value for name, value in scalars.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True, eq=False)
class RoundRecord:
    """Members, clean set and metrics of one finished round.

    Attributes
    ----------
    round
        Number of the round.
    members
        Shape (n_bytes,), the training samples.
    selected
        Shape (n_bytes,), the clean set selected at the end of the round.
    epochs
        Records of the round's epochs.
    summary
        The selection as JSON values, as in the HTTP API.
    fit
        Histogram of the scores and the fitted components; None where nothing was fitted.
    agreement
        Metrics of the clean set against the true labels; None where the true labels are unknown.
    overlap
        Jaccard similarity of the clean set and the previous one; in round 0, of the clean set and the members.
    bits
        Correctness bits of each epoch; empty if they were not kept.
    """

    round: int
    members: Bitmap
    selected: Bitmap
    epochs: tuple[EpochRecord, ...]
    summary: Mapping[str, Any]
    fit: RoundFit | None
    agreement: SetMetrics | None
    overlap: float
    bits: tuple[EpochBits, ...] = ()

    @property
    def n_members(self) -> int:
        """Number of training samples."""
        return bitmap.popcount(self.members)

    @property
    def n_selected(self) -> int:
        """Number of samples in the clean set."""
        return bitmap.popcount(self.selected)

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy on the test set after the last epoch; None without a test set."""
        return self.epochs[-1].test_accuracy

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on the given labels of the held-out samples after the last epoch; None without held-out samples."""
        return self.epochs[-1].validation_accuracy

    @property
    def fitted_noise(self) -> float | None:
        """Estimated share of wrong labels in the whole training set; None without an estimate."""
        estimate = self.summary["fitted"].get("noise_rate")
        return None if estimate is None else float(estimate["value"])

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, without `bits`."""
        values = dataclasses.asdict(dataclasses.replace(self, bits=()))
        del values["bits"]
        return values | {name: base64.b64encode(values[name]).decode() for name in ("members", "selected")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Create a record from the `values` that `to_json` returned."""
        fit, agreement = values["fit"], values["agreement"]
        objects = {
            "members": _decode_bitmap(values["members"]),
            "selected": _decode_bitmap(values["selected"]),
            "epochs": tuple(EpochRecord(**epoch) for epoch in values["epochs"]),
            "fit": fit and RoundFit(**fit),
            "agreement": agreement and SetMetrics(**agreement),
        }
        return cls(**{**values, **objects})


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """Records and results of a whole training.

    Attributes
    ----------
    settings, data
        Settings of the training, and its data set with the given labels.
    rounds
        One record for each round; empty where the labels carry no signal.
    oracle_accuracy
        Test accuracy of the same network trained on the samples with right labels; None if that was not trained.
    stop_reason
        Why there was no further round.
    held_out_agreement
        The agreement of the given labels with held-out predictions; None if it was not measured.
    planted
        Shape (n_bytes,), the samples whose labels were broken on purpose in round 0; None if no label was.
    finish_result
        Result of the training after the last round; None if there was none.
    held_out
        Shape (n_bytes,), the samples held out of all training; None if no sample was.
    run_id
        Id of the run at the backend.
    """

    settings: TrainSettings
    data: Dataset
    rounds: tuple[RoundRecord, ...]
    oracle_accuracy: float | None
    stop_reason: str
    held_out_agreement: HeldOutAgreement | None = None
    planted: Bitmap | None = None
    finish_result: FinishResult | None = None
    held_out: Bitmap | None = None
    run_id: str = "train"

    @property
    def compute_cost(self) -> ComputeCost:
        """Cost of the rounds and the finish, with planting and recording bits, but without comparisons and tests."""
        costs = (ComputeCost(epoch.forward, epoch.backward) for record in self.rounds for epoch in record.epochs)
        return sum(costs, ComputeCost() if self.finish_result is None else self.finish_result.passes)

    @property
    def set_round(self) -> RoundRecord:
        """The round whose clean set the training delivers (`find_set_round`)."""
        return self.rounds[find_set_round([record.summary for record in self.rounds])]

    @property
    def n_planted(self) -> int:
        """Number of samples whose labels were broken on purpose in round 0."""
        return 0 if self.planted is None else bitmap.popcount(self.planted)

    @property
    def n_returned(self) -> int:
        """Number of planted samples in the clean set, with their given labels."""
        if self.planted is None or not self.rounds:
            return 0
        return bitmap.popcount(self.planted & self.set_round.selected)

    @property
    def n_held_out(self) -> int:
        """Number of samples held out of all training."""
        return 0 if self.held_out is None else bitmap.popcount(self.held_out)

    @property
    def best_round(self) -> int | None:
        """Number of the first round with the highest validation accuracy; None without held-out samples."""
        accuracies = {record.round: record.validation_accuracy for record in self.rounds}
        return max(accuracies, key=lambda number: accuracies[number] or 0.0) if self.n_held_out and accuracies else None

    @property
    def validation_standard_error(self) -> float | None:
        """Standard error of the highest validation accuracy; None without held-out samples."""
        if self.best_round is None:
            return None
        accuracy = self.rounds[self.best_round].validation_accuracy or 0.0
        return math.sqrt(accuracy * (1 - accuracy) / self.n_held_out)

    @property
    def true_noise(self) -> float | None:
        """Share of wrong labels among the samples that are not held out; None if the true labels are unknown."""
        clean = self.data.clean
        if clean is not None and self.held_out is not None:
            clean = clean[~bitmap.unpack(self.held_out, len(clean))]
        return None if clean is None else float(1 - clean.mean())


def _decode_bitmap(text: str) -> Bitmap:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)
