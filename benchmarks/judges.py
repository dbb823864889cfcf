"""Peers that judge samples by a training's logits, as their authors describe them.

- cleanlab (confident learning, Northcutt et al. 2021): the package itself, with its defaults;
- AUM (Pleiss et al. 2020): margin of the given label over the best other one, averaged over the epochs; a sample is
  mislabelled below the 99th percentile of *threshold samples*, which get the label of an additional class. They are
  N / (classes + 1) of the samples, so it takes two trainings to judge all samples; the first epoch does not count;
- mean loss with a Gaussian mixture: two components on the normalised loss, with the settings of DivideMix (Li et al.
  2020), kept where the posterior of the lower one exceeds one half; averaged over the epochs here, which ranks better;
- wrong events (IDO, Zhang et al. 2025, arXiv 2505.00812): the count of epochs in which a sample was not predicted as
  labelled, which is our score, and a mixture of two beta distributions on it;
- votes of neighbours (SimiFeat, Zhu, Dong and Liu 2022): no training, the labels of the nearest samples.
"""

from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from benchmarks.logits import TRAINING_COST, Logits, Recording, RecordingTrainer, count_cost
from benchmarks.other_mixtures import find_best_cut
from benchmarks.truth import Mask
from mild_core import bitmap
from mild_core.selection import select
from mild_core.types import SelectionOptions
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings

Labels = NDArray[np.int64]
Floats = NDArray[np.floating]
_PERCENTILE = 0.99
_N_NEIGHBOURS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Suspicion of each sample (high is mislabelled), and mask of the kept samples, None if the method only ranks."""

    suspicion: Floats
    kept: Mask | None


def judge_by_selection(recording: Recording, options: SelectionOptions) -> Judgement:
    """Judge by the selection of this project after one round."""
    selection = select([recording.bits], options)
    return Judgement(selection.scores, bitmap.unpack(selection.bitmap, selection.n_samples))


def judge_by_training_pass(settings: TrainSettings, data: Dataset) -> Judgement:
    """Judge by the selection from bits of the training pass, as published; without a second pass epochs are more."""
    longer = replace(settings, epochs=ceil(count_cost(settings) / TRAINING_COST), observe="members")
    return judge_by_selection(RecordingTrainer(longer, data).record(), settings.selection)


def judge_by_cleanlab(logits: Logits, labels: Labels) -> Judgement:
    """Judge by confident learning on one table of logits, shape (n_samples, n_classes)."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = softmax(logits.astype(np.float64), axis=1)
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    return Judgement(-get_label_quality_scores(labels, probabilities), ~issues)


def judge_by_mean_loss(logits: Logits, labels: Labels, seed: int) -> Judgement:
    """Judge by the cross-entropy averaged over the epochs, and a Gaussian mixture on it."""
    losses = average_losses(logits, labels)
    losses = (losses - losses.min()) / max(float(np.ptp(losses)), 1e-12)
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=seed)
    posterior = mixture.fit(losses[:, None]).predict_proba(losses[:, None])
    return Judgement(losses, posterior[:, mixture.means_.argmin()] > 0.5)


def average_losses(logits: Logits, labels: Labels) -> Floats:
    """Average the cross-entropy of the given labels over the epochs, shape (n_samples,)."""
    losses: Floats = -np.take_along_axis(log_softmax(logits, axis=2), labels[None, :, None], axis=2).mean(axis=(0, 2))
    return losses


def keep_lowest(judgement: Judgement, n_kept: int) -> Judgement:
    """Keep the least suspect samples, where the number of right labels is known."""
    kept = np.zeros(judgement.suspicion.size, dtype=bool)
    kept[np.argsort(judgement.suspicion, kind="stable")[:n_kept]] = True
    return Judgement(judgement.suspicion, kept)


def judge_by_margin(logits: Logits, labels: Labels) -> Judgement:
    """Rank by the margin averaged over the epochs."""
    return Judgement(-compute_margins(logits, labels).mean(axis=0), None)


def compute_margins(logits: Logits, labels: Labels) -> Floats:
    """Compute the logit of the given label minus the largest other one, shape (n_epochs, n_samples)."""
    others = logits.copy()
    others[:, np.arange(labels.size), labels] = -np.inf
    margin: Floats = logits[:, np.arange(labels.size), labels] - others.max(axis=2)
    return margin


def draw_threshold_samples(data: Dataset, seed: int) -> NDArray[np.int64]:
    """Draw two disjoint sets of threshold samples at random, shape (2, n_samples // (n_classes + 1))."""
    # A separate stream: label noise is drawn from the bare seed, whose stream would pick the mislabelled first.
    order = np.random.default_rng((seed, 3)).permutation(data.n_samples)
    size = data.n_samples // (data.n_classes + 1)
    return order[: 2 * size].reshape(2, size)


def judge_by_margin_threshold(settings: TrainSettings, data: Dataset) -> Judgement:
    """Judge by AUM with threshold samples: two trainings at the cost of one recorded round (epochs rounded up).

    Labels are not smoothed, as published. The settings' falling learning rate stays: the published constant one cut
    worse on seeds 100 and 101.
    """
    # The published margins come from the training pass, so that no second pass is needed.
    epochs = ceil(count_cost(settings) / (2 * TRAINING_COST))
    shorter = replace(settings, epochs=epochs, observe="members", label_smoothing=0.0)
    areas, suspect = (np.full((2, data.n_samples), np.nan) for _ in range(2))
    for run, thresholds in enumerate(draw_threshold_samples(data, settings.seed)):
        labels = data.y_train.copy()
        labels[thresholds] = data.n_classes
        trainer = RecordingTrainer(shorter, replace(data, y_train=labels, n_classes=data.n_classes + 1))
        area = compute_margins(trainer.record(run).logits[1:], labels).mean(axis=0)
        judged = np.setdiff1d(np.arange(data.n_samples), thresholds)
        areas[run, judged] = area[judged]
        suspect[run, judged] = area[judged] <= np.quantile(area[thresholds], _PERCENTILE)
    # Published: a sample goes if every training that judged it says so.
    return Judgement(-np.nanmean(areas, axis=0), np.nanmin(suspect, axis=0) == 0)


def judge_by_wrong_events(correct: Mask) -> Judgement:
    """Count the epochs in which a sample was not predicted as labelled, and fit two beta distributions to the counts.

    `correct` has the shape (n_epochs, n_samples).
    """
    counts = (~correct).sum(axis=0)
    histogram = np.bincount(counts, minlength=len(correct) + 1).astype(np.float64)
    return Judgement(counts.astype(np.float64), counts <= find_best_cut("beta", histogram))


def judge_by_neighbours(features: Floats, labels: Labels, n_classes: int) -> Judgement:
    """Let the nearest samples by cosine, and the sample itself, vote with their labels, once.

    Samples are ranked by the cosine of their votes and their label (SimiFeat-R), and kept where no other label has more
    votes than theirs (SimiFeat-V).
    """
    nearest = NearestNeighbors(n_neighbors=_N_NEIGHBOURS, metric="cosine").fit(features.astype(np.float32))
    neighbours = nearest.kneighbors(return_distance=False)
    votes = np.zeros((len(labels), n_classes))
    np.add.at(votes, (np.arange(len(labels))[:, None], labels[neighbours]), 1.0)
    votes[np.arange(len(labels)), labels] += 1
    own = votes[np.arange(len(labels)), labels]
    return Judgement(-own / np.linalg.norm(votes, axis=1), own == votes.max(axis=1))
