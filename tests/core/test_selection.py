from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_core import bitmap
from mild_core.audit import Annotations
from mild_core.errors import ParameterError
from mild_core.results import serialize_fit
from mild_core.selection import select, select_from
from mild_core.sources import ArrayPart, ArraySource, SampleBlock
from mild_core.statements import describe_selection, describe_verdict
from mild_core.types import Metric, RoundBits, SelectionOptions


def recorded(
    n_epochs: int = 30, n_samples: int = 2000, noise: float = 0.4, seed: int = 0, seen: float = 1.0
) -> tuple[RoundBits, np.ndarray]:
    """Clean samples are learned early and kept, mislabelled ones late if ever."""
    rng = np.random.default_rng(seed)
    clean = rng.random(n_samples) >= noise
    learned = np.where(clean, rng.gamma(1.2, 0.1 * n_epochs, n_samples), rng.gamma(30, n_epochs / 30, n_samples))
    correct = np.arange(n_epochs)[:, None] >= learned
    correct ^= rng.random(correct.shape) < 0.03
    observed = rng.random(correct.shape) < seen
    packed = bitmap.pack(observed) if seen < 1 else None
    return RoundBits(n_samples, bitmap.pack(correct & observed), packed), clean


def f1(selected: np.ndarray, clean: np.ndarray) -> float:
    return float(2 * (selected & clean).sum() / (selected.sum() + clean.sum()))


