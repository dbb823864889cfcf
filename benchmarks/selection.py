"""Decisions on recorded sequences: what each way to choose makes of them, beside the best threshold in hindsight.

Every recording of `benchmarks.recordings`, each pass on its own: F1 of the kept set (planted samples left out, whose
own label that round says nothing of) and its gap to the best threshold that someone who knows the truth would have
taken on the same scores. Beside the default stand the project's other fits and other people's ways, all on the same
counts of misclassified epochs. Writes ``selection.json``, too. The default was chosen on the choosing half (seed 0)
alone; ``--half choosing --out FOLDER`` is of that.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import Benchmark, Claim, Report, claim_none, format_table
from benchmarks.other_mixtures import FAMILIES, find_best_cut
from benchmarks.recordings import Recording, load_recordings
from benchmarks.truth import best_f1, f1
from mild_core import bitmap
from mild_core.results import Selection
from mild_core.scores import score_samples
from mild_core.selection import select
from mild_core.types import Metric, RoundBits, SelectionOptions

MEAN_GAP_BAR, WORST_GAP_BAR = 0.0125, 0.1
MIN_EPOCHS = 8
"""Fewer give no fit, by design: everyone is kept."""
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Trace:
    """One recording through one pass, and everything that a way to choose may look at.

    Attributes
    ----------
    name
        Of the recording, with ``/train`` behind it for the training pass.
    rounds
        Its evidence.
    clean, judged
        Shape (n_samples,): whose label is right, and whose own label there is evidence of.
    """

    name: str
    rounds: tuple[RoundBits, ...]
    clean: NDArray[np.bool_]
    judged: NDArray[np.bool_]

    def f1(self, kept: NDArray[np.bool_]) -> float:
        """F1 of a set, among those whose own label there is evidence of."""
        return f1(kept & self.judged, self.clean & self.judged)

    def hindsight(self) -> float:
        """F1 of the best threshold on the default's scores."""
        scores = score_samples(self.rounds, "mild-simple").values[self.judged]
        return best_f1(scores, self.clean[self.judged])


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one sequence: F1 by way to choose, and the default's verdict, estimates and truth."""

    name: str
    noise: float
    hindsight: float
    verdict: str
    f1: dict[str, float]
    fitted: dict[str, tuple[float, float, float] | None]
    truth: dict[str, float]


def sequences(recorded: Sequence[Recording]) -> list[Trace]:
    found = []
    for recording in recorded:
        passes = [(recording.name, recording.evidence())]
        if len(recording.rounds) == 1:  # the training pass of a later round sees its members alone
            passes.append((f"{recording.name}/train", recording.evidence("correct_train")))
        for name, rounds in passes:
            judged = score_samples(rounds, "mild-simple").scored
            found.append(Trace(name, rounds, recording.is_clean, judged))
    return found


Way = Callable[[Trace], NDArray[np.bool_]]


def _ours(**options: object) -> Way:
    def way(sequence: Trace) -> NDArray[np.bool_]:
        chosen = select(sequence.rounds, SelectionOptions(**options))  # type: ignore[arg-type]  # names and values below
        return bitmap.unpack(chosen.bitmap, chosen.n_samples)

    return way


def _without_planted(sequence: Trace) -> NDArray[np.bool_]:
    bare = [RoundBits(r.n_samples, r.correct, members=r.members) for r in sequence.rounds]
    return bitmap.unpack(select(bare).bitmap, sequence.clean.size)


def _everything(sequence: Trace) -> NDArray[np.bool_]:
    return sequence.judged


def _half(sequence: Trace) -> NDArray[np.bool_]:
    """The lower half by score, ties broken by index: the fixed fraction that many papers take."""
    return _lowest(sequence, "mild-simple", 0.5)


def _forgetting(sequence: Trace) -> NDArray[np.bool_]:
    """Toneva et al. 2019 drop the most forgotten; their share is the user's, here the half again."""
    return _lowest(sequence, "forgetting", 0.5)


def _lowest(sequence: Trace, metric: Metric, share: float) -> NDArray[np.bool_]:
    values = np.where(sequence.judged, score_samples(sequence.rounds, metric).values, np.inf)
    kept = np.zeros(values.size, dtype=bool)
    kept[np.argsort(values, kind="stable")[: round(share * sequence.judged.sum())]] = True
    return kept


def _mixture(family: str) -> Way:
    def way(sequence: Trace) -> NDArray[np.bool_]:
        scores = score_samples(sequence.rounds, "mild-simple")
        counts = np.bincount(scores.bins, minlength=scores.grid.n_bins).astype(np.float64)
        return scores.scored & (scores.values <= scores.grid.get_cut_value(find_best_cut(family, counts)) + 1e-6)

    return way


WAYS: dict[str, Way] = {
    DEFAULT: _ours(),
    "default, planted noise ignored": _without_planted,
    "bayes cut": _ours(threshold="bayes"),
    "anchored": _ours(fit="anchored"),
    "grouped": _ours(fit="grouped", threshold="bayes"),
    "censored": _ours(fit="censored", threshold="bayes"),
    "density, as published": _ours(fit="density", threshold="scale"),
    **{f"{family} mixture": _mixture(family) for family in FAMILIES},
    "keep everything": _everything,
    "keep half": _half,
    "forgetting, half": _forgetting,
}


