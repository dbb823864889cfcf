"""Simulated two-Weibull mixtures: whether a fit finds the parameters that drew the scores, and what it costs if not.

usage: python -m benchmarks.recovery [--mixtures 200] [--samples 50000]

Every mixture (`benchmarks/simulated.py`) is drawn both truncated and piled up. The first set has at most half of the
noisy component beyond the last epoch: its parameters are to be found again. The second has more there, which leaves the
noisy scale to guesswork: there the decisions count.

*Regret* is the F1 of the best cut in hindsight minus that of the fit's own: the default rule's, or everyone where the
verdict is `unimodal`. *Floor* is the true parameters' own cut by that rule, and the median error that the Fisher
information allows. Writes ``results/recovery.md``, exits with 1 on a missed bar.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.simulated import MATCHING, Truth, Way, attainable, drawn
from benchmarks.timing import machine
from mild_core import verdict
from mild_core.forgetting import Forgetting
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.mixture.weibull import FAMILIES, TINY, Floats
from mild_core.threshold import find_f1_cut
from mild_core.types import Fit, SelectionOptions

RESULTS = Path(__file__).parent / "results"
SETS: dict[str, tuple[float, float]] = {"at most half": (0.0, 0.5), "more than half": (0.5, 1.0)}
SCALE_BAR, WEIGHT_BAR, REGRET_BAR = 0.03, 0.02, 0.01
FLOOR = "floor"
APART = ((-np.inf, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, np.inf))
DEFAULT: Fit = SelectionOptions().fit
NEVER_FORGOTTEN = Forgetting(n_memorised=1_000_000, n_forgotten=0)
"""A histogram has no order of epochs: clean samples are taken to stay memorised."""


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
    def recovered(self) -> bool:
        """Whether every parameter is within its bar."""
        return within(self.errors)


def within(errors: Sequence[float] | Floats) -> bool:
    clean, noisy, weight = errors
    return bool(max(clean, noisy) <= SCALE_BAR and weight <= WEIGHT_BAR)


def f1_of_cuts(clean_and_noisy: Floats) -> Floats:
    """F1 of keeping bins ``0..cut`` for every cut from -1 on, shape (n_bins + 1,)."""
    kept = np.concatenate((np.zeros((2, 1)), np.cumsum(clean_and_noisy, axis=1)), axis=1)
    scores: Floats = 2 * kept[0] / np.maximum(kept.sum(axis=0) + kept[0, -1], TINY)
    return scores


def decided(fit: Mixture) -> int:
    """The product's own cut."""
    return fit.masses.shape[1] - 1 if verdict.judge_fit(fit, NEVER_FORGOTTEN)[0] == "unimodal" else find_f1_cut(fit)


def fitted(counts: Floats, kind: Fit) -> Mixture:
    """The fit that a selection uses for a kind: with tails only where the fit without them is separable."""
    if kind != "tailed":
        return fit_mixture(counts, kind)
    anchored = fit_mixture(counts, "anchored")
    if verdict.judge_fit(anchored, NEVER_FORGOTTEN)[0] != "separable":
        return anchored
    tailed = fit_mixture(counts, "tailed")
    finds_noise = tailed.weights[1] >= verdict.SINGLE_WEIGHT
    return anchored if finds_noise and verdict.judge_fit(tailed, NEVER_FORGOTTEN)[0] != "separable" else tailed


def cause_of_miss(truth: Truth, way: Way, fit: Mixture, counts: Floats, floor: Sequence[float]) -> str:
    """Why a fit did not find the parameters."""
    if fit.kind == "density" or fit.open_top != truth.mixture(way).open_top:
        return "other likelihood"
    if not within(floor):
        return "too little information"
    at_truth = counts @ np.log(np.maximum(truth.mixture(way).densities.sum(axis=0), TINY))
    if fit.log_likelihood >= at_truth:
        return "sampling error"
    return "bound" if fit.kind in ("anchored", "tailed") else "local optimum"


def outcomes(truth: Truth, way: Way, n_samples: int, rng: np.random.Generator) -> list[Outcome]:
    """The floor and every fit of one histogram."""
    histograms = truth.histograms(way, n_samples, rng)
    counts, scores = histograms.sum(axis=0), f1_of_cuts(histograms)
    ideal, floor = truth.mixture(way), attainable(truth, way, n_samples)

    def outcome(name: str, mixture: Mixture, cut: int, errors: tuple[float, float, float], cause: str) -> Outcome:
        regret = float(scores.max() - scores[cut + 1])
        regret_unjudged = float(scores.max() - scores[find_f1_cut(mixture) + 1])
        return Outcome(truth, verdict.measure_component_distance(ideal), name, errors, regret, regret_unjudged, cause)

    found = [outcome(FLOOR, ideal, find_f1_cut(ideal), floor, "")]
    for kind in get_args(Fit):
        fit = fitted(counts, kind)
        clean, noisy = (float(error) for error in np.abs(fit.scales / ideal.scales - 1))
        errors = (clean, noisy, abs(float(fit.weights[1]) - truth.weight))
        cause = "found" if within(errors) else cause_of_miss(truth, way, fit, counts, floor)
        found.append(outcome(kind, fit, decided(fit), errors, cause))
    return found


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def summary(title: Sequence[str], chosen: Sequence[Outcome]) -> str:
    errors = np.median([o.errors for o in chosen], axis=0)
    regret = np.array([o.regret for o in chosen])
    cells = [f"{error:.3f}" for error in errors]
    cells.append(f"{np.mean([o.recovered for o in chosen]):.0%}")
    cells += [f"{v:.4f}" for v in (regret.mean(), np.median(regret))] + [f"{np.quantile(regret, 0.9):.3f}"]
    cells.append(f"{np.mean([o.regret_unjudged for o in chosen]):.4f}")
    causes = Counter(o.cause for o in chosen if o.cause not in ("", "found"))
    cells.append(", ".join(f"{n} {cause}" for cause, n in causes.most_common()))
    return row([*title, *cells])


