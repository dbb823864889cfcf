"""Explanation of one sample: its history, its score, and why it was kept or dropped."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mild_core import bitmap
from mild_core.errors import SampleIndexError
from mild_core.forgetting import take_first_quarter
from mild_core.results import Selection
from mild_core.scores import EPSILON
from mild_core.types import RoundBits


@dataclass(frozen=True, slots=True)
class SampleHistory:
    """History of a sample in one round.

    Attributes
    ----------
    bits
        One character per epoch: ``1`` memorised, ``0`` misclassified, ``.`` not observed.
    member
        Whether the model was trained on the sample.
    planted
        Whether its label was broken on purpose: the bits describe that label, and the round does not count.
    """

    bits: str
    member: bool
    planted: bool

    @property
    def observed(self) -> int:
        """Number of epochs in which the sample was observed."""
        return len(self.bits) - self.bits.count(".")

    @property
    def misclassified(self) -> int:
        """Number of observed epochs in which it was misclassified."""
        return self.bits.count("0")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a selection keeps or drops one sample.

    Attributes
    ----------
    index
        Index of the sample.
    rounds
        Its history in every round, oldest first, whether or not the round counts.
    epochs, observed, misclassified
        Epochs of the rounds that count, epochs of these in which it was observed, and those in which it was
        misclassified.
    score, noisy_posterior
        Its metric, and the probability that it is mislabelled; None where there is none.
    kept
        Whether it is in the set.
    why
        The explanation in words.
    """

    index: int
    rounds: tuple[SampleHistory, ...]
    epochs: int
    observed: int
    misclassified: int
    score: float | None
    noisy_posterior: float | None
    kept: bool
    why: str


def explain_sample(rounds: Sequence[RoundBits], selection: Selection, index: int) -> Explanation:
    """Explain why a selection keeps or drops one sample.

    Parameters
    ----------
    rounds
        The rounds that the selection was computed from, oldest first.
    selection
        The selection.
    index
        Index of the sample.

    Raises
    ------
    SampleIndexError
        If `index` lies outside ``0..n_samples-1``.
    """
    if not 0 <= index < selection.n_samples:
        raise sample_index_error(index, selection.n_samples)
    histories = tuple(_read_history(bits, index) for bits in rounds)
    scored_rounds = take_first_quarter(rounds) if selection.early else rounds
    if selection.options.evidence == "latest":
        scored_rounds = scored_rounds[-1:]
    counted = [history for bits in scored_rounds if not (history := _read_history(bits, index)).planted]
    epochs = sum(len(history.bits) for history in counted)
    observed = sum(history.observed for history in counted)
    misclassified = sum(history.misclassified for history in counted)
    is_kept = bool(bitmap.get_sample_bits(selection.bitmap, index))
    if selection.scored[index]:
        why = _explain_score(selection, index, is_kept, f"misclassified in {misclassified} of {observed} epochs")
    else:
        why = _explain_missing_score(counted, is_kept)
    return Explanation(
        index=index,
        rounds=histories,
        epochs=epochs,
        observed=observed,
        misclassified=misclassified,
        score=_to_optional_float(selection.scores[index]),
        noisy_posterior=_to_optional_float(selection.noisy_posterior[index]),
        kept=is_kept,
        why=why,
    )


def sample_index_error(index: int, n_samples: int) -> SampleIndexError:
    """Error for an index outside ``0..n_samples-1``."""
    return SampleIndexError(
        f"sample index {index} is outside 0..{n_samples - 1}; "
        "ask for an index into the data set that the run was opened with"
    )


def _read_history(bits: RoundBits, index: int) -> SampleHistory:
    """Read the history of one sample off a round."""
    correct = bitmap.get_sample_bits(bits.correct, index)
    observed = np.ones_like(correct) if bits.observed is None else bitmap.get_sample_bits(bits.observed, index)
    return SampleHistory(
        bits="".join(np.where(correct, "1", np.where(observed, "0", ".")).tolist()),
        member=bits.members is None or bool(bitmap.get_sample_bits(bits.members, index)),
        planted=bits.planted is not None and bool(bitmap.get_sample_bits(bits.planted, index)),
    )


def _to_optional_float(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)


def _explain_missing_score(counted: Sequence[SampleHistory], is_kept: bool) -> str:
    """Explain why a sample that was rarely observed, or never with its own label, is not judged."""
    if not counted:
        return f"its label was broken on purpose, and its own one is judged from the next round on; {_verb(is_kept)}"
    observed = sum(history.observed for history in counted)
    epochs = sum(len(history.bits) for history in counted)
    return f"seen in {observed} of {epochs} epochs, too few to be judged; {_verb(is_kept)}"


def _explain_score(selection: Selection, index: int, is_kept: bool, counts_text: str) -> str:
    """Explain on which side of the cut the score of a sample lies."""
    score, threshold = float(selection.scores[index]), selection.threshold.value
    if threshold is None:
        is_below = True
        score_text = f"score {score:g}, and no cut was made as the verdict is {selection.verdict}"
    else:
        is_below = score <= threshold + EPSILON
        score_text = f"score {score:g} {'up to' if is_below else 'above'} the cut at {threshold:g}"
    posterior = selection.noisy_posterior[index]
    posterior_text = "" if np.isnan(posterior) else f"; {posterior:.2f} likely mislabelled"
    exception_text = "" if is_below == is_kept else ", against this cut: the set was made otherwise"
    return f"{counts_text}, {score_text}{posterior_text}; {_verb(is_kept)}{exception_text}"


def _verb(is_kept: bool) -> str:
    return "kept" if is_kept else "dropped"
