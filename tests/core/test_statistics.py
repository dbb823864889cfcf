"""Statistics of samples that are read part by part, against the same numbers on whole arrays."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import fields, replace
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from mild_core import bitmap, sources, statistics
from mild_core.audit import Annotations, Audit
from mild_core.judgement import FitData, collect_fit_data
from mild_core.selection import select_from
from mild_core.sources import ArrayPart, ArraySource
from mild_core.statistics import Query, count_part
from mild_core.types import Metric, RoundBits, SelectionOptions
from tests.core.whole_array import WholeArray, count_whole_array

N_CLASSES = 5


def draw_round(
    rng: np.random.Generator,
    n_samples: int,
    n_epochs: int,
    *,
    gaps: float = 0.0,
    members: float | None = None,
    expects: str = "all",
    planted: float = 0.0,
) -> RoundBits:
    """Draw a round; samples are unobserved in up to twice the share `gaps` of its epochs, and some in all of them."""
    correct = rng.random((n_epochs, n_samples)) < rng.beta(0.6, 0.6, n_samples)
    observed = None
    if gaps:
        observed = rng.random(correct.shape) >= rng.uniform(0, 2 * gaps, n_samples)
        observed[rng.random(n_epochs) < 0.1] = False
        correct &= observed
    masks = (None if share is None else bitmap.pack(rng.random(n_samples) < share) for share in (members, planted))
    trained, changed = masks
    return RoundBits(
        n_samples,
        bitmap.pack(correct),
        None if observed is None else bitmap.pack(observed),
        trained,
        "members" if expects == "members" else "all",
        changed if planted else None,
    )


def draw_annotations(rng: np.random.Generator, n_samples: int) -> Annotations:
    """Draw labels, of which one is rare, and an audit that has checked some samples of a random draw."""
    labels = np.where(rng.random(n_samples) < 0.01, 1000, rng.integers(-1, N_CLASSES - 1, n_samples))
    known, drawn = rng.random((2, n_samples)) < 0.2
    clean = known & (rng.random(n_samples) < 0.7)
    random = bitmap.pack(drawn) if rng.random() < 0.7 else None
    return Annotations(labels, Audit(n_samples, bitmap.pack(known), bitmap.pack(clean), random))


def draw_run(rng: np.random.Generator) -> list[RoundBits]:
    """Draw one to three rounds of any kind."""
    n_samples = int(rng.choice([3, 700, 1801]))
    lengths = rng.choice([1, 2, 5, 12, 30, 70], rng.choice([1, 1, 2, 3]))
    if rng.random() < 0.5:
        lengths[:] = lengths[0]
    if rng.random() < 0.15:
        lengths[0] = 600
    gaps, members, planted = rng.choice([0, 0, 0.2, 0.45]), 0.7 if rng.random() < 0.5 else None, rng.choice([0, 0, 0.1])
    expects = rng.choice(["all", "members"])
    is_first_only = rng.random() < 0.5
    rounds = [
        draw_round(rng, n_samples, int(n_epochs), gaps=gaps, members=members, expects=expects, planted=planted)
        for n_epochs in lengths
    ]
    return [rounds[0], *(replace(bits, planted=None) for bits in rounds[1:])] if is_first_only else rounds


@pytest.fixture(params=["one part", "parts of 64 bytes"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How samples are split."""
    if request.param != "one part":
        monkeypatch.setattr(sources, "BLOCK_BYTES", 64)
        monkeypatch.setattr(statistics, "BLOCK_BYTES", 64)
    return str(request.param)


def collect(
    rounds: Sequence[RoundBits],
    options: SelectionOptions,
    annotations: Annotations | None = None,
    early: int = 0,
    executor: Executor | None = None,
) -> FitData:
    source = ArraySource(rounds, annotations or Annotations())
    return collect_fit_data(source, Query(options, early, source.planted_round), executor)


