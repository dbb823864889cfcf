"""Simulated two-Weibull mixtures: whether a fit recovers the true parameters, and the loss if it does not.

Every mixture (`benchmarks/simulation.py`) is drawn both truncated and piled up. The first set has at most half of the
noisy component beyond the last epoch: its parameters are to be found again. The second has more there, which leaves the
noisy scale to guesswork: there the decisions count.

*Regret* is the F1 of the best cut in hindsight minus that of the fit's cut: by the default rule, or keeping all samples
where the verdict is `unimodal`. *Floor* is the cut of the true parameters by that rule, and the median error that the
Fisher information allows.
"""

import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.simulation import MATCHING, Truth, Way, compute_attainable_errors, draw_truth
from mild_core import verdict
from mild_core.forgetting import Forgetting
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import FAMILIES, TINY, Floats
from mild_core.threshold import find_f1_cut
from mild_core.types import Fit, SelectionOptions

SETS: dict[str, tuple[float, float]] = {"at most half": (0.0, 0.5), "more than half": (0.5, 1.0)}
SCALE_BAR, WEIGHT_BAR, REGRET_BAR = 0.03, 0.02, 0.01
FLOOR = "floor"
APART = ((-np.inf, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, np.inf))
DEFAULT: Fit = SelectionOptions().fit
NEVER_FORGOTTEN = Forgetting(n_memorised=1_000_000, n_forgotten=0)
"""A histogram has no order of epochs: clean samples are assumed to stay memorised."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fit of one histogram.

    Errors are of the clean scale, of the noisy scale (both relative) and of the weight; `apart` is the distance of the
    true components in standard deviations; `regret_unjudged` (in the table: unjudged) is that of the cut
    whatever the verdict.
    """

    truth: Truth
    apart: float
    fit: str
    errors: tuple[float, float, float]
    regret: float
    regret_unjudged: float
    cause: str

    @property
    def is_recovered(self) -> bool:
        """Whether every parameter is within its bar."""
        return is_within_bars(self.errors)


def is_within_bars(errors: Sequence[float] | Floats) -> bool:
    clean, noisy, weight = errors
    return bool(max(clean, noisy) <= SCALE_BAR and weight <= WEIGHT_BAR)


def compute_f1_of_cuts(clean_and_noisy: Floats) -> Floats:
    """Compute the F1 of keeping bins ``0..cut`` for every cut from -1 on, shape (n_bins + 1,)."""
    kept = np.concatenate((np.zeros((2, 1)), np.cumsum(clean_and_noisy, axis=1)), axis=1)
    scores: Floats = 2 * kept[0] / np.maximum(kept.sum(axis=0) + kept[0, -1], TINY)
    return scores


def find_cut(fit: Mixture) -> int:
    """Find the cut that a selection makes by a fit."""
    return fit.masses.shape[1] - 1 if verdict.judge_fit(fit, NEVER_FORGOTTEN)[0] == "unimodal" else find_f1_cut(fit)


def fit_counts(counts: Floats, kind: Fit) -> Mixture:
    """Fit as a selection does for a kind: with tails only where the fit without them is separable."""
    if kind != "tailed":
        return fit_mixture(counts, kind)
    anchored = fit_mixture(counts, "anchored")
    if verdict.judge_fit(anchored, NEVER_FORGOTTEN)[0] != "separable":
        return anchored
    tailed = fit_mixture(counts, "tailed")
    finds_noise = tailed.weights[1] >= verdict.SINGLE_WEIGHT
    return anchored if finds_noise and verdict.judge_fit(tailed, NEVER_FORGOTTEN)[0] != "separable" else tailed


def find_cause(truth: Truth, way: Way, fit: Mixture, counts: Floats, floor: Sequence[float]) -> str:
    """Find why a fit did not recover the parameters."""
    if fit.kind == "density" or fit.open_top != truth.make_mixture(way).open_top:
        return "other likelihood"
    if not is_within_bars(floor):
        return "too little information"
    at_truth = counts @ np.log(np.maximum(truth.make_mixture(way).densities.sum(axis=0), TINY))
    if fit.log_likelihood >= at_truth:
        return "sampling error"
    return "bound" if fit.kind in ("anchored", "tailed") else "local optimum"


def measure_outcomes(truth: Truth, way: Way, n_samples: int, rng: np.random.Generator) -> list[Outcome]:
    """Measure the floor and every fit of one histogram."""
    histograms = truth.draw_histograms(way, n_samples, rng)
    counts, scores = histograms.sum(axis=0), compute_f1_of_cuts(histograms)
    ideal, floor = truth.make_mixture(way), compute_attainable_errors(truth, way, n_samples)

    def make_outcome(name: str, mixture: Mixture, cut: int, errors: tuple[float, float, float], cause: str) -> Outcome:
        regret = float(scores.max() - scores[cut + 1])
        regret_unjudged = float(scores.max() - scores[find_f1_cut(mixture) + 1])
        return Outcome(truth, verdict.measure_component_distance(ideal), name, errors, regret, regret_unjudged, cause)

    outcomes = [make_outcome(FLOOR, ideal, find_f1_cut(ideal), floor, "")]
    for kind in get_args(Fit):
        fit = fit_counts(counts, kind)
        clean, noisy = (float(error) for error in np.abs(fit.scales / ideal.scales - 1))
        errors = (clean, noisy, abs(float(fit.weights[1]) - truth.weight))
        cause = "found" if is_within_bars(errors) else find_cause(truth, way, fit, counts, floor)
        outcomes.append(make_outcome(kind, fit, find_cut(fit), errors, cause))
    return outcomes


