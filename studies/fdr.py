"""Coverage of error control by a random audit, simulated on the recorded trainings.

usage: python -m studies.fdr [--draws 200] [--half judging|choosing] [--everything] [--out DIR]
       python -m studies.fdr --http [--draws 50] [--out DIR]

On every recording, and on every pass of it that sees all samples: repeated uniform audits of 100 and of 300 samples
among those that are observed and not planted, and what `threshold=fdr` and the bounds of precision and recall state
after them. The truth is known, so the table says how often a statement holds. ``--half`` takes one half of the
recordings, ``--everything`` lists every recording. With ``--http`` a real service draws and states, on three recordings
(`studies.fdr_http`). Both write ``results/fdr.md``, each one its own part.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import Benchmark, Claim, Report, claim_none
from benchmarks.record_families import FAMILIES
from benchmarks.recordings import FOLDER, HALVES, ROUNDS, Half, Recording, load_recordings
from benchmarks.selection import Trace, sequences
from benchmarks.serving import start_service, start_store
from mild_client import MildClient
from mild_core.guarantee import UPPER_ERROR, bound_quality, conformal_cut, limit_undrawn_wrong, limit_wrong
from mild_core.scores import score_samples
from studies import fdr_http

Counts = NDArray[np.int64]

AUDIT_SIZES = (100, 300)
ALPHAS = (0.05, 0.1, 0.2)
COVERAGE_BAR = 0.9
MOSTLY_EMPTY = 0.9
REPEATS = 20
"""Where coverage is below its bar, this many times as many new draws tell a fault from bad luck: limits that are exact
hold in hardly more than 90%, and the lowest of thousands of figures from 200 draws each is below that."""
WIDTH_BAR = 0.15
WIDTH_SHARE = (0.04, 0.06)
"""True shares of wrong labels at which the width of the precision bound is measured: about 5%."""


@dataclass(frozen=True, slots=True)
class Row:
    """Results of one recording, one size of the audit and one alpha."""

    name: str
    noise: float
    n_drawn: int
    alpha: float
    share: float
    two_errors: float
    empty: float
    share_given_set: float
    above_alpha: float
    recall: float
    f1: float
    upper_holds: float
    pointwise_holds: float
    upper_given_set: float
    mean_upper: float


@dataclass(frozen=True, slots=True)
class BoundRow:
    """How often the bounds of precision and recall held on one recording with one size of the audit."""

    name: str
    n_drawn: int
    joint: float
    precision: float
    recall: float
    width: float | None
    repeated: bool = False


def simulate(trace: Trace, n_drawn: int, n_draws: int) -> tuple[list[Row], BoundRow]:
    """Simulate audits; where coverage is below its bar, take its figures from `REPEATS` times as many new draws."""
    rows, bound_row = simulate_draws(trace, n_drawn, n_draws)
    if min(bound_row.joint, *(row.upper_holds for row in rows)) >= COVERAGE_BAR:
        return rows, bound_row
    repeated, bound_row = simulate_draws(trace, n_drawn, n_draws * REPEATS, seed=1)
    upper_holds = [row.upper_holds for row in repeated]
    return [replace(row, upper_holds=holds) for row, holds in zip(rows, upper_holds, strict=True)], replace(
        bound_row, repeated=True
    )


def simulate_draws(trace: Trace, n_drawn: int, n_draws: int, seed: int = 0) -> tuple[list[Row], BoundRow]:
    """Draw audits of `n_drawn` samples, and compare every statement with the truth."""
    scores = score_samples(trace.rounds, "mild-simple").values[trace.judged]
    is_wrong = ~trace.clean[trace.judged]
    values, level = np.unique(scores.round(6), return_inverse=True)
    kept = np.cumsum(np.bincount(level, minlength=values.size))
    wrong_kept = np.cumsum(np.bincount(level, is_wrong, minlength=values.size)).astype(np.int64)
    rng = np.random.default_rng((crc32(trace.name.encode()), n_drawn, seed))
    draws = np.argpartition(rng.random((n_draws, level.size)), n_drawn, axis=1)[:, :n_drawn]
    drawn, wrong = (_count_by_cut(level[draws], weight, values.size) for weight in (None, is_wrong[draws]))
    limits = limit_undrawn_wrong(kept, drawn, wrong)
    rows = [_measure_cut(trace.name, kept, wrong_kept, drawn, wrong, alpha, limits) for alpha in ALPHAS]
    return rows, _measure_bounds(trace.name, kept, wrong_kept, drawn, wrong)


def _count_by_cut(levels: Counts, weights: NDArray[np.bool_] | None, n_cuts: int) -> Counts:
    """Count the samples up to every cut, shape (n_draws, n_cuts)."""
    n_draws = levels.shape[0]
    flat = (levels + np.arange(n_draws)[:, None] * n_cuts).ravel()
    counts = np.bincount(flat, None if weights is None else weights.ravel(), minlength=n_draws * n_cuts)
    return np.cumsum(counts.reshape(n_draws, n_cuts), axis=1).astype(np.int64)


def _measure_cut(
    name: str, kept: Counts, wrong_kept: Counts, drawn: Counts, wrong: Counts, alpha: float, limits: Counts
) -> Row:
    cut = conformal_cut(kept, drawn, wrong, alpha)
    empty = cut < 0
    last = np.where(empty, kept.size - 1, cut)  # where no cut reaches alpha, all samples are kept
    rows = np.arange(cut.size)
    size, n_wrong_drawn = kept[last] - drawn[rows, last], wrong[rows, last]
    n_wrong = wrong_kept[last] - n_wrong_drawn
    share = np.where(empty, 0.0, n_wrong / size)
    upper = limits[rows, last] / size
    pointwise = limit_wrong(kept[last], drawn[rows, last], n_wrong_drawn, UPPER_ERROR)
    n_clean = kept[-1] - wrong_kept[-1]
    right_of_drawn = drawn[:, -1] - wrong[:, -1]
    kept_clean = np.where(empty, 0, size - n_wrong + right_of_drawn)  # drawn samples follow their mark
    f1 = 2 * kept_clean / (np.where(empty, 0, size + right_of_drawn) + n_clean)
    upper_holds = n_wrong <= limits[rows, last]
    return Row(
        name=name,
        noise=float(wrong_kept[-1] / kept[-1]),
        n_drawn=int(drawn[0, -1]),
        alpha=alpha,
        share=float(share.mean()),
        two_errors=float(2 * share.std(ddof=1) / np.sqrt(share.size)),
        empty=float(empty.mean()),
        share_given_set=float(share[~empty].mean()) if not empty.all() else float("nan"),
        above_alpha=float((share > alpha).mean()),
        recall=float((kept_clean / max(n_clean, 1)).mean()),
        f1=float(f1.mean()),
        upper_holds=float(upper_holds.mean()),
        pointwise_holds=float((wrong_kept[last] <= pointwise).mean()),
        upper_given_set=float(upper_holds[~empty].mean()) if not empty.all() else float("nan"),
        mean_upper=float(upper.mean()),
    )


def _measure_bounds(name: str, kept: Counts, wrong_kept: Counts, drawn: Counts, wrong: Counts) -> BoundRow:
    precision, recall = bound_quality(kept, drawn, wrong)
    n_clean = kept[-1] - wrong_kept[-1]
    true_precision = (kept - wrong_kept) / kept
    precision_holds = (precision <= true_precision + 1e-12).all(axis=1)
    recall_holds = (recall <= (kept - wrong_kept) / max(n_clean, 1) + 1e-12).all(axis=1)
    share = 1 - true_precision
    low, high = WIDTH_SHARE
    near = np.flatnonzero((share >= low) & (share <= high) & (3 * kept >= kept[-1]))
    width = None
    if near.size:
        at = near[np.argmin(np.abs(share[near] - 0.05))]
        width = float(1 - precision[:, at].mean())
    return BoundRow(
        name=name,
        n_drawn=int(drawn[0, -1]),
        joint=float((precision_holds & recall_holds).mean()),
        precision=float(precision_holds.mean()),
        recall=float(recall_holds.mean()),
        width=width,
    )


def load_traces(half: Half | None) -> list[Trace]:
    """Load the recordings of one round, of several rounds, and of the families."""
    return sequences([each for folder in (FOLDER, ROUNDS, FAMILIES) for each in load_recordings(half, folder)])


def list_claims(rows: Sequence[Row], bound_rows: Sequence[BoundRow]) -> list[Claim]:
    claims = []
    for alpha, n_drawn in product(ALPHAS, AUDIT_SIZES):
        alike = [row for row in rows if row.alpha == alpha and row.n_drawn == n_drawn]
        above = [row.name for row in alike if row.share > alpha + row.two_errors]
        claims.append(claim_none(f"alpha {alpha:g}, n = {n_drawn}: mean shares above alpha + 2 s.e.", above))
    least, joint = min(rows, key=lambda row: row.upper_holds), min(bound_rows, key=lambda row: row.joint)
    text = f"`upper` holds, least on {least.name} (n = {least.n_drawn}, alpha {least.alpha:g})"
    claims.append(Claim(text, least.upper_holds, "at least", COVERAGE_BAR, "{:.3f}"))
    text = f"bounds are jointly right, least on {joint.name} (n = {joint.n_drawn})"
    claims.append(Claim(text, joint.joint, "at least", COVERAGE_BAR, "{:.3f}"))
    text = f"n = {AUDIT_SIZES[-1]}: width of the precision bound, largest"
    width = max(_list_widths(bound_rows, AUDIT_SIZES[-1]), default=0.0)
    return [*claims, Claim(text, width, "at most", WIDTH_BAR, "{:.3f}")]


def _list_widths(bound_rows: Sequence[BoundRow], n_drawn: int) -> list[float]:
    return [row.width for row in bound_rows if row.n_drawn == n_drawn and row.width is not None]


def format_rows(rows: Sequence[Row], bound_rows: Sequence[BoundRow], everything: bool) -> list[str]:
    """Format the tables, of every recording or of those with the largest shares."""
    n_repeated = sum(row.repeated for row in bound_rows)
    widths = {n: _list_widths(bound_rows, n) for n in AUDIT_SIZES}
    lines = [
        *(
            f"n = {n}: width of the precision bound {min(widths[n], default=0.0):.3f} to "
            f"{max(widths[n], default=0.0):.3f} on {len(widths[n])} recordings."
            for n in AUDIT_SIZES
        ),
        "",
        "Share: of wrong labels among the kept samples that were not drawn, averaged over the draws, an empty set",
        "counting as 0. Recall and F1 count an empty set as 0, too; in the product all are kept there and `holds` is",
        "false. `upper` holds: in this share of the draws, all being kept where no cut reaches alpha. Width: 1",
        "less the mean lower bound of precision, where 4% to 6% of the kept are wrong and a third or more is kept.",
        f"Where `upper` or the bounds held in under {COVERAGE_BAR:.0%} of the draws, {n_repeated} of {len(bound_rows)}",
        f"times, both are of {REPEATS} times as many new draws: an exact limit holds in hardly more than 90%, and the",
        "lowest of so many figures is below that by chance.",
        "",
        "## All sequences",
        "",
        "| n | alpha | mean share, largest | P(empty), mean | P(share > alpha), largest | recall, mean | F1, mean "
        "| `upper` holds, least | the same given a set | one cut's limit holds, least |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_format_summary(rows, n, alpha) for n in AUDIT_SIZES for alpha in ALPHAS),
        "",
        f"Given a set: where {1 - MOSTLY_EMPTY:.0%} or more of the draws give one. The promise is of all draws",
        "together.",
        "The last column is why `upper` is not the exact limit of the one cut: the same answers chose that cut.",
        "",
    ]
    for alpha in ALPHAS:
        pairs = _list_pairs(rows, alpha, everything)
        lines += [
            f"## alpha = {alpha:g}" + ("" if everything else ", the largest shares"),
            "",
            "Pairs are of n = 100 and n = 300; an audit is smaller than its data set.",
            "",
            "| sequence | noise | mean share | P(empty) | given a set | P(> alpha) | recall | F1 | `upper` holds "
            "| bounds hold | width |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_format_pair(pair, [row for row in bound_rows if row.name == pair[0].name]) for pair in pairs),
            "",
        ]
    return lines


def _list_pairs(rows: Sequence[Row], alpha: float, everything: bool) -> list[list[Row]]:
    """List the rows of one alpha by recording: all of them, or those with the largest shares."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if row.alpha == alpha:
            by_name.setdefault(row.name, []).append(row)
    pairs = list(by_name.values())
    if everything:
        return pairs
    return sorted(pairs, key=lambda pair: -max(row.share for row in pair))[:10]