def check_evidence(evidence: FitData, expected: WholeArray) -> None:
    """Check all that the evidence holds."""
    found, top = evidence.statistics, np.iinfo(evidence.bins.dtype).max
    np.testing.assert_array_equal(evidence.bins, np.where(expected.bins < 0, top, expected.bins))
    np.testing.assert_array_equal(evidence.by_bin, expected.by_bin)
    np.testing.assert_array_equal(evidence.by_cell, expected.by_cell)
    assert (evidence.cell_likelihood is None) == (expected.likelihood is None)
    if expected.likelihood is not None:
        np.testing.assert_array_equal(evidence.cell_likelihood, expected.likelihood)
    assert (found.late_memorised, found.late_observed) == expected.late
    assert found.lowest == pytest.approx(expected.lowest, abs=1e-9)
    if evidence.query.options.metric == "mild-simple":
        assert found.n_partial == expected.n_partial
    for name in ("n_unobserved", "n_planted", "n_hard"):
        assert getattr(found, name) == getattr(expected, name), name
    if expected.planted_counts is not None:
        np.testing.assert_array_equal(found.planted_counts, expected.planted_counts)
    for field, number in zip(fields(found.learning), expected.learning, strict=True):
        counted = getattr(found.learning, field.name)
        np.testing.assert_array_equal(
            counted if field.name != "n_known" else counted[-np.asarray(number).size :], number
        )
    assert (evidence.groups is None) == (expected.classes is None)
    if evidence.groups is not None and expected.classes is not None:
        groups = (evidence.groups.labels, evidence.groups.counts, evidence.groups.cell_counts)
        for values, expected_values in zip(groups, expected.classes, strict=True):
            np.testing.assert_array_equal(values, expected_values)


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("seed", range(25))
def test_parts_add_up_to_what_the_definitions_say(parts: str, metric: Metric, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounds = draw_run(rng)
    annotations = draw_annotations(rng, rounds[0].n_samples)
    options = SelectionOptions(metric=metric, evidence="latest" if seed % 5 == 4 else "pooled")
    for early in (0, 1, 2):
        evidence = collect(rounds, options, annotations, early)
        check_evidence(evidence, count_whole_array(rounds, options, annotations, early))


def check_equal(first: Any, second: Any) -> None:
    """Check that two statistics are the same, in all of their parts."""
    if first is None or second is None:
        assert first is second
        return
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, int | float | np.ndarray):
            np.testing.assert_array_equal(one, other, field.name)
        else:
            check_equal(one, other)


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("seed", range(5))
def test_statistics_do_not_depend_on_how_samples_are_split(
    monkeypatch: pytest.MonkeyPatch, metric: Metric, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rounds = [draw_round(rng, 1801, n_epochs, gaps=0.2, members=0.8, planted=0.1) for n_epochs in (20, 20, 9)]
    source = ArraySource(rounds, draw_annotations(rng, 1801))
    query = Query(SelectionOptions(metric=metric), 0, source.planted_round)
    n_bytes = bitmap.n_bytes(1801)
    (whole_part,) = source.split()
    whole, bins = count_part(query, whole_part)
    ends = [0, *sorted(rng.choice(np.arange(1, n_bytes), 9, replace=False).tolist()), n_bytes]
    parts = [slice(*ends) for ends in pairwise(ends)]
    counted = [count_part(query, ArrayPart(part, whole_part.block.take(part))) for part in parts]
    np.testing.assert_array_equal(np.concatenate([part_bins for _, part_bins in counted]), bins)
    order = rng.permutation(len(counted))
    check_equal(reduce(add, [counted[place][0] for place in order]), whole)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 64)  # a part of several blocks
    in_blocks, bins_in_blocks = count_part(query, whole_part)
    np.testing.assert_array_equal(bins_in_blocks, bins)
    check_equal(in_blocks, whole)


def spawn_processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.parametrize(
    "make_executor", [lambda: ThreadPoolExecutor(2), spawn_processes], ids=["threads", "processes"]
)
def test_an_executor_gives_the_same_selection(
    monkeypatch: pytest.MonkeyPatch, make_executor: Callable[[], Executor]
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 64)
    bits, labels = separable_round()
    source = ArraySource([bits, replace(bits, planted=None)], Annotations(labels))
    all_options = [
        SelectionOptions(per_class=True),
        SelectionOptions(metric="forgetting", min_keep_class=0.1),
        SelectionOptions(threshold="value", value=0.0, min_keep_class=0.1),
    ]
    with make_executor() as executor:
        for options in all_options:
            here, there = select_from(source, options), select_from(source, options, executor)
            assert here.summary() == there.summary()
            assert 0 < here.n_selected < bits.n_samples
            for name in ("bitmap", "cut_bitmap", "bins", "scores", "noisy_posterior"):
                np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def separable_round(n_samples: int = 3000) -> tuple[RoundBits, np.ndarray]:
    """A round of 20 epochs with gaps, with a third of mislabelled samples, and labels."""
    rng = np.random.default_rng(0)
    mislabelled = rng.random(n_samples) < 0.3
    learnt = np.arange(20)[:, None] >= rng.integers(0, 6, n_samples)
    correct = np.where(mislabelled, rng.random((20, n_samples)) < 0.1, learnt)
    observed = rng.random(correct.shape) < 0.8
    planted = bitmap.pack(mislabelled & (rng.random(n_samples) < 0.1))
    bits = RoundBits(n_samples, bitmap.pack(correct & observed), bitmap.pack(observed), planted=planted)
    return bits, rng.integers(0, N_CLASSES, n_samples)


@st.composite
def small_runs(draw: st.DrawFn) -> tuple[list[RoundBits], Annotations]:
    """One to three rounds of few samples and epochs."""
    n_samples = draw(st.integers(1, 20))
    mask = st_numpy.arrays(np.bool_, n_samples)
    packed = st.none() | mask.map(bitmap.pack)
    rounds = []
    for _ in range(draw(st.integers(1, 3))):
        rows = st_numpy.arrays(np.bool_, (draw(st.integers(1, 9)), n_samples))
        correct, observed = draw(rows), draw(st.none() | rows)
        correct = correct if observed is None else correct & observed
        expects: Literal["all", "members"] = "members" if draw(st.booleans()) else "all"
        seen = None if observed is None else bitmap.pack(observed)
        rounds.append(RoundBits(n_samples, bitmap.pack(correct), seen, draw(packed), expects, draw(packed)))
    known, clean = draw(mask), draw(mask)
    audit = Audit(n_samples, bitmap.pack(known), bitmap.pack(known & clean), draw(packed))
    return rounds, Annotations(draw(st_numpy.arrays(np.int64, n_samples, elements=st.integers(-2, 3))), audit)


@settings(max_examples=200, deadline=None)
@given(run=small_runs(), metric=st.sampled_from(get_args(Metric)), size=st.integers(1, 3), early=st.integers(0, 1))
def test_any_bits_give_what_the_definitions_say(
    run: tuple[list[RoundBits], Annotations], metric: Metric, size: int, early: int
) -> None:
    rounds, annotations = run
    options = SelectionOptions(metric=metric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_BYTES", size)
        evidence = collect(rounds, options, annotations, early)
    check_evidence(evidence, count_whole_array(rounds, options, annotations, early))