def judge(sequence: Trace) -> Row:
    chosen = select(sequence.rounds)
    kept = bitmap.unpack(chosen.bitmap, chosen.n_samples) & sequence.judged
    clean = sequence.clean & sequence.judged
    noise = float(1 - clean.sum() / sequence.judged.sum())
    truth = {
        "noise_rate": noise,
        "precision": float((kept & clean).sum() / max(kept.sum(), 1)),
        "recall": float((kept & clean).sum() / max(clean.sum(), 1)),
    }
    return Row(
        name=sequence.name,
        noise=noise,
        hindsight=sequence.hindsight(),
        verdict=chosen.verdict,
        f1={name: sequence.f1(way(sequence)) for name, way in WAYS.items()},
        fitted=_intervals(chosen),
        truth=truth,
    )


def _intervals(chosen: Selection) -> dict[str, tuple[float, float, float] | None]:
    return {
        name: None if estimate is None else (estimate.value, estimate.low, estimate.high)
        for name, estimate in chosen.fitted.items()
    }


def coverage(rows: Sequence[Row], quantity: str) -> tuple[int, int]:
    """Intervals that cover the truth, and intervals given."""
    given = [(row.fitted[quantity], row.truth[quantity]) for row in rows]
    covered = [interval[1] - 1e-9 <= truth <= interval[2] + 1e-9 for interval, truth in given if interval is not None]
    return sum(covered), len(covered)


def gaps(rows: Sequence[Row], way: str) -> NDArray[np.float64]:
    return np.array([row.hindsight - row.f1[way] for row in rows])


def claim(rows: Sequence[Row]) -> list[Claim]:
    ours = gaps(rows, DEFAULT)
    rivals = [w for w in WAYS if w not in (DEFAULT, "default, planted noise ignored", "bayes cut", "anchored")]
    best = min(gaps(rows, way).mean() for way in rivals)
    claims = [
        Claim("F1 lost to the best cut in hindsight, mean", ours.mean(), "at most", MEAN_GAP_BAR, "{:.4f}"),
        Claim("the same, most", ours.max(), "at most", WORST_GAP_BAR, "{:.3f}"),
        Claim("the mean, of the best other way's", ours.mean() / best, "below", 1, "{:.2f} x"),
    ]
    for quantity in ("noise_rate", "precision", "recall"):
        covered, given = coverage(rows, quantity)
        text = f"intervals of the fitted {quantity.replace('_', ' ')} that cover the truth"
        claims.append(Claim(text, covered / max(given, 1), "at least", 0.9, "{:.0%}"))
    for what, noise in (("labels that are all random", "symmetric-1.0"), ("right labels", "none")):
        alike = [row for row in rows if row.name.split("_")[1] == noise]
        separated = [row.name for row in alike if row.verdict == "separable"]
        claims.append(claim_none(f"{what} called `separable`, of {len(alike)}", separated))
    return claims


def describe(row: Row) -> tuple[str, ...]:
    interval = row.fitted["noise_rate"]
    noise = "" if interval is None else f"{interval[0]:.3f} ({interval[1]:.3f} to {interval[2]:.3f})"
    ours, everything = row.f1[DEFAULT], row.f1["keep everything"]
    figures = (row.noise, row.hindsight, ours, row.hindsight - ours, everything)
    return (row.name, *(f"{figure:.3f}" for figure in figures), row.verdict, noise)


def measure(options: Namespace) -> Report:
    recorded = load_recordings(options.half)
    traces = [trace for trace in sequences(recorded) if trace.rounds[0].n_epochs >= MIN_EPOCHS]
    rows = [judge(trace) for trace in traces]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "selection.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    abstained = sum(row.fitted["noise_rate"] is None for row in rows)
    about = (
        f"{len(rows)} sequences of the {options.half} half. The recordings were made by `python -m benchmarks.record` "
        "on 2 CPU cores with torch 2.13. Names say the data, the noise, the epochs, the rounds, a long tail, hard "
        "labels (no smoothing), hardly any augmentation (plain), planted noise; the half is the seed's. `/train` is "
        "the training pass, the others are an evaluation pass. The default gives no estimate of the noise rate in "
        f"{abstained}."
    )
    ways = [
        (way, f"{gap.mean():.4f}", f"{np.median(gap):.4f}", f"{gap.max():.3f}", int((gap > 0.05).sum()))
        for way, gap in ((way, gaps(rows, way)) for way in WAYS)
    ]
    heads = ("sequence", "noise", "hindsight", "default", "gap", "keep everything", "verdict", "noise rate estimated")
    text = [
        *format_table(("way to choose", "mean gap in F1", "median", "worst", "gaps above 0.05"), ways),
        "",
        *format_table(heads, map(describe, rows)),
    ]
    return Report("Decisions on recorded sequences", claim(rows), about, text)


BENCHMARK = Benchmark(
    "selection",
    "docs/method.md#the-cut",
    measure,
    options={"half": "judging"},
    packages=("numpy",),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