def _format_summary(rows: Sequence[Row], n_drawn: int, alpha: float) -> str:
    alike = [row for row in rows if row.n_drawn == n_drawn and row.alpha == alpha]
    return (
        f"| {n_drawn} | {alpha:g} | {max(row.share for row in alike):.3f} | {np.mean([r.empty for r in alike]):.2f} "
        f"| {max(row.above_alpha for row in alike):.2f} | {np.mean([row.recall for row in alike]):.3f} "
        f"| {np.mean([row.f1 for row in alike]):.3f} | {min(row.upper_holds for row in alike):.3f} "
        f"| {min(row.upper_given_set for row in alike if row.empty <= MOSTLY_EMPTY):.3f} "
        f"| {min(row.pointwise_holds for row in alike):.3f} |"
    )


def _format_pair(pair: Sequence[Row], bound_pair: Sequence[BoundRow]) -> str:
    columns: list[list[float | None]] = [
        [row.share for row in pair],
        [row.empty for row in pair],
        [None if np.isnan(row.share_given_set) else row.share_given_set for row in pair],
        [row.above_alpha for row in pair],
        [row.recall for row in pair],
        [row.f1 for row in pair],
        [row.upper_holds for row in pair],
        [row.joint for row in bound_pair],
        [row.width for row in bound_pair],
    ]
    cells = (", ".join("-" if value is None else f"{value:.3f}" for value in column) for column in columns)
    return f"| {pair[0].name} | {pair[0].noise:.3f} | {' | '.join(cells)} |"


