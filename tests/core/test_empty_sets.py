"""No rule gives an empty set where a sample can be kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mild_client import LocalSelector, RunSpec
from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.errors import EmptySetError
from mild_core.selection import check_not_empty, select
from mild_core.types import EpochBits, RoundBits, SelectionOptions

N_SAMPLES = 400
RNG = np.random.default_rng(0)
CLEAN = np.arange(N_SAMPLES) < 240
CORRECT = np.where(CLEAN, np.arange(20)[:, None] >= RNG.poisson(2, N_SAMPLES), RNG.random((20, N_SAMPLES)) < 0.1)
LABELS = np.arange(N_SAMPLES) % 3
NOISY_ONLY = np.zeros((20, N_SAMPLES), dtype=bool)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"threshold": "value", "value": -21.0},
            "no score is at most -21: the lowest, -20, is kept; give a higher value",
        ),
        ({"threshold": "fraction", "fraction": 0.0, "min_keep": 0.0}, "threshold 'fraction' alone keeps no sample"),
        ({"threshold": "fraction", "fraction": 0.001, "min_keep": 0.0}, "threshold 'fraction' alone keeps no sample"),
        ({"threshold": "posterior", "p": 0.0, "min_keep": 0.0}, "threshold 'posterior' alone keeps no sample"),
        ({"threshold": "fraction", "fraction": 0.0, "min_keep": 0.0, "per_class": True}, "'fraction' alone keeps no"),
        ({"threshold": "value", "value": -21.0, "per_class": True}, "the lowest, -20, is kept"),
    ],
)
def test_a_rule_that_keeps_nothing_keeps_the_lowest_scores_and_says_so(options: dict[str, Any], reason: str) -> None:
    labels = Annotations(LABELS) if options.get("per_class") else None
    selection = select(CORRECT, SelectionOptions(**options), labels)
    assert reason in selection.reasons[-1]
    assert selection.indices.tolist() == np.flatnonzero(selection.scores == -20).tolist()


def test_a_value_that_rounding_puts_below_the_lowest_score_keeps_it() -> None:
    correct = np.ones((23, N_SAMPLES), dtype=bool)
    correct[:5] = False
    correct[:, 1::2] = False
    selection = select(correct, SelectionOptions(threshold="value", value=-13.0))
    assert selection.details.values.astype(np.float64).min() == -13
    assert selection.indices.tolist() == list(range(0, N_SAMPLES, 2))
    assert not any("no score is at most" in reason for reason in selection.reasons)


def test_a_precision_that_no_cut_is_expected_to_reach_keeps_the_lowest_scores() -> None:
    rng = np.random.default_rng(1)
    clean = np.arange(4000) < 2000
    overlapping = rng.random((20, 4000)) < np.where(clean, rng.beta(5, 2, 4000), rng.beta(2, 6, 4000))
    selection = select(overlapping, SelectionOptions(fit="density", threshold="precision", target=1.0))
    assert selection.verdict == "weak"
    assert 40 <= selection.n_selected < 400
    assert "threshold 'precision' alone keeps no sample" in selection.reasons[-1]


@pytest.mark.parametrize("cost_ratio", [1e-6, 1e6])
@pytest.mark.parametrize("min_keep_class", [0.0, 0.2])
def test_every_rule_keeps_somebody_of_whatever_histogram(cost_ratio: float, min_keep_class: float) -> None:
    for correct in (CORRECT, NOISY_ONLY, ~NOISY_ONLY, RNG.random((20, N_SAMPLES)) < 0.5):
        for rule in ("f1", "bayes", "posterior", "scale", "fraction"):
            options = SelectionOptions(
                threshold=rule,
                cost_ratio=cost_ratio,
                p=0.0,
                min_keep=0.0,
                min_keep_class=min_keep_class,
                per_class=True,
            )
            assert select(correct, options, Annotations(LABELS)).n_selected > 0


def test_marks_that_drop_every_kept_sample_keep_the_others() -> None:
    options = SelectionOptions(threshold="value", value=-18, audit="fit")
    kept = select(CORRECT, replace(options, audit="measure")).indices
    audit = Audit.from_marks(kept.tolist(), [False] * kept.size, N_SAMPLES)
    selection = select(CORRECT, options, Annotations(audit=audit))
    assert selection.n_selected == N_SAMPLES - kept.size
    assert f"so the {N_SAMPLES - kept.size} others are kept" in selection.reasons[-1]


def test_an_audit_that_drops_everyone_leaves_nothing_to_store() -> None:
    for random, options in ((False, SelectionOptions(audit="fit")), (True, SelectionOptions(threshold="fdr"))):
        audit = Audit.from_marks(range(N_SAMPLES), [False] * N_SAMPLES, N_SAMPLES, random)
        selection = select(CORRECT, options, Annotations(audit=audit))
        assert selection.n_selected == 0
        with pytest.raises(EmptySetError, match="all 400 scored samples are marked as mislabelled; check the marks"):
            check_not_empty(selection.bitmap, selection.reasons)


def test_an_error_controlled_cut_that_reaches_nothing_keeps_all_but_the_wrong_ones() -> None:
    drawn = np.arange(0, N_SAMPLES, 40)
    audit = Audit.from_marks(drawn.tolist(), [False] * drawn.size, N_SAMPLES, random=True)
    selection = select(CORRECT, SelectionOptions(threshold="fdr", alpha=0.01), Annotations(audit=audit))
    assert selection.n_selected == N_SAMPLES - drawn.size


@pytest.mark.parametrize(
    "bits",
    [
        RoundBits(N_SAMPLES, bitmap.pack(NOISY_ONLY), bitmap.pack(NOISY_ONLY)),
        RoundBits(N_SAMPLES, bitmap.pack(CORRECT), planted=bitmap.full(N_SAMPLES)),
    ],
    ids=["unobserved", "planted"],
)
def test_where_no_sample_is_scored_there_is_no_set(bits: RoundBits) -> None:
    selection = select([bits])
    assert (selection.verdict, selection.n_selected) == ("insufficient", 0)
    with pytest.raises(EmptySetError, match="no sample can be kept: 0 of 400 samples are scored"):
        check_not_empty(selection.bitmap, selection.reasons)


def test_a_round_in_which_nothing_was_observed_is_not_finished_and_can_go_on() -> None:
    backend = LocalSelector()
    backend.open(RunSpec("a", num_samples=N_SAMPLES))
    nothing = bitmap.pack(NOISY_ONLY[0])
    backend.put_epoch(0, 0, EpochBits(N_SAMPLES, nothing, nothing))
    with pytest.raises(EmptySetError, match="record more epochs"):
        backend.finish(0)
    backend.put_epoch(0, 1, EpochBits(N_SAMPLES, bitmap.pack(CORRECT[-1])))
    assert bitmap.popcount(backend.finish(0).selected) == N_SAMPLES
