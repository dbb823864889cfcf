from dataclasses import replace

import numpy as np
import pytest

from mild_core import bitmap
from mild_core.errors import SampleIndexError
from mild_core.inspect.explain import explain_sample
from mild_core.selection import select
from mild_core.types import Metric, RoundBits, SelectionOptions
from tests.core.test_selection import recorded


def with_known_samples(seen: float = 1.0) -> RoundBits:
    """A recording whose samples 0 and 1 are plain cases: memorised from epoch 2 on, and only in epochs 7 to 10."""
    bits, _ = recorded(seen=seen)
    correct = bitmap.unpack(bits.correct, 2000)
    correct[:, 0], correct[:, 1] = np.arange(30) >= 2, np.isin(np.arange(30), (7, 8, 9, 10))
    return replace(bits, correct=bitmap.pack(correct))


def test_a_kept_and_a_dropped_sample_say_why() -> None:
    bits = with_known_samples()
    selection = select([bits], SelectionOptions(threshold="value", value=-8))
    kept, dropped = (explain_sample([bits], selection, index) for index in (0, 1))
    assert kept.rounds[0].history == "00" + "1" * 28
    assert (kept.epochs, kept.observed, kept.misclassified, kept.score, kept.kept) == (30, 30, 2, -26.0, True)
    assert kept.why.startswith("misclassified in 2 of 30 epochs, score -26 up to the cut at -8; 0.0")
    assert kept.why.endswith(" likely mislabelled; kept")
    assert dropped.noisy_posterior == pytest.approx(float(selection.noisy_posterior[1]))
    assert dropped.why == (
        f"misclassified in 26 of 30 epochs, score 22 above the cut at -8; {dropped.noisy_posterior:.2f} "
        "likely mislabelled; dropped"
    )


def test_the_words_agree_with_the_set_for_every_sample() -> None:
    metrics: tuple[Metric, ...] = ("mild-simple", "mild")
    for metric in metrics:
        first, _ = recorded(n_samples=300, seen=0.8)
        second, _ = recorded(n_samples=300, n_epochs=7, seed=1)
        selection = select([first, second], SelectionOptions(metric=metric))
        for index in range(300):
            explanation = explain_sample([first, second], selection, index)
            assert "against" not in explanation.why
            assert explanation.why.endswith("kept" if explanation.kept else "dropped")


def test_gaps_and_members_show() -> None:
    observed = np.ones((30, 2000), dtype=bool)
    observed[5:, 3] = observed[:, 4] = False
    bits = with_known_samples()
    correct = bitmap.pack(bitmap.unpack(bits.correct, 2000) & observed)
    bits = RoundBits(2000, correct, bitmap.pack(observed), members=bitmap.pack(np.arange(2000) > 3))
    selection = select([bits])
    rarely, never = (explain_sample([bits], selection, index) for index in (3, 4))
    assert rarely.rounds[0].history[5:] == "." * 25
    assert (rarely.rounds[0].member, never.rounds[0].member) == (False, True)
    assert rarely.why == "seen in 5 of 30 epochs, too few to be judged; dropped"
    assert rarely.score is not None
    assert (never.score, never.noisy_posterior, never.observed) == (None, None, 0)
    assert never.why == "seen in 0 of 30 epochs, too few to be judged; dropped"


def test_only_rounds_that_count_are_counted_but_all_are_shown() -> None:
    bits = with_known_samples()
    latest = explain_sample([bits, bits], select([bits, bits], SelectionOptions(evidence="latest")), 1)
    assert (len(latest.rounds), latest.epochs, latest.misclassified) == (2, 30, 26)
    assert explain_sample([bits, bits], select([bits, bits]), 1).misclassified == 52


def test_without_a_cut_everyone_is_kept_and_that_is_said() -> None:
    bits, _ = recorded(n_epochs=3)
    explanation = explain_sample([bits], select([bits]), 0)
    assert explanation.kept
    assert "no cut was made as the verdict is insufficient; kept" in explanation.why


def test_a_set_that_was_made_otherwise_is_noticed() -> None:
    bits = with_known_samples()
    selection = select([bits])
    other = replace(selection, bitmap=~selection.bitmap)
    assert explain_sample([bits], other, 0).why.endswith("; dropped, against this cut: the set was made otherwise")


@pytest.mark.parametrize("index", [-1, 2000])
def test_a_sample_that_is_not_there_is_refused(index: int) -> None:
    bits, _ = recorded()
    with pytest.raises(SampleIndexError, match=r"outside 0\.\.1999"):
        explain_sample([bits], select([bits]), index)


def test_a_planted_sample_is_told_apart_from_one_that_was_not_seen() -> None:
    planted, _ = recorded(n_samples=300)
    planted = replace(planted, planted=bitmap.from_indices([7], 300))
    explanation = explain_sample([planted], select([planted]), 7)
    assert (explanation.rounds[0].planted, explanation.epochs, explanation.kept) == (True, 0, False)
    assert (
        explanation.why == "its label was broken on purpose, and its own one is judged from the next round on; dropped"
    )
    second, _ = recorded(n_samples=300, n_epochs=20, seed=1)
    later = explain_sample([planted, second], select([planted, second]), 7)
    assert (later.epochs, later.observed) == (20, 20)
    assert "of 20 epochs" in later.why