def measure(options: Namespace) -> Report | int:
    if options.http:
        return _run_through_http(options)
    n_draws = options.draws or 200
    traces = load_traces(options.half or None)
    results = [simulate(trace, n, n_draws) for trace in traces for n in AUDIT_SIZES if trace.judged.sum() > n]
    rows, bound_rows = [row for rows, _ in results for row in rows], [row for _, row in results]
    page = f"fdr-{options.half}" if options.half else "fdr"
    path = options.out / f"{page}.md"
    _, heading, through_http = (path.read_text() if path.exists() else "").partition(fdr_http.HEADING)
    text = [*format_rows(rows, bound_rows, options.everything), heading + through_http]
    about = f"{len({row.name for row in rows})} sequences, {n_draws} draws of each size on each."
    title = "Error control by a random audit: how often it holds"
    return Report(title, list_claims(rows, bound_rows), about, text, page=page)


def _run_through_http(options: Namespace) -> int:
    """Let a real service draw and state; replace the last section of the page."""
    with start_store() as embedded, start_service(embedded.url) as service, MildClient(service.url) as client:
        recordings = map(Recording.load, fdr_http.PATHS)
        rows = [fdr_http.collect_statements(client, recording, options.draws or 50) for recording in recordings]
    text = fdr_http.format_report(rows, STUDY.format_command(options))
    path: Path = options.out / "fdr.md"
    simulated = (path.read_text() if path.exists() else "").partition(fdr_http.HEADING)[0]
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text((f"{simulated.rstrip()}\n\n" if simulated else "") + text)
    print(text)
    return int(any(row.missed_bars for row in rows))


STUDY = Benchmark(
    "fdr",
    "docs/method.md#bounded-a-random-audit",
    measure,
    options={"draws": 0, "http": False, "half": "", "everything": False},
    packages=("numpy", "scipy"),
    choices={"half": HALVES},
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