Results = dict[tuple[str, Way], list[Outcome]]


def tables(results: Results) -> list[str]:
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
    lines = [row(("beyond the last epoch", "drawn", "fit", *heads)), row(["---"] * 12)]
    for (name, way), found in results.items():
        for fit in (FLOOR, *get_args(Fit)):
            lines.append(summary((name, way, fit), [o for o in found if o.fit == fit]))
    fits = (FLOOR, *get_args(Fit))
    lines += ["", row(("components apart", "drawn", "mixtures", *fits)), row(["---"] * (3 + len(fits)))]
    for low, high in APART:
        for way in MATCHING:
            both = [o for (_, w), found in results.items() if w == way for o in found if low <= o.apart < high]
            means = [np.mean([o.regret for o in both if o.fit == fit]) if both else np.nan for fit in fits]
            n = len(both) // len(fits)
            lines.append(row((f"{low:g} to {high:g}", way, str(n), *(f"{mean:.4f}" for mean in means))))
    return lines


def worst(results: Results, n: int = 10) -> list[str]:
    """Where the default fit loses most beyond what the true parameters would have lost."""
    floors = {(o.truth, way): o.regret for (_, way), found in results.items() for o in found if o.fit == FLOOR}
    lost = [(o.regret - floors[o.truth, way], way, o) for (_, way), found in results.items() for o in found]
    chosen = sorted((item for item in lost if item[2].fit == DEFAULT), key=lambda item: -item[0])[:n]
    heads = ("drawn", "epochs", "weight", "scales, of E", "shapes", "beyond", "apart", "regret", "floor's")
    lines = [row(heads), row(["---"] * len(heads))]
    for excess, way, o in chosen:
        t = o.truth
        scales = " and ".join(f"{scale / t.n_epochs:.2f}" for scale in t.scales)
        numbers = (f"{t.beyond:.2f}", f"{o.apart:.1f}", f"{o.regret:.3f}", f"{o.regret - excess:.3f}")
        shapes = " and ".join(f"{shape:.1f}" for shape in t.shapes)
        lines.append(row((way, str(t.n_epochs), f"{t.weight:.2f}", scales, shapes, *numbers)))
    return lines


def bars(results: Results) -> list[tuple[str, bool]]:
    """Parameters are asked of the fit whose likelihood drew the scores, decisions of the default on both draws."""
    reached = []
    for way, matching in MATCHING.items():
        fit = DEFAULT if FAMILIES[DEFAULT].tops[0] == FAMILIES[matching].tops[0] else matching
        errors = np.median([o.errors for o in results["at most half", way] if o.fit == fit], axis=0)
        figures = ", ".join(f"{error:.3f}" for error in errors)
        reached.append(
            (f"{way}: {fit} finds scales within 3%, weight within 0.02 in the median ({figures})", within(errors))
        )
    for way in MATCHING:
        regret = [o.regret for o in results["more than half", way] if o.fit == DEFAULT]
        for name, value in (("median", np.median(regret)), ("mean", np.mean(regret))):
            reached.append(
                (f"{way}: {DEFAULT}'s {name} regret beyond that <= 0.01 ({value:.4f})", bool(value <= REGRET_BAR))
            )
    return reached


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixtures", type=int, default=200, help="in each of the two sets")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    rng = np.random.default_rng(arguments.seed)
    results: Results = {}
    for name, beyond in SETS.items():
        truths = [drawn(rng, beyond) for _ in range(arguments.mixtures)]
        for way in MATCHING:
            results[name, way] = [o for truth in truths for o in outcomes(truth, way, arguments.samples, rng)]
    reached = bars(results)
    lines = [
        "# Recovery",
        "",
        f"`python -m benchmarks.recovery --mixtures {arguments.mixtures} --samples {arguments.samples} "
        f"--seed {arguments.seed}`, {machine('numpy', 'scipy')}. Errors are medians over the mixtures.",
        "",
        *tables(results),
        "",
        f"Where `{DEFAULT}` loses most beyond the floor:",
        "",
        *worst(results),
        "",
        *(f"- {what}: {'reached' if holds else 'MISSED'}" for what, holds in reached),
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "recovery.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0 if all(holds for _, holds in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