def summarise(title: Sequence[str], outcomes: Sequence[Outcome]) -> list[str]:
    errors = np.median([o.errors for o in outcomes], axis=0)
    regret = np.array([o.regret for o in outcomes])
    cells = [f"{error:.3f}" for error in errors]
    cells.append(f"{np.mean([o.is_recovered for o in outcomes]):.0%}")
    cells += [f"{v:.4f}" for v in (regret.mean(), np.median(regret))] + [f"{np.quantile(regret, 0.9):.3f}"]
    cells.append(f"{np.mean([o.regret_unjudged for o in outcomes]):.4f}")
    causes = Counter(o.cause for o in outcomes if o.cause not in ("", "found"))
    cells.append(", ".join(f"{n} {cause}" for cause, n in causes.most_common()))
    return [*title, *cells]


Results = dict[tuple[str, Way], list[Outcome]]


def format_tables(results: Results) -> list[str]:
    heads = (
        "scale of clean",
        "of noisy",
        "weight",
        "found",
        "regret, mean",
        "median",
        "90%",
        "mean, whatever the verdict",
        "misses",
    )
    fits = (FLOOR, *get_args(Fit))
    summaries = [
        summarise((name, way, fit), [o for o in outcomes if o.fit == fit])
        for (name, way), outcomes in results.items()
        for fit in fits
    ]
    rows = []
    for low, high in APART:
        for way in MATCHING:
            both = [o for (_, w), outcomes in results.items() if w == way for o in outcomes if low <= o.apart < high]
            means = [np.mean([o.regret for o in both if o.fit == fit]) if both else np.nan for fit in fits]
            n = len(both) // len(fits)
            rows.append((f"{low:g} to {high:g}", way, str(n), *(f"{mean:.4f}" for mean in means)))
    return [
        *format_table(("beyond the last epoch", "drawn", "fit", *heads), summaries),
        "",
        *format_table(("components apart", "drawn", "mixtures", *fits), rows),
    ]


def format_worst(results: Results, n: int = 10) -> list[str]:
    """Format the cases in which the default fit loses most relative to the true parameters."""
    floors = {(o.truth, way): o.regret for (_, way), outcomes in results.items() for o in outcomes if o.fit == FLOOR}
    lost = [(o.regret - floors[o.truth, way], way, o) for (_, way), outcomes in results.items() for o in outcomes]
    outcomes = sorted((item for item in lost if item[2].fit == DEFAULT), key=lambda item: -item[0])[:n]
    heads = ("drawn", "epochs", "weight", "scales, of E", "shapes", "beyond", "apart", "regret", "floor's")
    rows = []
    for excess, way, o in outcomes:
        t = o.truth
        scales = " and ".join(f"{scale / t.n_epochs:.2f}" for scale in t.scales)
        numbers = (f"{t.beyond:.2f}", f"{o.apart:.1f}", f"{o.regret:.3f}", f"{o.regret - excess:.3f}")
        shapes = " and ".join(f"{shape:.1f}" for shape in t.shapes)
        rows.append((way, str(t.n_epochs), f"{t.weight:.2f}", scales, shapes, *numbers))
    return format_table(heads, rows)


def list_claims(results: Results) -> list[Claim]:
    """List claims of parameters by the fit with the likelihood of the draw, and of decisions by the default fit."""
    claims = []
    for way, matching in MATCHING.items():
        fit = DEFAULT if FAMILIES[DEFAULT].tops[0] == FAMILIES[matching].tops[0] else matching
        clean, noisy, weight = np.median([o.errors for o in results["at most half", way] if o.fit == fit], axis=0)
        text = f"drawn {way}, `{fit}` finds the {{}}, median error"
        claims.append(Claim(text.format("scales"), max(clean, noisy), "at most", SCALE_BAR, "{:.1%}"))
        claims.append(Claim(text.format("weight"), weight, "at most", WEIGHT_BAR, "{:.3f}"))
    for way in MATCHING:
        regret = [o.regret for o in results["more than half", way] if o.fit == DEFAULT]
        for name, value in (("median", np.median(regret)), ("mean", np.mean(regret))):
            text = f"drawn {way}, more than half beyond the last epoch: {name} F1 that `{DEFAULT}` loses"
            claims.append(Claim(text, float(value), "at most", REGRET_BAR, "{:.4f}"))
    return claims


def measure(options: Namespace) -> Report:
    rng = np.random.default_rng(options.seed)
    results: Results = {}
    for name, beyond in SETS.items():
        truths = [draw_truth(rng, beyond) for _ in range(options.mixtures)]
        for way in MATCHING:
            results[name, way] = [o for truth in truths for o in measure_outcomes(truth, way, options.samples, rng)]
    text = [*format_tables(results), "", f"Where `{DEFAULT}` loses most beyond the floor:", "", *format_worst(results)]
    return Report("Recovery", list_claims(results), "Errors are medians over the mixtures.", text)


BENCHMARK = Benchmark(
    "recovery",
    "docs/method.md#fitted-the-mixture",
    measure,
    options={"mixtures": 200, "samples": 50_000, "seed": 0},
    short={"mixtures": 30},
    packages=("numpy", "scipy"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
