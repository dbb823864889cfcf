"""One sample: what was seen of it, what follows from that, and in words why it was kept or dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core import bitmap
from mild_core.errors import SampleIndexError
from mild_core.forgetting import early
from mild_core.results import Selection
from mild_core.scores import EPSILON
from mild_core.types import RoundBits


@dataclass(frozen=True, slots=True)
class History:
    """A sample in one round.

    Attributes
    ----------
    bits
        A character per epoch: ``1`` memorised, ``0`` misclassified, ``.`` not observed.
    member
        Whether the model was trained on it.
    planted
        Whether its label was broken on purpose: the bits are about that label, and the round does not count.
    """

    bits: str
    member: bool
    planted: bool

    @property
    def observed(self) -> int:
        """Epochs in which the sample was seen."""
        return len(self.bits) - self.bits.count(".")

    @property
    def misclassified(self) -> int:
        """Epochs in which it was seen and misclassified."""
        return self.bits.count("0")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one sample.

    Attributes
    ----------
    index
        The sample.
    rounds
        Its history, oldest first, whether or not a round counts.
    epochs, observed, misclassified
        Epochs of the rounds that count, those in which it was seen, and those in which it was misclassified.
    score, noisy_posterior
        Its metric, and the probability that it is mislabelled; None where there is none.
    kept
        Whether it is in the set.
    why
        The same in words.
    """

    index: int
    rounds: tuple[History, ...]
    epochs: int
    observed: int
    misclassified: int
    score: float | None
    noisy_posterior: float | None
    kept: bool
    why: str


def explain(rounds: Sequence[RoundBits], selection: Selection, index: int) -> Explanation:
    """Explain what a selection has made of one sample.

    Parameters
    ----------
    rounds
        All rounds of the run up to the one that was selected from, oldest first.
    selection
        What was selected from them.
    index
        The sample.

    Raises
    ------
    SampleIndexError
        If `index` lies outside ``0..n_samples-1``.
    """
    if not 0 <= index < selection.n_samples:
        raise sample_index_error(index, selection.n_samples)
    histories = tuple(_history(bits, index) for bits in rounds)
    judged = [_history(bits, index) for bits in early(rounds)] if selection.early else histories
    used = judged if selection.options.evidence == "pooled" else judged[-1:]
    counting = [history for history in used if not history.planted]
    epochs = sum(len(history.bits) for history in counting)
    observed = sum(history.observed for history in counting)
    misclassified = sum(history.misclassified for history in counting)
    kept = bool(bitmap.unpack(selection.bitmap, selection.n_samples)[index])
    seen = f"misclassified in {misclassified} of {observed} epochs"
    return Explanation(
        index=index,
        rounds=histories,
        epochs=epochs,
        observed=observed,
        misclassified=misclassified,
        score=_number(selection.scores[index]),
        noisy_posterior=_number(selection.noisy_posterior[index]),
        kept=kept,
        why=_judged(selection, index, kept, seen) if selection.scored[index] else _unseen(counting, kept),
    )


def sample_index_error(index: int, n_samples: int) -> SampleIndexError:
    """The error for a sample that there is not."""
    return SampleIndexError(
        f"sample index {index} is outside 0..{n_samples - 1}; "
        "ask for an index into the data set that the run was opened with"
    )


def _history(bits: RoundBits, index: int) -> History:
    """One sample's column of a round."""
    correct = bitmap.of_sample(bits.correct, index).tolist()
    observed = [True] * len(correct) if bits.observed is None else bitmap.of_sample(bits.observed, index).tolist()
    return History(
        bits="".join("1" if c else "0" if o else "." for c, o in zip(correct, observed, strict=True)),
        member=bits.members is None or bool(bitmap.of_sample(bits.members, index)),
        planted=bits.planted is not None and bool(bitmap.of_sample(bits.planted, index)),
    )


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)


def _unseen(counting: Sequence[History], kept: bool) -> str:
    """Why a sample that was hardly seen, or never with its own label, is not judged."""
    if not counting:
        return f"its label was broken on purpose, and its own one is judged from the next round on; {_verb(kept)}"
    observed, epochs = (sum(values) for values in zip(*((h.observed, len(h.bits)) for h in counting), strict=True))
    return f"seen in {observed} of {epochs} epochs, too few to be judged; {_verb(kept)}"


def _judged(selection: Selection, index: int, kept: bool, seen: str) -> str:
    """Why a sample with a score is on its side of the cut."""
    score, threshold = float(selection.scores[index]), selection.threshold.value
    if threshold is None:
        below = True
        place = f"score {score:g}, and no cut was made as the verdict is {selection.verdict}"
    else:
        below = score <= threshold + EPSILON
        place = f"score {score:g} {'up to' if below else 'above'} the cut at {threshold:g}"
    posterior = selection.noisy_posterior[index]
    likely = "" if np.isnan(posterior) else f"; {posterior:.2f} likely mislabelled"
    against = "" if below == kept else ", against this cut: the set was made otherwise"
    return f"{seen}, {place}{likely}; {_verb(kept)}{against}"


def _verb(kept: bool) -> str:
    return "kept" if kept else "dropped"