@pytest.mark.parametrize("noise", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("seen", [1.0, 0.7])
def test_the_clean_samples_are_found(noise: float, seen: float) -> None:
    bits, clean = recorded(noise=noise, seen=seen)
    selection = select([bits])
    assert f1(bitmap.unpack(selection.bitmap, clean.size), clean) > 0.93
    assert selection.verdict in ("separable", "weak")
    estimate = selection.fitted["noise_rate"]
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    assert estimate.value == pytest.approx(noise, abs=0.06)
    assert np.nanmean(selection.noisy_posterior[clean]) < 0.3 < np.nanmean(selection.noisy_posterior[~clean])


def test_hidden_bits_widen_the_estimates_a_little_and_do_not_bend_them() -> None:
    rng = np.random.default_rng(1)
    mislabelled = rng.random(5000) < 0.35
    rate = np.where(mislabelled, rng.beta(8, 2, 5000), rng.beta(1, 6, 5000))
    shuffled, observed = rng.random((20, 5000)) >= rate, rng.random((20, 5000)) < 0.6
    correct = np.where(mislabelled, shuffled, np.sort(shuffled, axis=0))
    complete = select([RoundBits(5000, bitmap.pack(correct))]).fitted["noise_rate"]
    partial = select([RoundBits(5000, bitmap.pack(correct & observed), bitmap.pack(observed))]).fitted["noise_rate"]
    assert complete is not None
    assert partial is not None
    assert partial.value == pytest.approx(complete.value, abs=0.03)
    assert complete.low - 0.03 < partial.low < partial.high < complete.high + 0.03


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
@pytest.mark.parametrize("fit", ["anchored", "tailed", "grouped", "censored", "density"])
@pytest.mark.parametrize("threshold", ["f1", "bayes", "posterior", "scale", "fraction"])
def test_what_is_kept_is_exactly_what_lies_up_to_the_threshold(metric: Any, fit: Any, threshold: Any) -> None:
    bits, _ = recorded(n_samples=500)
    selection = select([bits], SelectionOptions(metric=metric, fit=fit, threshold=threshold))
    limit = np.inf if selection.threshold.value is None else selection.threshold.value
    assert (bitmap.unpack(selection.bitmap, 500) == (selection.scores <= limit + 1e-6)).all()
    assert selection.histogram is not None
    if selection.threshold.cut is not None:
        assert selection.histogram.counts[: selection.threshold.cut + 1].sum() == selection.n_selected


def test_a_given_value_is_the_cut() -> None:
    bits, _ = recorded()
    selection = select([bits], SelectionOptions(threshold="value", value=-10))
    assert (bitmap.unpack(selection.bitmap, 2000) == (selection.scores <= -10)).all()
    assert selection.threshold.value == -10


@pytest.mark.parametrize("value", [-30, -11.5, -10, 0, 30, 99])
def test_a_given_value_between_two_bins_keeps_the_lower_one(value: float) -> None:
    bits, _ = recorded()
    selection = select([bits], SelectionOptions(threshold="value", value=value))
    assert selection.histogram is not None
    assert selection.threshold.cut is not None
    assert selection.histogram.counts[: selection.threshold.cut + 1].sum() == selection.n_selected


def test_a_given_fraction_is_kept_even_where_nothing_can_be_fitted() -> None:
    bits = RoundBits(40, bitmap.pack(np.arange(4)[:, None] >= np.arange(40) // 10))
    selection = select([bits], SelectionOptions(threshold="fraction", fraction=0.5))
    assert selection.verdict == "insufficient"
    assert selection.indices.tolist() == list(range(20))


def test_too_little_evidence_keeps_everyone_and_says_why() -> None:
    bits, _ = recorded(n_epochs=3, n_samples=30)
    selection = select([bits])
    assert selection.verdict == "insufficient"
    assert selection.n_selected == 30
    assert any("4 bins; record more epochs, a fit needs at least 8" in reason for reason in selection.reasons)
    assert selection.fitted == {"noise_rate": None, "precision": None, "recall": None}


def test_one_population_is_not_cut() -> None:
    rng = np.random.default_rng(0)
    bits = RoundBits(3000, bitmap.pack(rng.random((40, 3000)) < 0.3))
    selection = select([bits])
    assert selection.verdict == "unimodal"
    assert selection.n_selected == 3000
    assert selection.threshold.cut is None


def test_pooled_evidence_uses_all_rounds_and_latest_only_the_last() -> None:
    good, _ = recorded()
    nothing = RoundBits(2000, np.zeros_like(good.correct))
    assert select([good, nothing]).epochs == 60
    latest = select([good, nothing], SelectionOptions(evidence="latest"))
    assert latest.epochs == 30
    assert latest.verdict == "insufficient"


def test_a_set_is_held_against_the_members_of_its_last_round() -> None:
    bits, _ = recorded()
    members = bitmap.pack(np.arange(2000) < 1000)
    selection = select([bits, replace(bits, members=members)])
    assert selection.member_overlap is not None
    kept, inside = bitmap.unpack(selection.bitmap, 2000), np.arange(2000) < 1000
    assert selection.member_overlap.agreement == pytest.approx((kept == inside).mean())
    assert selection.member_overlap.by_chance == pytest.approx(0.5)
    assert selection.summary()["member_overlap"] == {
        "agreement": selection.member_overlap.agreement,
        "by_chance": selection.member_overlap.by_chance,
    }
    assert select([replace(bits, members=members), bits]).member_overlap is None


def test_the_member_overlap_is_of_judged_samples_alone() -> None:
    bits, _ = recorded()
    observed = np.ones((30, 2000), dtype=bool)
    observed[2:, :500] = False
    correct = bits.correct & bitmap.pack(observed)
    hidden, seen = np.arange(2000) < 500, np.arange(2000) >= 500
    gappy = RoundBits(2000, correct, bitmap.pack(observed), members=bitmap.pack(seen))
    assert select([gappy]).member_overlap is None
    assert select([replace(gappy, members=bitmap.pack(hidden))]).member_overlap is None
    some = select([replace(gappy, members=bitmap.pack(np.arange(2000) < 1000))])
    assert some.member_overlap is not None
    kept = bitmap.unpack(some.bitmap, 2000)[500:]
    assert some.member_overlap.agreement == pytest.approx((kept == (np.arange(500, 2000) < 1000)).mean())


def test_samples_mostly_unobserved_are_reported_and_not_kept() -> None:
    bits, _ = recorded()
    observed = np.ones((30, 2000), dtype=bool)
    observed[2:, :5] = False
    correct = bitmap.pack(bitmap.unpack(bits.correct, 2000) & observed)
    selection = select([RoundBits(2000, correct, bitmap.pack(observed))])
    assert selection.unobserved == 5
    assert not bitmap.unpack(selection.bitmap, 2000)[:5].any()


@pytest.mark.parametrize("metric", ["mild-simple", "mild", "forgetting", "first-learned"])
def test_an_epoch_that_observed_no_sample_counts_for_nothing(metric: Metric) -> None:
    bits, _ = recorded(seen=0.8)
    assert bits.observed is not None
    numbers = 100 + 5 * np.arange(bits.n_epochs)
    correct, observed = (
        np.zeros((numbers[-1] + 1, plane.shape[1]), np.uint8) for plane in (bits.correct, bits.observed)
    )
    correct[numbers], observed[numbers] = bits.correct, bits.observed
    sparse = select([replace(bits, correct=correct, observed=observed)], SelectionOptions(metric=metric))
    assert sparse.summary() == select([bits], SelectionOptions(metric=metric)).summary()


def test_rounds_without_any_observed_sample_are_insufficient() -> None:
    nothing = np.zeros((3, 5), dtype=np.uint8)
    selection = select([RoundBits(40, nothing, nothing)])
    assert (selection.verdict, selection.epochs, selection.n_selected) == ("insufficient", 0, 0)


def test_the_floor_keeps_its_share() -> None:
    bits, _ = recorded()
    few = select([bits], SelectionOptions(threshold="posterior", p=0.0, min_keep=0.25))
    assert few.n_selected >= 500


@pytest.mark.parametrize("options", [{}, {"per_class": True}])
@pytest.mark.parametrize(
    "rule",
    [
        {"threshold": "value", "value": -1000.0},
        {"threshold": "fraction", "fraction": 0.0},
        {"threshold": "posterior", "p": 0.0},
        {"threshold": "precision", "target": 1.0},
        {"threshold": "recall", "target": 0.0},
    ],
)
def test_no_rule_keeps_nothing(rule: dict[str, Any], options: dict[str, Any]) -> None:
    bits, _ = recorded()
    labels = Annotations(np.arange(bits.n_samples) % 3)
    selection = select([bits], SelectionOptions(min_keep=0.0, **rule, **options), labels)
    lowest = np.nanmin(selection.scores)
    assert selection.n_selected > 0
    assert np.mean(selection.scores[selection.scored] < selection.scores[selection.indices].max()) < 0.2
    assert selection.threshold.value is not None
    assert selection.threshold.value >= lowest


def test_the_summary_is_plain_json_in_the_wires_names() -> None:
    bits, _ = recorded()
    summary = select([bits]).summary()
    assert summary["num_samples"] == 2000
    assert summary["num_selected"] == len(select([bits]).indices)
    assert [set(c) for c in summary["components"]] == [{"weight", "scale", "shape", "mean"}] * 2
    assert set(summary["fitted"]) == {"noise_rate", "precision", "recall"}


def test_no_round_is_refused() -> None:
    with pytest.raises(ParameterError, match="0 rounds"):
        select([])


def test_more_epochs_than_can_be_counted_are_refused() -> None:
    with pytest.raises(ParameterError, match="65536 epochs, at most 65535"):
        select([RoundBits(1, np.zeros((65536, 1), dtype=np.uint8))])


@settings(max_examples=120)
@given(
    n_epochs=st.integers(0, 40),
    n_samples=st.integers(1, 200),
    n_rounds=st.integers(1, 3),
    rate=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seen=st.sampled_from([0.0, 0.3, 0.9, 1.0, None]),
    metric=st.sampled_from(["mild-simple", "mild", "forgetting", "first-learned"]),
    seed=st.integers(0, 1000),
)
def test_no_history_raises_and_permuting_samples_permutes_the_answer(
    n_epochs: int, n_samples: int, n_rounds: int, rate: float, seen: float | None, metric: Metric, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n_samples)
    rounds: list[RoundBits] = []
    permuted: list[RoundBits] = []
    for _ in range(n_rounds):
        observed = rng.random((n_epochs, n_samples)) < (1 if seen is None else seen)
        correct = observed & (rng.random((n_epochs, n_samples)) < rate * rng.random(n_samples) * 2)
        for into, index in ((rounds, np.arange(n_samples)), (permuted, order)):
            shape = (n_epochs, bitmap.n_bytes(n_samples))
            packed = bitmap.pack(correct[:, index]).reshape(shape)
            packed_observed = None if seen is None else bitmap.pack(observed[:, index]).reshape(shape)
            into.append(RoundBits(n_samples, packed, packed_observed))
    selection = select(rounds, SelectionOptions(metric=metric))
    again = select(permuted, SelectionOptions(metric=metric))
    assert selection.verdict in ("separable", "weak", "unimodal", "learning", "insufficient")
    assert selection.n_selected + selection.unobserved <= n_samples
    kept = bitmap.unpack(selection.bitmap, n_samples)
    assert (bitmap.unpack(again.bitmap, n_samples) == kept[order]).all()


def draw_bits(clean_masses: np.ndarray, noisy_masses: np.ndarray, noise: float) -> RoundBits:
    """A round whose counts of misclassified epochs have the given distributions; who is hard to learn is forgotten."""
    rng = np.random.default_rng(3)
    n_samples, n_epochs = 4000, clean_masses.size - 1
    n_noisy = round(noise * n_samples)
    wrong = np.concatenate(
        (
            rng.choice(n_epochs + 1, n_samples - n_noisy, p=clean_masses),
            rng.choice(n_epochs + 1, n_noisy, p=noisy_masses),
        )
    )
    learnt = np.arange(n_epochs)[:, None] >= wrong
    correct = np.where(wrong > n_epochs / 2, rng.permuted(learnt, axis=0), learnt)
    return RoundBits(n_samples, bitmap.pack(correct))


def hard_clean_masses(tail: float) -> np.ndarray:
    masses = (1 - tail) * 0.5 ** np.arange(21) + tail * 0.1
    return np.asarray(masses / masses.sum())


def test_tails_drop_no_hard_clean_samples_where_the_anchored_fit_finds_noise() -> None:
    bits = draw_bits(hard_clean_masses(0.12), np.eye(21)[20], 0.0)
    anchored, tailed = (select([bits], SelectionOptions(fit=fit)) for fit in ("anchored", "tailed"))
    assert (anchored.verdict, tailed.verdict) == ("separable", "unimodal")
    assert anchored.n_selected < 0.95 * 4000
    assert tailed.n_selected == 4000


def test_tails_leave_a_fit_alone_that_separates_nothing() -> None:
    bits = draw_bits(np.full(21, 1 / 21), np.full(21, 1 / 21), 0.0)
    anchored, tailed = (select([bits], SelectionOptions(fit=fit)) for fit in ("anchored", "tailed"))
    assert anchored.verdict != "separable"
    assert anchored.components == tailed.components


def test_tails_that_find_noise_and_separate_nothing_decide_nothing() -> None:
    broad = np.arange(21) ** 1.5
    bits = draw_bits(hard_clean_masses(0.1), broad / broad.sum(), 0.3)
    anchored, tailed = (select([bits], SelectionOptions(fit=fit)) for fit in ("anchored", "tailed"))
    assert anchored.verdict == "separable"
    assert anchored.components == tailed.components


def test_a_selection_describes_itself_and_its_fit() -> None:
    bits, _ = recorded()
    selection = select([bits])
    summary = selection.summary()
    assert str(selection).splitlines() == describe_selection(summary)
    assert f"Verdict: {selection.verdict}. {describe_verdict(summary)}" in str(selection)
    fit = serialize_fit(selection)
    assert selection.histogram is not None
    assert fit["histogram"]["counts"].sum() == selection.scored.sum()
    assert fit["curves"]["value"].shape == (3, selection.histogram.counts.size + 1)
    assert fit["components"] == summary["components"]
    assert (fit["verdict"], fit["threshold"]) == (selection.verdict, summary["threshold"])
    few = serialize_fit(select(np.zeros((3, 4), dtype=bool)))
    assert (few["densities"], few["curves"], few["components"]) == (None, None, [])


def test_scores_that_were_computed_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[slice] = []
    read_part = ArrayPart.read

    def record(part: ArrayPart) -> SampleBlock:
        read.append(part.extent)
        return read_part(part)

    monkeypatch.setattr(ArrayPart, "read", record)
    bits, _ = recorded()
    selection = select_from(ArraySource([bits], Annotations()), SelectionOptions())
    n_before = len(read)
    selection.details.compute()
    n_computed = len(read)
    assert selection.scores.shape == selection.noisy_posterior.shape == (bits.n_samples,)
    assert n_computed > n_before
    assert len(read) == n_computed
