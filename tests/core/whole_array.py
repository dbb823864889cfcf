"""Reference for the statistics of a selection: the same numbers by their definitions, on whole arrays of booleans."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.partial_observation import compute_hypergeometric_pmf
from mild_core.scores import EPSILON, score_samples
from mild_core.types import RoundBits, SelectionOptions

Mask = NDArray[np.bool_]
Counts = NDArray[np.integer]
Floats = NDArray[np.float64]


@dataclass
class WholeArray:
    """What `judgement.FitData` holds, with bin -1 where nothing is scored, and `learning` as `_count_learning`."""

    by_bin: Floats
    by_cell: Floats
    likelihood: Floats | None
    bins: Counts
    n_partial: int
    lowest: float
    n_unobserved: int
    n_planted: int
    late: tuple[int, int]
    n_hard: int
    planted_counts: Counts | None
    learning: tuple[Counts, Counts, int, int, int, int]
    classes: tuple[Counts, Floats, Floats] | None


def count_whole_array(
    rounds: Sequence[RoundBits], options: SelectionOptions, annotations: Annotations, early: int = 0
) -> WholeArray:
    """Count all samples at once; `early` says how often every round is cut to its first quarter."""
    planted_rounds = [place for place, bits in enumerate(rounds) if bits.planted is not None and bits.planted.any()]
    all_rounds = [_cut(bits, early) for bits in rounds]
    rounds = all_rounds if options.evidence == "pooled" else all_rounds[-1:]
    scores = score_samples(rounds, options.metric)
    scored, n_bins = scores.scored, scores.grid.n_bins
    bins = np.full(scored.size, -1)
    bins[scored] = scores.bins
    is_partial = scores.coverage[scored] <= 1 - EPSILON
    cells, n_cells, likelihood = scores.bins, n_bins, None
    if is_partial.any() and options.metric == "mild-simple":
        k = _round_to_levels(np.maximum(np.rint(scores.coverage[scored] * (n_bins - 1)), 1))
        y = np.rint((scores.values[scored] / scores.n_epochs + 1) / 2 * k)
        pairs, cells = np.unique(np.stack((k, y), axis=1).astype(np.int64), axis=0, return_inverse=True)
        likelihood = compute_hypergeometric_pmf(pairs[:, 1:], n_bins - 1, np.arange(n_bins)[None], pairs[:, :1])
        n_cells = len(pairs)
    hard = scored & (score_samples(rounds, "mild-simple").values > EPSILON)
    late_memorised, late_observed = np.sum([_count_last_quarter(bits, hard) for bits in rounds], axis=0)
    forgetting = np.sum([_count_forgetting(bits) * _members(bits) for bits in rounds], axis=0)
    audit = annotations.audit or Audit.empty(scored.size)
    columns = np.stack((np.ones(scored.size), *forgetting, *_mark_columns(audit)))[:, scored]
    classes = None
    if annotations.labels is not None:
        labels, position = np.unique(annotations.labels[scored], return_inverse=True)
        counts, cell_counts = np.zeros((labels.size, n_bins)), np.zeros((labels.size, n_cells))
        np.add.at(counts, (position, scores.bins), 1)
        np.add.at(cell_counts, (position, cells), 1)
        classes = labels, counts, cell_counts
    planted_counts = None
    if planted_rounds:
        planted = score_samples([all_rounds[planted_rounds[0]]], options.metric)
        bins_of_both = (planted.bins, planted.planted_bins)
        planted_counts = np.stack([np.bincount(some, minlength=planted.grid.n_bins) for some in bins_of_both])
    return WholeArray(
        by_bin=np.stack([np.bincount(scores.bins, column, n_bins) for column in columns]),
        by_cell=np.stack([np.bincount(cells, column, n_cells) for column in columns]),
        likelihood=likelihood,
        bins=bins,
        n_partial=int(is_partial.sum()),
        lowest=scores.values[scored].min(initial=np.inf),
        n_unobserved=int(scores.unobserved.sum()),
        n_planted=0 if scores.planted is None else int(scores.planted.sum()),
        late=(late_memorised, late_observed),
        n_hard=int(hard.sum()),
        planted_counts=planted_counts,
        learning=_count_learning(rounds[-1]),
        classes=classes,
    )


def _cut(bits: RoundBits, early: int) -> RoundBits:
    """Leave out the epochs in which no sample was observed, and then all but the first quarter, 7 at least."""
    is_observed = _unpack(bits)[1].any(axis=1)
    taken = np.flatnonzero(is_observed | (bits.observed is None))
    for _ in range(early):
        taken = taken[: max(-(-taken.size // 4), 7)]
    return replace(bits, correct=bits.correct[taken], observed=None if bits.observed is None else bits.observed[taken])


def _unpack(bits: RoundBits) -> tuple[Mask, Mask]:
    """Whether samples were memorised, and observed, in every epoch, shape (n_epochs, n_samples) each."""
    correct = bitmap.unpack(bits.correct, bits.n_samples)
    return correct, np.ones_like(correct) if bits.observed is None else bitmap.unpack(bits.observed, bits.n_samples)


def _members(bits: RoundBits) -> Mask:
    return bitmap.unpack(bitmap.full(bits.n_samples) if bits.members is None else bits.members, bits.n_samples)


def _count_forgetting(bits: RoundBits) -> Counts:
    """Count what `Forgetting` does of every sample, shape (2, n_samples)."""
    correct, observed = (rows[bits.n_epochs // 2 :] for rows in _unpack(bits))
    pairs = correct[:-1] & observed[1:]
    return np.stack((pairs.sum(axis=0), (pairs & ~correct[1:]).sum(axis=0)))


def _count_last_quarter(bits: RoundBits, samples: Mask) -> tuple[int, int]:
    """Count the epochs in which members among some samples are memorised, and observed, in the last quarter."""
    start = bits.n_epochs - -(-bits.n_epochs // 4)
    correct, observed = (rows[start:, samples & _members(bits)] for rows in _unpack(bits))
    return int(correct.sum()), int(observed.sum())


def _count_learning(bits: RoundBits) -> tuple[Counts, Counts, int, int, int, int]:
    """Count `LearningCounts` in the order of its fields; of `n_known`, the last quarter of the epochs, 3 at least."""
    own = _members(bits) if bits.planted is None else _members(bits) & ~bitmap.unpack(bits.planted, bits.n_samples)
    correct, observed = (rows[:, own] for rows in _unpack(bits))
    is_seen, is_hard = observed.any(axis=0), 2 * correct.sum(axis=0) < observed.sum(axis=0)
    n_memorised, n_forgotten = _count_forgetting(bits)[:, own][:, is_hard].sum(axis=1)
    n_unlearnt = int((is_seen & ~correct.any(axis=0)).sum())
    last = slice(-max(-(-bits.n_epochs // 4), 3), None)
    n_known, n_observed = correct.sum(axis=1)[last], observed.sum(axis=1)
    return n_known, n_observed, n_unlearnt, int(is_seen.sum()), n_memorised, n_forgotten


def _mark_columns(audit: Audit) -> tuple[Mask, ...]:
    """Return who is known as clean, as mislabelled, was drawn, and was drawn and is mislabelled."""
    (checked, clean), drawn = audit.masks, audit.random_mask
    wrong = checked & ~clean
    return clean, wrong, drawn, drawn & wrong


def _round_to_levels(k: Floats) -> Floats:
    """Round numbers of observed epochs to the nearest of 16 levels where there are more, ties to the lower."""
    levels = np.unique(k)
    levels = levels if levels.size <= 16 else np.unique(np.linspace(levels[0], levels[-1], 16).round())
    nearest: Floats = levels[np.abs(k[:, None] - levels).argmin(axis=1)]
    return nearest
