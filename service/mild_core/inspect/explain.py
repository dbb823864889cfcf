"""Explanation of one sample: its history, its score, and why it was kept or dropped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.errors import SampleIndexError
from mild_core.fields import describe_field
from mild_core.forgetting import shorten_round
from mild_core.results import Selection, to_optional_float
from mild_core.sample_scores import SampleScore
from mild_core.scores import EPSILON
from mild_core.types import Evidence, RoundBits, Verdict


@dataclass(frozen=True, slots=True)
class SampleHistory:
    """History of a sample in one round. A round in which its label was changed on purpose does not count."""

    round: int = describe_field("Number of the round.")
    member: bool = describe_field("Whether the model was trained on it.")
    planted: bool = describe_field(
        "Whether its label was made wrong on purpose; the history is then about the wrong label."
    )
    history: str = describe_field("One character per epoch: `1` memorised, `0` misclassified, `.` not observed.")

    @property
    def observed(self) -> int:
        """Number of epochs in which the sample was observed."""
        return len(self.history) - self.history.count(".")

    def take(self, epochs: Iterable[int]) -> "SampleHistory":
        """Return the history of some epochs, by their positions."""
        return replace(self, history="".join(self.history[epoch] for epoch in epochs))

    @property
    def misclassified(self) -> int:
        """Number of epochs in which the sample was observed and misclassified."""
        return self.history.count("0")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a selection keeps or drops one sample."""

    index: int = describe_field("The sample.")
    rounds: tuple[SampleHistory, ...] = describe_field("All rounds, oldest first.")
    epochs: int = describe_field("Epochs of the rounds that count.")
    observed: int = describe_field("Those among them in which it was observed.")
    misclassified: int = describe_field("Those among them in which it was misclassified.")
    score: float | None = describe_field("Its metric; null if it was never observed.")
    noisy_posterior: float | None = describe_field(
        "Probability of being mislabelled, by the fit; null unless the verdict is `separable`."
    )
    kept: bool = describe_field("Whether the selection keeps it.")
    why: str = describe_field("The explanation in one sentence.")


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
    """
    if not 0 <= index < selection.n_samples:
        raise make_sample_index_error(index, selection.n_samples)
    histories = read_histories(rounds, index)
    recorded = [None if bits.observed is None else np.flatnonzero(bits.observed.any(axis=1)) for bits in rounds]
    score = SampleScore(
        float(selection.scores[index]), float(selection.identified_posterior[index]), bool(selection.scored[index])
    )
    sample = JudgedSample(
        index,
        score,
        bool(bitmap.get_sample_bits(selection.bitmap, index)),
        selection.options.evidence,
        selection.early,
        selection.threshold.value,
        selection.verdict,
    )
    return explain_histories(histories, recorded, sample)


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """One sample, and what its explanation needs of the selection.

    Attributes
    ----------
    index, score, is_kept
        Index and score of the sample, and whether the selection keeps it; the posterior is NaN unless the fit
        identifies it.
    evidence, early, threshold, verdict
        As in `Selection` and its options; the threshold is the largest metric that is kept, None if no cut was made.
    """

    index: int
    score: SampleScore
    is_kept: bool
    evidence: Evidence
    early: int
    threshold: float | None
    verdict: Verdict


def explain_histories(
    histories: Sequence[SampleHistory], recorded: Sequence[NDArray[np.integer] | None], sample: JudgedSample
) -> Explanation:
    """Explain why a selection keeps or drops one sample, as `explain_sample`, from what is known of this sample alone.

    Parameters
    ----------
    histories
        Its history in every round, oldest first.
    recorded
        Positions of the epochs of every round in which some samples were observed, ascending; None for all epochs.
    sample
        The sample.
    """
    scored = [
        history if positions is None else history.take(positions)
        for history, positions in zip(histories, recorded, strict=True)
    ]
    if sample.evidence == "latest":
        scored = scored[-1:]
    for _ in range(sample.early):
        scored = [history.take(range(shorten_round(len(history.history)))) for history in scored]
    counted = [history for history in scored if not history.planted]
    epochs = sum(len(history.history) for history in counted)
    observed = sum(history.observed for history in counted)
    misclassified = sum(history.misclassified for history in counted)
    decision = "kept" if sample.is_kept else "dropped"
    if sample.score.is_scored:
        why = f"misclassified in {misclassified} of {observed} epochs, {_explain_score(sample, decision)}"
    elif counted:
        why = f"seen in {observed} of {epochs} epochs, too few to be judged; {decision}"
    else:
        why = f"its label was broken on purpose, and its own one is judged from the next round on; {decision}"
    return Explanation(
        index=sample.index,
        rounds=tuple(histories),
        epochs=epochs,
        observed=observed,
        misclassified=misclassified,
        score=to_optional_float(sample.score.value),
        noisy_posterior=to_optional_float(sample.score.noisy_posterior),
        kept=sample.is_kept,
        why=why,
    )


def make_sample_index_error(index: int, n_samples: int) -> SampleIndexError:
    """Create the error for a sample index outside ``0..n_samples-1``."""
    return SampleIndexError(
        f"sample index {index} is outside 0..{n_samples - 1}; "
        "ask for an index into the data set that the run was opened with"
    )


def read_histories(rounds: Sequence[RoundBits], index: int) -> list[SampleHistory]:
    """Read the history of the sample `index` in every round."""
    return [_read_history(number, bits, index) for number, bits in enumerate(rounds)]


def _read_history(number: int, bits: RoundBits, index: int) -> SampleHistory:
    """Read the history of the sample `index` in one round."""
    correct = bitmap.get_sample_bits(bits.correct, index)
    observed = np.ones_like(correct) if bits.observed is None else bitmap.get_sample_bits(bits.observed, index)
    return SampleHistory(
        round=number,
        member=bits.members is None or bool(bitmap.get_sample_bits(bits.members, index)),
        planted=bits.planted is not None and bool(bitmap.get_sample_bits(bits.planted, index)),
        history="".join(np.where(correct, "1", np.where(observed, "0", ".")).tolist()),
    )


def _explain_score(sample: JudgedSample, decision: str) -> str:
    """Explain on which side of the cut the score of a sample lies, and the decision."""
    score, posterior = sample.score.value, sample.score.noisy_posterior
    if sample.threshold is None:
        is_below = True
        score_text = f"score {score:g}, and no cut was made as the verdict is {sample.verdict}"
    else:
        is_below = score <= sample.threshold + EPSILON
        score_text = f"score {score:g} {'up to' if is_below else 'above'} the cut at {sample.threshold:g}"
    posterior_text = "" if np.isnan(posterior) else f"; {posterior:.2f} likely mislabelled"
    exception_text = "" if is_below == sample.is_kept else ", against this cut: the set was made otherwise"
    return f"{score_text}{posterior_text}; {decision}{exception_text}"
