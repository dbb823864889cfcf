from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from mild_core import bitmap, class_cuts, sources, statistics
from mild_core.audit import MAX_LABEL, Annotations
from mild_core.class_cuts import cut_classes
from mild_core.errors import ParameterError
from mild_core.mixture.mixture import Mixture, fit_groups, fit_mixture
from mild_core.results import Selection, Threshold
from mild_core.selection import select
from mild_core.sources import ArrayPart, SampleBlock
from mild_core.statistics import ClassTables, Table
from mild_core.types import RoundBits, Rule, SelectionOptions

N_EPOCHS = 30
SIZES = (1500, 1500, 1500, 20)
NOISE = (0.1, 0.3, 0.6, 0.3)
HARD = (0.06, 0.1, 0.16, 0.1)


def recorded(seed: int = 0) -> tuple[RoundBits, np.ndarray, np.ndarray]:
    """Bits, labels and cleanness of classes that differ in size, noise and difficulty."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SIZES)), SIZES)
    clean = rng.random(labels.size) >= np.array(NOISE)[labels]
    right = rng.gamma(1.2, np.array(HARD)[labels] * N_EPOCHS)
    learnt = np.where(clean, right, rng.gamma(30, N_EPOCHS / 30, labels.size))
    correct = np.arange(N_EPOCHS)[:, None] >= learnt
    correct ^= rng.random(correct.shape) < 0.03
    return RoundBits(labels.size, bitmap.pack(correct)), labels, clean


def kept_of(selection: Selection) -> np.ndarray:
    return bitmap.unpack(selection.bitmap, selection.n_samples)


def f1(kept: np.ndarray, clean: np.ndarray) -> float:
    return float(2 * (kept & clean).sum() / (kept.sum() + clean.sum()))


def test_each_class_has_its_own_noise_rate_and_cut_and_the_set_is_no_worse() -> None:
    bits, labels, clean = recorded()
    common = select([bits])
    selection = select([bits], SelectionOptions(per_class=True), Annotations(labels))
    assert f1(kept_of(selection), clean) >= f1(kept_of(common), clean) - 0.001
    assert [class_cut.label for class_cut in selection.classes] == [0, 1, 2, 3]
    for class_cut, noise in zip(selection.classes[:3], NOISE, strict=False):
        assert class_cut.noise_rate == pytest.approx(noise, abs=0.06)
        assert class_cut.scored == 1500
        assert class_cut.kept == kept_of(selection)[labels == class_cut.label].sum()
        assert not class_cut.floored
    assert len({class_cut.cut for class_cut in selection.classes}) > 1
    assert common.classes == ()
    assert selection.fitted["noise_rate"] is not None
    assert selection.fitted["precision"] is None


def test_a_small_class_borrows_strength() -> None:
    counts = np.random.default_rng(0).multinomial(3000, mixture_of(0.4).densities.sum(axis=0)).astype(float)
    pooled_fit = fit_mixture(counts)
    few = np.zeros_like(counts)
    few[[0, 1, 2]] = 2, 1, 1
    empty, small, large = fit_groups(pooled_fit, np.stack((np.zeros_like(few), few, 500 * few)))
    np.testing.assert_allclose(empty.weights, pooled_fit.weights, atol=1e-4)
    np.testing.assert_allclose(empty.scales, pooled_fit.scales, rtol=1e-3)
    assert pooled_fit.weights[1] > small.weights[1] > large.weights[1]


def mixture_of(noise: float) -> Mixture:
    bins = np.arange(N_EPOCHS + 1)
    counts = (1 - noise) * np.exp(-bins / 3) / 3 + noise * np.exp(-((bins - 27) ** 2) / 8) / 5
    return fit_mixture(1e5 * counts)


def test_f1_cuts_are_the_best_of_all_combinations(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = [mixture_of(0.1), mixture_of(0.5), mixture_of(0.9)]
    counts = np.stack([n * fit.densities.sum(axis=0) for n, fit in zip((100, 1000, 300), fits, strict=True)])
    own = class_cuts.ClassGroups(np.arange(3), counts, counts)
    monkeypatch.setattr(class_cuts, "fit_groups", lambda *_: fits)
    result = cut_classes(own, SelectionOptions(per_class=True), Threshold("f1", 0.0, 3), fits[0], None)
    clean, noisy = (
        np.stack([n * np.cumsum(fit.densities[k]) for n, fit in zip((100, 1000, 300), fits, strict=True)])
        for k in (0, 1)
    )

    def expected(cuts: tuple[int, ...]) -> float:
        right, wrong = clean[range(3), cuts].sum(), noisy[range(3), cuts].sum()
        return float(2 * right / (right + wrong + clean[:, -1].sum()))

    best = max(expected(cuts) for cuts in product(range(31), repeat=3))
    assert expected(tuple(result.cuts.tolist())) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("rule", ["bayes", "posterior", "scale", "precision", "recall", "fraction"])
def test_every_rule_cuts_by_class(rule: Rule) -> None:
    bits, labels, clean = recorded()
    selection = select([bits], SelectionOptions(threshold=rule, target=0.95, per_class=True), Annotations(labels))
    assert f1(kept_of(selection), clean) > (0.75 if rule == "scale" else 0.85)  # which keeps nearly all
    assert [class_cut.cut is not None for class_cut in selection.classes] == [True] * len(SIZES)


def test_a_given_fraction_is_that_of_each_class() -> None:
    bits, labels, _ = recorded()
    options = SelectionOptions(threshold="fraction", fraction=0.5, per_class=True)
    selection = select([bits], options, Annotations(labels))
    shares = [class_cut.kept / class_cut.scored for class_cut in selection.classes]
    assert len(shares) == len(SIZES)
    assert all(0.35 < share <= 0.5 for share in shares[:3])


def test_a_given_value_is_obeyed_whatever_the_floors() -> None:
    bits, labels, _ = recorded()
    plain = SelectionOptions(threshold="value", value=-29.0)
    floored = SelectionOptions(threshold="value", value=-29.0, per_class=True, min_keep_class=0.5)
    by_class = select([bits], floored, Annotations(labels))
    assert np.array_equal(by_class.bitmap, select([bits], plain).bitmap)
    assert [class_cut.kept for class_cut in by_class.classes] == [
        kept_of(by_class)[labels == label].sum() for label in range(4)
    ]


@pytest.mark.parametrize("per_class", [False, True])
def test_a_floor_holds_in_every_class_and_says_where_it_bites(per_class: bool) -> None:
    bits, labels, _ = recorded()
    options = SelectionOptions(min_keep_class=0.6, per_class=per_class)
    selection = select([bits], options, Annotations(labels))
    shares = [class_cut.kept / class_cut.scored for class_cut in selection.classes]
    assert min(shares) >= 0.6
    assert [class_cut.floored for class_cut in selection.classes][:3] == [False, False, True]
    assert selection.summary()["classes"][2]["floored"] is True


def test_where_nothing_is_fitted_everyone_is_kept_and_no_class_has_a_cut() -> None:
    bits = RoundBits(40, bitmap.pack(np.ones((30, 40), dtype=bool)))
    selection = select([bits], SelectionOptions(per_class=True), Annotations(np.arange(40) % 3))
    assert selection.verdict == "insufficient"
    assert [(class_cut.cut, class_cut.noise_rate, class_cut.kept) for class_cut in selection.classes] == [
        (None, None, 14),
        (None, None, 13),
        (None, None, 13),
    ]


def test_hidden_bits_are_fitted_by_class_too() -> None:
    bits, labels, clean = recorded()
    observed = bitmap.pack(np.random.default_rng(1).random((N_EPOCHS, labels.size)) < 0.7)
    hidden = RoundBits(bits.n_samples, bits.correct & observed, observed)
    selection = select([hidden], SelectionOptions(per_class=True), Annotations(labels))
    assert f1(kept_of(selection), clean) > 0.93


def test_labels_that_are_missing_or_of_another_size_are_refused() -> None:
    bits, labels, _ = recorded()
    with pytest.raises(ParameterError, match="per_class needs the given labels"):
        select([bits], SelectionOptions(per_class=True))
    with pytest.raises(ParameterError, match="min_keep_class needs the given labels"):
        select([bits], SelectionOptions(min_keep_class=0.1), Annotations())
    with pytest.raises(ParameterError, match=r"shape \(4519,\)"):
        select([bits], SelectionOptions(per_class=True), Annotations(labels[1:]))


@pytest.mark.parametrize("label", [MAX_LABEL, -MAX_LABEL])
def test_classes_are_the_same_whatever_their_numbers(label: int) -> None:
    bits, labels, _ = recorded()
    options = SelectionOptions(per_class=True)
    classes = select([bits], options, Annotations(labels)).classes
    renumbered = select([bits], options, Annotations(np.where(labels == 3, label, labels))).classes
    expected = [replace(own, label=label if own.label == 3 else own.label) for own in classes]
    assert list(renumbered) == sorted(expected, key=lambda own: own.label)


@pytest.mark.parametrize("label", [2**31, 2**62, 2**64 - 1])
def test_labels_that_are_no_numbers_of_classes_are_refused(label: int) -> None:
    bits, labels, _ = recorded()
    hashed = np.where(labels == 3, np.uint64(label), labels.astype(np.uint64))
    with pytest.raises(ParameterError, match=rf"lie in 0\.\.{label}, numbers in .*; number the classes from 0"):
        select([bits], SelectionOptions(per_class=True), Annotations(hashed))


@pytest.mark.parametrize(("n_samples", "n_read"), [(10_001, 1), (40_000, 3)])
def test_more_classes_than_can_be_fitted_are_refused_before_they_are_counted(
    monkeypatch: pytest.MonkeyPatch, n_samples: int, n_read: int
) -> None:
    """Parts of 12,000 samples with 4,000 classes of their own, or with one class a sample where there is one part."""
    parts_read: list[ArrayPart] = []
    tables: list[tuple[object, ...]] = []

    def read(part: ArrayPart) -> SampleBlock:
        parts_read.append(part)
        return part.block

    def make_tables(labels: NDArray[np.int64], by_bin: Table, by_cell: Table) -> ClassTables:
        tables.append((labels, by_bin, by_cell))
        return ClassTables(labels, by_bin, by_cell)

    one_part = n_samples < 12_000
    labels = np.arange(n_samples) if one_part else np.arange(n_samples) // 3
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(ArrayPart, "read", read)
    monkeypatch.setattr(statistics, "ClassTables", make_tables)
    bits = RoundBits(n_samples, np.zeros((5, bitmap.n_bytes(n_samples)), dtype=np.uint8))
    with pytest.raises(ParameterError, match=r"at least 1\d{4} classes, at most 10000 are fitted; leave out per_class"):
        select([bits], SelectionOptions(per_class=True), Annotations(labels))
    assert len(parts_read) == n_read
    assert len(tables) == (0 if one_part else 4)  # of three parts, and of the first two together
