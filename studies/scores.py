"""The scores of clean and of mislabelled samples: full and simplified metric, distributions, and which family fits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, TypeAlias, get_args

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

from benchmarks.truth import auc, best_f1, f1
from mild_core import bitmap
from mild_core.mixture.mixture import fit_mixture
from mild_core.scores import score_samples
from mild_core.selection import select
from mild_core.types import Fit, Metric, SelectionOptions
from mild_trainer.settings import TrainSettings
from studies.grouped_families import FAMILIES, compute_fit, fit_one, fit_two
from studies.programme import Case, Inputs, Line, Row, format_judged, format_table, save_plot
from studies.trainings import (
    DATA_POINTER,
    SMALL,
    RecordedTraining,
    get_seed,
    load_case,
    make_cases,
    make_settings,
    record_training,
)

TITLE = "The metric, its distribution, and the family that fits"
SIMPLE: Metric = "mild-simple"
METRICS: tuple[Metric, ...] = get_args(Metric)
FITS: tuple[Fit, ...] = get_args(Fit)
NOISES = (
    *("symmetric:0.2", "symmetric:0.4", "symmetric:0.6", "symmetric:0.8", "asymmetric:0.4", "pairflip:0.2"),
    *("pairflip:0.4", "instance:0.4", "human:aggre", "human:worse"),
)
DRAWN_NOISES = ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4", "human:worse")
POPULATIONS = ("clean", "mislabelled")
_LIKELIHOOD_GAP = 0.01
"""Nats per sample of held-out samples from which a family is said to be behind another."""
_TEXT = f"""{DATA_POINTER} `mlp`: one hidden layer on the features. One round,
everyone observed; planted samples are left out.

### Full and simplified metric

`mild` is the paper's full metric, `mild-simple` the simplified one, which is the default. AUC and F1 of the best cut
are of the ranking alone, F1 of the set is of the selection by its defaults. Means over seeds. A row is lost, and in
bold, where the full metric has the better F1 of the set.
"""
_TEST_TEXT = """
Wilcoxon's signed-rank test, two-sided, over data and noises, the seeds of which are averaged; r is the rank-biserial
correlation of the pairs, from -1 (always worse than `mild-simple`) to 1.

"""
_FAMILY_TEXT = """### Distributions of the scores, and the family that fits

The plot shows the number of misclassified epochs of clean and of mislabelled samples (first seed), the components of
the default fit, and its cut.

