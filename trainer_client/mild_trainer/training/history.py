"""What a training leaves behind: records of its epochs and rounds.

What only someone who knows the true labels can say about a clean set.
"""

import base64
import dataclasses
import math
from collections.abc import Mapping
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
from mild_trainer.training.compute_cost import Passes
from mild_trainer.training.finetune import Finished


@dataclass(frozen=True, slots=True)
class Agreement:
    """A selected set against the samples whose given label is true.

    Attributes
    ----------
    precision
        Share of the selected samples that are clean; 0 for an empty set.
    recall
        Share of the clean samples that are selected; 0 where none is clean.
    f1
        Their harmonic mean.
    """

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, selected: NDArray[np.bool_], clean: NDArray[np.bool_]) -> "Agreement":
        """Compare two masks of shape (n_samples,)."""
        hits, n_selected, n_clean = (int(np.count_nonzero(m)) for m in (selected & clean, selected, clean))
        return cls(
            precision=hits / max(1, n_selected),
            recall=hits / max(1, n_clean),
            f1=2 * hits / max(1, n_selected + n_clean),
        )


def jaccard(a: Bitmap, b: Bitmap) -> float:
    """Size of the intersection over that of the union; 1 for two empty sets."""
    union = bitmap.popcount(a | b)
    return bitmap.popcount(a & b) / union if union else 1.0


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch's scalars: means over the members in training, and over the test set; seconds; samples passed.

    `validation_accuracy` is over the samples that are held out; None where nobody is.
    """

    round: int
    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float
    forward: int = 0
    backward: int = 0
    validation_accuracy: float | None = None

    def with_planting(self, seconds: float, passes: Passes) -> Self:
        """The same with what it took to choose the planted labels before it."""
        return dataclasses.replace(
            self,
            seconds=self.seconds + seconds,
            forward=self.forward + passes.forward,
            backward=self.backward + passes.backward,
        )

    def metrics(self) -> dict[str, float]:
        """The scalars that a backend takes, by their names on the wire; infinities and NaN are left out."""
        scalars = {
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "test_accuracy": self.test_accuracy,
            "validation_accuracy": self.validation_accuracy,
        }
        return {name: value for name, value in scalars.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True, eq=False)
class RoundRecord:
    """One round.

    Attributes
    ----------
    round
        Its number.
    members
        Shape (n_bytes,), whom the model was trained on.
    selected
        Shape (n_bytes,), the clean set that the round ended with.
    epochs
        Its epochs' scalars.
    summary
        The selection in the wire's names.
    fit
        The histogram and its components; None where nothing was fitted.
    agreement
        The clean set against the truth; None where that is unknown.
    overlap
        Jaccard similarity of the clean set with the one before; in round 0 with everyone.
    bits
        One entry an epoch, where they were asked for.
    """

    round: int
    members: Bitmap
    selected: Bitmap
    epochs: tuple[EpochRecord, ...]
    summary: Mapping[str, Any]
    fit: RoundFit | None
    agreement: Agreement | None
    overlap: float
    bits: tuple[EpochBits, ...] = ()

    @property
    def n_members(self) -> int:
        """Samples that the model was trained on."""
        return bitmap.popcount(self.members)

    @property
    def n_selected(self) -> int:
        """Samples in the clean set."""
        return bitmap.popcount(self.selected)

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test set after the last epoch."""
        return self.epochs[-1].test_accuracy

    @property
    def validation_accuracy(self) -> float | None:
        """Accuracy on the given labels of those held out after the last epoch; None where nobody is."""
        return self.epochs[-1].validation_accuracy

    @property
    def estimated_noise(self) -> float | None:
        """The selection's estimate of the share of wrong labels in the whole training set; None where it has none."""
        estimate = self.summary["estimated"].get("noise_rate")
        return None if estimate is None else float(estimate["value"])

    def to_json(self) -> dict[str, Any]:
        """Everything but `bits`, as JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "bits"}
        for name in ("members", "selected"):
            values[name] = base64.b64encode(values[name].tobytes()).decode()
        values["epochs"] = [dataclasses.asdict(epoch) for epoch in self.epochs]
        for name in ("fit", "agreement"):
            values[name] = None if values[name] is None else dataclasses.asdict(values[name])
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo `to_json`."""
        fit, agreement = values["fit"], values["agreement"]
        return cls(
            round=values["round"],
            members=_decoded(values["members"]),
            selected=_decoded(values["selected"]),
            epochs=tuple(EpochRecord(**epoch) for epoch in values["epochs"]),
            summary=values["summary"],
            fit=None
            if fit is None
            else RoundFit(
                fit["origin"], fit["width"], tuple(fit["counts"]), tuple(tuple(density) for density in fit["densities"])
            ),
            agreement=None if agreement is None else Agreement(**agreement),
            overlap=values["overlap"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A whole training.

    Attributes
    ----------
    settings, data
        What was asked for; the data set with the labels as trained on.
    rounds
        One record a round; none where the labels were found to carry no signal.
    oracle
        Test accuracy of the same network trained on the truly clean samples alone; None where it was not trained.
    ended
        Why there was no further round.
    verified
        The held-out agreement; None where it was not asked for.
    planted
        Shape (n_bytes,), whose label was broken on purpose in round 0; None: nobody's.
    finished
        What training on from the last set came to; None where it was not asked for.
    held_out
        Shape (n_bytes,), who was held out of all training; None: nobody.
    """

    settings: TrainSettings
    data: Dataset
    rounds: tuple[RoundRecord, ...]
    oracle: float | None
    ended: str
    verified: HeldOutAgreement | None = None
    planted: Bitmap | None = None
    finished: Finished | None = None
    held_out: Bitmap | None = None

    @property
    def passes(self) -> Passes:
        """What the rounds and the finish cost, planting and observing included, comparisons and checks left out."""
        epochs = (Passes(epoch.forward, epoch.backward) for record in self.rounds for epoch in record.epochs)
        return sum(epochs, Passes() if self.finished is None else self.finished.passes)

    @property
    def n_planted(self) -> int:
        """Samples whose label was broken on purpose in round 0."""
        return 0 if self.planted is None else bitmap.popcount(self.planted)

    @property
    def n_returned(self) -> int:
        """Planted samples in the last clean set, by their own labels."""
        if self.planted is None or not self.rounds:
            return 0
        return bitmap.popcount(self.planted & self.rounds[-1].selected)

    @property
    def n_held_out(self) -> int:
        """Samples that were held out of all training."""
        return 0 if self.held_out is None else bitmap.popcount(self.held_out)

    @property
    def best_round(self) -> int | None:
        """The round with the best validation accuracy, of equals the first; None where nobody was held out."""
        known = {record.round: record.validation_accuracy for record in self.rounds}
        return max(known, key=lambda number: known[number] or 0.0) if self.n_held_out and known else None

    @property
    def validation_error(self) -> float | None:
        """Standard error of the best validation accuracy; None without one."""
        if self.best_round is None:
            return None
        accuracy = self.rounds[self.best_round].validation_accuracy or 0.0
        return math.sqrt(accuracy * (1 - accuracy) / self.n_held_out)

    @property
    def true_noise(self) -> float | None:
        """Share of wrong labels in the training set, without those held out; None where unknown."""
        clean = self.data.clean
        if clean is not None and self.held_out is not None:
            clean = clean[~bitmap.unpack(self.held_out, len(clean))]
        return None if clean is None else float(1 - clean.mean())

    @property
    def baseline(self) -> float | None:
        """Test accuracy of round 0, which trains on all labels, planted ones included; None without it."""
        return self.rounds[0].test_accuracy if self.rounds else None


def _decoded(text: str) -> Bitmap:
    return np.frombuffer(base64.b64decode(text), dtype=np.uint8)
