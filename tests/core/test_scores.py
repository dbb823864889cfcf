import numpy as np
import pytest

from mild_core import bitmap
from mild_core.scores import MAX_BINS, score_samples
from mild_core.types import Metric, RoundBits


def round_of(*sequences: str, members: list[int] | None = None, expects: str = "all") -> RoundBits:
    """One sequence per sample: 1 memorised, 0 misclassified, . not observed."""
    grid = np.array([list(s) for s in sequences]).T
    n_samples = len(sequences)
    return RoundBits(
        n_samples,
        bitmap.pack(grid == "1"),
        bitmap.pack(grid != ".") if (grid == ".").any() else None,
        None if members is None else bitmap.from_indices(members, n_samples),
        "members" if expects == "members" else "all",
    )


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # 0001: 3 misclassified in one segment, 1 memorised in one; 0101: two segments of one each.
        ("mild-simple", [2, 0, -4, 4]),
        ("mild", [3 - 1, 1 - 1, 0 - 4, 4 - 0]),
        ("forgetting", [0, 1, 0, 4]),
        ("first-learned", [3, 1, 0, 4]),
    ],
)
def test_metrics_are_those_defined(metric: Metric, expected: list[float]) -> None:
    assert score_samples([round_of("0001", "0101", "1111", "0000")], metric).values.tolist() == expected


def test_unobserved_epochs_do_not_count_but_the_others_speak_for_them() -> None:
    scores = score_samples([round_of("0.1.", "....", "0000")], "mild-simple")
    assert scores.values[0] == 0
    assert np.isnan(scores.values[1])
    assert scores.scored.tolist() == [True, False, True]
    assert scores.unobserved.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # A sample that was never known is the hardest: as if forgotten without end.
        ("forgetting", [0, 4 / 3, 4, 0, np.nan]),
        # Unobserved epochs before the first memorised one are no misclassified ones.
        ("first-learned", [0, 0, 4, 2, np.nan]),
    ],
)
def test_who_was_never_known_is_hardest_and_who_was_never_observed_is_unknown(
    metric: Metric, expected: list[float]
) -> None:
    values = score_samples([round_of(".1.1", "101.", ".0.0", "01..", "....")], metric).values
    np.testing.assert_allclose(values, expected)


def test_who_was_not_observed_in_one_round_is_judged_by_the_others() -> None:
    seen = round_of("0000", "0101", "1111")
    unseen = round_of("....", "....", "....")
    for metric in ("forgetting", "first-learned"):
        alone, with_unseen = (score_samples(rounds, metric).values for rounds in ([seen], [seen, unseen]))
        np.testing.assert_allclose(with_unseen, 2 * alone)


def test_equally_long_rounds_add_up() -> None:
    a, b = ("0001", "1111"), ("0111", "0111")
    pooled = score_samples([round_of(*a), round_of(*b)], "mild-simple")
    assert pooled.values.tolist() == [2 - 2, -4 - 2]
    assert pooled.grid.n_bins == 9
    assert pooled.grid.get_cut_value(int(pooled.bins[0])) == pooled.values[0]


def test_rounds_weigh_equally_whatever_their_length() -> None:
    pooled = score_samples([round_of("0" * 10), round_of("11")], "mild-simple")
    assert pooled.values.tolist() == [0]


def test_whom_nobody_expected_is_neither_scored_nor_missing() -> None:
    scores = score_samples([round_of("01", "..", members=[0], expects="members")], "mild-simple")
    assert scores.scored.tolist() == [True, False]
    assert scores.unobserved.tolist() == [False, False]


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
def test_every_score_lies_in_its_own_bin(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((12, 300)) < 0.5
    scores = score_samples([RoundBits(300, bitmap.pack(correct))], metric)
    bins = scores.bins
    upper = scores.grid.origin + scores.grid.width * bins
    assert ((scores.values <= upper + 1e-9) & (scores.values > upper - scores.grid.width)).all()
    assert bins.max() < scores.grid.n_bins


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
def test_many_values_share_bins_and_keep_their_order(metric: Metric) -> None:
    rng = np.random.default_rng(0)
    correct = rng.random((1500, 400)) < rng.random(400)
    scores = score_samples([RoundBits(400, bitmap.pack(correct))], metric)
    assert scores.grid.n_bins <= MAX_BINS
    bins = scores.bins
    assert (np.diff(bins[np.argsort(scores.values)]) >= 0).all()
    for cut in (0, 3, scores.grid.n_bins - 1):
        assert ((bins <= cut) == (scores.values <= scores.grid.get_cut_value(cut) + 1e-9)).all()
        assert scores.grid.find_cut(scores.grid.get_cut_value(cut)) == cut


def test_a_planted_sample_is_scored_by_the_rounds_with_its_own_label() -> None:
    rng = np.random.default_rng(5)
    correct = [bitmap.pack(rng.random((10, 100)) < 0.5) for _ in range(2)]
    planted = bitmap.from_indices(range(7), 100)
    first, second = RoundBits(100, correct[0], planted=planted), RoundBits(100, correct[1])
    pooled, latest = score_samples([first, second], "mild-simple"), score_samples([second], "mild-simple")
    assert pooled.values[:7] / pooled.n_epochs == pytest.approx(latest.values[:7] / latest.n_epochs)
    assert pooled.values[7:] == pytest.approx(
        score_samples([RoundBits(100, correct[0]), second], "mild-simple").values[7:]
    )
    assert pooled.scored.all()
    assert not pooled.unobserved.any()
    assert pooled.planted is not None
    assert not pooled.planted.any()


def test_a_sample_that_was_only_planted_is_not_judged() -> None:
    rng = np.random.default_rng(5)
    members = bitmap.from_indices(range(50), 100)
    bits = RoundBits(
        100,
        bitmap.pack(rng.random((10, 100)) < 0.5) & members,
        np.tile(members, (10, 1)),
        members,
        "members",
        planted=bitmap.from_indices([0, 1], 100),
    )
    scores = score_samples([bits], "mild-simple")
    assert scores.planted is not None
    assert np.flatnonzero(scores.planted).tolist() == [0, 1]
    assert scores.sufficiently_observed[:50].all()
    assert not scores.scored[:2].any()
    assert scores.scored[2:50].all()
    assert not scores.unobserved.any()