A family is fitted to a random half of the samples and judged by the other half, both ways: log-likelihood per sample in
nats, relative to the best family of that line, and Pearson's chi-square per degree of freedom, where 1 is what sampling
alone gives. All are fitted by the probability of each count's interval, cut off at 0 and E + 1, with two parameters a
component. *clean* and *mislabelled*: one distribution for each population, told apart by the true labels.
*mixture*: two components for all samples, which know no label; `tailed`, the default, and `anchored` are Weibulls with
bounds and tails that were chosen by decisions, not by likelihood.
"""

Result: TypeAlias = Mapping[str, Any]


def list_cases(inputs: Inputs) -> list[Case]:
    """List one training for each noise, data set and network."""
    if inputs.profile == "gpu":
        return make_cases(inputs, (), 3, (*NOISES, "human:noisy"), model=("resnet34",))
    return [
        *make_cases(inputs, ("lite2",), 5, NOISES, model=("linear",)),
        *make_cases(inputs, ("lite2",), 3, NOISES, model=("mlp",)),
        *make_cases(inputs, ("lite0",), 3, NOISES, model=("linear",)),
        *make_cases(inputs, ("digits",), 3, NOISES, model=("resnet8",)),
        *make_cases(inputs, ("digits",), 2, NOISES, model=("resnet20",)),
        *make_cases(inputs, (SMALL,), 2, NOISES, model=("resnet8",)),
    ]


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the settings of one round with the network of a case."""
    return (make_settings(case, rounds=1, model=case["model"]),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train one round; compare the metrics, and fit every family to halves of the samples."""
    training = record_training(*list_settings(case), load_case(case, inputs))
    own, clean = training.own, training.clean[training.own]
    values = {metric: score_samples(training.rounds, metric).values[own] for metric in METRICS}
    kept = {
        metric: bitmap.unpack(select(training.rounds, SelectionOptions(metric=metric)).bitmap, len(own))[own]
        for metric in (SIMPLE, "mild")
    }
    n_epochs = training.rounds[0].n_epochs
    bins = _count_misclassified(training)
    cut = training.selections[0].threshold.cut
    return {
        "noise_rate": round(float((~clean).mean()), 4),
        "auc": {metric: round(auc(scores, clean), 4) for metric, scores in values.items()},
        "best_f1": {metric: round(best_f1(scores, clean), 4) for metric, scores in values.items()},
        "f1": {metric: round(f1(mask, clean), 4) for metric, mask in kept.items()},
        "verdict": training.selections[0].verdict,
        "cut": cut,
        "counts": {
            name: np.bincount(bins[mask], minlength=n_epochs + 1).tolist()
            for name, mask in zip(POPULATIONS, (clean, ~clean), strict=True)
        },
        "fits": judge_families(bins, clean, n_epochs, get_seed(case)),
    }


def _count_misclassified(training: RecordedTraining) -> NDArray[np.int64]:
    """Count the epochs of round 0 in which each sample that is not planted was misclassified, shape (n_own,)."""
    scores = score_samples(training.rounds[:1], SIMPLE)
    return np.rint((scores.values[training.own] + scores.n_epochs) / 2).astype(np.int64)


def judge_families(
    bins: NDArray[np.int64], clean: NDArray[np.bool_], n_epochs: int, seed: int
) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Return log-likelihood, chi-square and degrees of freedom of each family for each population and the mixture."""
    is_first = np.random.default_rng((seed, 11)).random(bins.size) < 0.5
    results: dict[str, dict[str, tuple[float, float, int]]] = {}
    for name, mask in ((POPULATIONS[0], clean), (POPULATIONS[1], ~clean), ("mixture", np.ones_like(clean))):
        halves = [
            np.bincount(bins[mask & part], minlength=n_epochs + 1).astype(np.float64) for part in (is_first, ~is_first)
        ]
        if min(half.sum() for half in halves) < 50:
            continue
        names = [*FAMILIES, *(FITS if name == "mixture" else ())]
        results[name] = {family: _judge_family(family, halves, is_mixture=name == "mixture") for family in names}
    return results


def _judge_family(family: str, halves: Sequence[NDArray[np.float64]], *, is_mixture: bool) -> tuple[float, float, int]:
    """Fit a family to each half and judge it by the other one; chi-squares and degrees add up."""
    fits = []
    for counts, other in (halves, halves[::-1]):
        if family not in FAMILIES:
            mixture = fit_mixture(counts, family)  # type: ignore[arg-type]  # one of FITS
            masses = (1 - 1e-6) * mixture.weights @ mixture.masses + 1e-6 / counts.size
        else:
            masses = fit_two(family, counts) if is_mixture else fit_one(family, counts)[1]
        fits.append(compute_fit(other, masses))
    likelihoods, squares, degrees = zip(*fits, strict=True)
    return round(fmean(likelihoods), 5), round(sum(squares), 2), sum(degrees)


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the comparison of the metrics with its test, plots of the distributions, and how well families fit."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for row in rows:
        groups.setdefault((f"{row.case['data']} {row.case['model']}", str(row.case["noise"])), []).append(row.result)
    plot = save_plot(_draw_scores(groups), images / "results-scores.svg")
    metrics, tests, families = _format_metrics(groups), _format_tests(groups), _format_families(groups)
    parts = (_TEXT, metrics, _TEST_TEXT, tests, _FAMILY_TEXT, plot, families)
    return "\n".join(parts)


Groups = Mapping[tuple[str, str], Sequence[Result]]
"""Results by data with network and by noise, one for each seed."""
_MEASURES: Mapping[str, str] = MappingProxyType({"auc": "AUC", "best_f1": "F1 of the best cut", "f1": "F1 of the set"})


def _mean(results: Sequence[Result], measure: str, metric: Metric) -> float:
    return fmean(result[measure][metric] for result in results)


def _format_metrics(groups: Groups) -> str:
    lines = []
    for (data, noise), results in groups.items():
        gains = {measure: _mean(results, measure, SIMPLE) - _mean(results, measure, "mild") for measure in _MEASURES}
        cells = [f"{_mean(results, measure, metric):.3f}" for measure in _MEASURES for metric in (SIMPLE, "mild")]
        lines.append(Line(f"{data}, {noise}", [str(len(results)), *cells], gains["f1"], _explain_gains(gains)))
    heads = [f"{name}, {metric}" for name in _MEASURES.values() for metric in ("simple", "full")]
    return format_judged(("data, network, noise", "seeds", *heads), lines)


def _explain_gains(gains: Mapping[str, float]) -> str:
    """Return why the set of the simplified metric has a lower F1 than that of the full one; empty if it has not."""
    if gains["f1"] >= 0:
        return ""
    is_ranking = gains["best_f1"] < gains["f1"] / 2
    cause = "the full metric ranks better" if is_ranking else "the fit to the full metric cuts at a better place"
    return f"F1 by {-gains['f1']:.4f}, at the best cut by {-gains['best_f1']:.4f}: {cause}"


def _format_tests(groups: Groups) -> str:
    """Return the paired tests of all other metrics over all conditions, and of the full one for each data set."""
    conditions = list(groups)
    lines = [_format_test(metric, "all", groups, conditions) for metric in METRICS if metric != SIMPLE]
    for data in dict.fromkeys(data for data, _ in conditions):
        lines.append(_format_test("mild", data, groups, [key for key in conditions if key[0] == data]))
    for kind in dict.fromkeys(noise.partition(":")[0] for _, noise in conditions):
        lines.append(_format_test("mild", kind, groups, [key for key in conditions if key[1].startswith(f"{kind}:")]))
    heads = [f"{name}{column}" for name in _MEASURES.values() for column in ("", ": better in", ": p", ": r")]
    return format_table(("metric against `mild-simple`", "over", "pairs", *heads), lines)


def _format_test(metric: Metric, title: str, groups: Groups, conditions: Sequence[tuple[str, str]]) -> list[str]:
    cells = [f"`{metric}`", title, str(len(conditions))]
    for measure in _MEASURES:
        if metric not in groups[conditions[0]][0][measure]:
            cells += ["-"] * 4
            continue
        gains = np.array(
            [_mean(groups[key], measure, metric) - _mean(groups[key], measure, SIMPLE) for key in conditions]
        )
        p, effect = compare_pairs(gains)
        cells += [f"{gains.mean():+.4f}", str(int((gains > 0).sum())), f"{p:.2g}", f"{effect:+.2f}"]
    return cells


def compare_pairs(gains: NDArray[np.float64]) -> tuple[float, float]:
    """Return the p-value of Wilcoxon's signed-rank test and the rank-biserial correlation; 1 and 0 without a change."""
    nonzero = gains[gains != 0]
    if not nonzero.size:
        return 1.0, 0.0
    ranks = rankdata(np.abs(nonzero))
    return float(wilcoxon(nonzero).pvalue), float((ranks * np.sign(nonzero)).sum() / ranks.sum())


def _format_families(groups: Groups) -> str:
    """Return how well each family fits, a line for each data set and population, and the findings in words."""
    parts, findings = [], []
    for population in (*POPULATIONS, "mixture"):
        lines, gaps = [], dict[str, list[float]]()
        for data in dict.fromkeys(data for data, _ in groups):
            fits = [
                result["fits"][population]
                for (name, _), results in groups.items()
                if name == data
                for result in results
                if population in result["fits"]
            ]
            if not fits:
                continue
            families = list(fits[0])
            behind = {
                family: [fit[family][0] - max(value[0] for value in fit.values()) for fit in fits]
                for family in families
            }
            squares = {
                family: sum(fit[family][1] for fit in fits) / max(1, sum(fit[family][2] for fit in fits))
                for family in families
            }
            for family in families:
                gaps.setdefault(family, []).extend(behind[family])
            cells = [f"{fmean(behind[family]):+.3f}, {squares[family]:.1f}" for family in families]
            lines.append([data, str(len(fits)), *cells])
        if lines:
            best = max(gaps, key=lambda family: fmean(gaps[family]))
            findings.append(_describe_population(population, gaps, best))
            heads = (f"{population}: data, network", "trainings", *gaps)
            parts.append(format_table(heads, lines))
    return "\n".join([*findings, "", *parts])


def _describe_population(population: str, gaps: Mapping[str, Sequence[float]], best: str) -> str:
    """Return which family fits a population best, and how often the Weibull is behind, in one sentence."""
    n_behind = sum(gap < -_LIKELIHOOD_GAP for gap in gaps["Weibull"])
    text = (
        f"- *{population}*: {best} is nearest to the best fit in the mean ({fmean(gaps[best]):+.3f} nats a sample); "
        f"the Weibull ({fmean(gaps['Weibull']):+.3f}) is more than {_LIKELIHOOD_GAP:g} behind the best in {n_behind} "
        f"of {len(gaps['Weibull'])} trainings"
    )
    if "tailed" in gaps:
        text += f", and the default fit `tailed` is {-fmean(gaps['tailed']):.3f} behind in the mean"
    return f"{text}."


def _draw_scores(groups: Groups) -> Figure:
    """Draw histograms of the first seed with the fitted mixture, a row for each data set, a column for each noise."""
    titles = [
        data for data in dict.fromkeys(data for data, _ in groups) if data not in ("lite2 mlp", "digits resnet20")
    ]
    noises = [noise for noise in DRAWN_NOISES if any(key[1] == noise for key in groups)]
    noises = noises or list(dict.fromkeys(noise for _, noise in groups))[:4]
    figure = Figure(figsize=(3.2 * len(noises), 2.2 * len(titles)), layout="constrained")
    panels = figure.subplots(len(titles), len(noises), squeeze=False)
    for position, data in enumerate(titles):
        for column, noise in enumerate(noises):
            axes = panels[position, column]
            if (data, noise) not in groups:
                axes.set_axis_off()
                continue
            result = groups[data, noise][0]
            counts = {name: np.array(result["counts"][name], dtype=np.float64) for name in POPULATIONS}
            z, total = np.arange(counts["clean"].size), counts["clean"] + counts["mislabelled"]
            axes.bar(z, counts["clean"], width=0.9, color="#2a9d8f", alpha=0.6, label="clean")
            axes.bar(
                z,
                counts["mislabelled"],
                width=0.9,
                bottom=counts["clean"],
                color="#e76f51",
                alpha=0.6,
                label="mislabelled",
            )
            for density, colour in zip(fit_mixture(total, "tailed").densities, ("#12564f", "#9c3115"), strict=True):
                axes.plot(z, density * total.sum(), color=colour, linewidth=1.5)
            if result["cut"] is not None:
                axes.axvline(result["cut"] + 0.5, color="black", linestyle="--", linewidth=1)
            axes.set_title(f"{data}, {noise}: {result['verdict']}", fontsize=8)
            axes.tick_params(labelsize=7)
    panels[0, 0].legend(fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("misclassified epochs", fontsize=8)
    return figure
