"""Coverage of error control by a random audit, simulated on the recorded trainings.

usage: python -m studies.fdr [--draws 200] [--half judging|choosing] [--everything] [--out DIR]
       python -m studies.fdr --http [--draws 50] [--out DIR]

On every recording, and on every pass of it that sees all samples: repeated uniform audits of 100 and of 300 samples
among those that are observed and not planted, and what `threshold=fdr` and the bounds of precision and recall make of
them. Truth is known, so the table says how often a statement holds. With ``--http`` a real service draws and states, on
three recordings (`studies.fdr_http`). Writes ``results/fdr.md``, of which each of the two keeps the other's part;
exits with 1 where a bar is missed.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from benchmarks.record_families import FAMILIES
from benchmarks.recordings import FOLDER, ROUNDS, Recording, recordings
from benchmarks.selection import Trace, sequences
from benchmarks.serving import service, store
from benchmarks.timing import machine
from mild_client import MildClient
from mild_core.guarantee import UPPER_ERROR, bound_quality, conformal_cut, limit_undrawn_wrong, limit_wrong
from mild_core.scores import score_samples
from studies import fdr_http

RESULTS = Path(__file__).parent / "results"
Counts = NDArray[np.int64]

AUDIT_SIZES = (100, 300)
ALPHAS = (0.05, 0.1, 0.2)
COVERAGE_BAR = 0.9
MOSTLY_EMPTY = 0.9
REPEATS = 20
"""Where coverage is below its bar, this many times as many draws, new ones, tell a fault from bad luck: limits that are
exact hold in hardly more than 90%, and the lowest of thousands of figures from 200 draws each is below that."""
WIDTH_BAR = 0.15
WIDTH_SHARE = (0.04, 0.06)
"""True shares of wrong labels at which the width of the precision bound is measured: about 5%."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one recording, one size of the audit and one alpha."""

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
    """What the bounds of precision and recall were worth on one recording with one size of the audit."""

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
    """Draw audits of `n_drawn` samples, and hold every statement against the truth."""
    scores = score_samples(trace.rounds, "mild-simple").values[trace.judged]
    is_wrong = ~trace.clean[trace.judged]
    values, level = np.unique(scores.round(6), return_inverse=True)
    kept = np.cumsum(np.bincount(level, minlength=values.size))
    wrong_kept = np.cumsum(np.bincount(level, is_wrong, minlength=values.size)).astype(np.int64)
    rng = np.random.default_rng((crc32(trace.name.encode()), n_drawn, seed))
    draws = np.argpartition(rng.random((n_draws, level.size)), n_drawn, axis=1)[:, :n_drawn]
    drawn, wrong = (_count_by_cut(level[draws], weight, values.size) for weight in (None, is_wrong[draws]))
    rows = [
        _row(trace.name, kept, wrong_kept, drawn, wrong, alpha, upper_limits)
        for upper_limits in (limit_undrawn_wrong(kept, drawn, wrong),)
        for alpha in ALPHAS
    ]
    return rows, _bound_row(trace.name, kept, wrong_kept, drawn, wrong)


def _count_by_cut(levels: Counts, weights: NDArray[np.bool_] | None, n_cuts: int) -> Counts:
    """Samples up to every cut, shape (n_draws, n_cuts)."""
    n_draws = levels.shape[0]
    flat = (levels + np.arange(n_draws)[:, None] * n_cuts).ravel()
    counts = np.bincount(flat, None if weights is None else weights.ravel(), minlength=n_draws * n_cuts)
    return np.cumsum(counts.reshape(n_draws, n_cuts), axis=1).astype(np.int64)


def _row(
    name: str, kept: Counts, wrong_kept: Counts, drawn: Counts, wrong: Counts, alpha: float, limits: Counts
) -> Row:
    cut = conformal_cut(kept, drawn, wrong, alpha)
    empty = cut < 0
    everyone = np.where(empty, kept.size - 1, cut)  # where no cut reaches alpha, everyone is kept
    rows = np.arange(cut.size)
    size, found = kept[everyone] - drawn[rows, everyone], wrong[rows, everyone]
    n_wrong = wrong_kept[everyone] - found
    share = np.where(empty, 0.0, n_wrong / size)
    upper = limits[rows, everyone] / size
    pointwise = limit_wrong(kept[everyone], drawn[rows, everyone], found, UPPER_ERROR)
    n_clean = kept[-1] - wrong_kept[-1]
    right_of_drawn = drawn[:, -1] - wrong[:, -1]
    kept_clean = np.where(empty, 0, size - n_wrong + right_of_drawn)  # drawn samples follow their mark
    f1 = 2 * kept_clean / (np.where(empty, 0, size + right_of_drawn) + n_clean)
    upper_holds = n_wrong <= limits[rows, everyone]
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
        pointwise_holds=float((wrong_kept[everyone] <= pointwise).mean()),
        upper_given_set=float(upper_holds[~empty].mean()) if not empty.all() else float("nan"),
        mean_upper=float(upper.mean()),
    )


def _bound_row(name: str, kept: Counts, wrong_kept: Counts, drawn: Counts, wrong: Counts) -> BoundRow:
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


def traces(half: int | None) -> list[Trace]:
    """All recordings: those of one round, of several rounds, and of the families."""
    return sequences([each for folder in (FOLDER, ROUNDS, FAMILIES) for each in recordings(half, folder)])


def bars(rows: Sequence[Row], bound_rows: Sequence[BoundRow]) -> list[tuple[str, str, bool]]:
    """Bar, what was measured, and whether it holds."""
    measured = []
    for alpha in ALPHAS:
        for n_drawn in AUDIT_SIZES:
            alike = [row for row in rows if row.alpha == alpha and row.n_drawn == n_drawn]
            worst = max(alike, key=lambda row: row.share)
            above = [row.name for row in alike if row.share > alpha + row.two_errors]
            measured.append(
                (
                    f"alpha {alpha:g}, n = {n_drawn}: mean share at most alpha + 2 s.e. on each",
                    f"{worst.share:.3f} at most ({worst.name}); above: {', '.join(above) or 'none'}",
                    not above,
                )
            )
    least = min(rows, key=lambda row: row.upper_holds)
    measured.append(
        (
            "`upper` holds in 90% on each",
            f"{least.upper_holds:.3f} at least ({least.name}, n = {least.n_drawn}, alpha {least.alpha:g}); "
            f"{sum(row.repeated for row in bound_rows)} of {len(bound_rows)} with {REPEATS} times as many draws",
            least.upper_holds >= COVERAGE_BAR,
        )
    )
    joint = min(bound_rows, key=lambda row: row.joint)
    measured.append(
        (
            "bounds jointly right in 90% on each",
            f"{joint.joint:.3f} at least ({joint.name}, n = {joint.n_drawn})",
            joint.joint >= COVERAGE_BAR,
        )
    )
    for n_drawn in AUDIT_SIZES:
        widths = [row.width for row in bound_rows if row.n_drawn == n_drawn and row.width is not None]
        largest = max(widths, default=0.0)
        bar = f"at most {WIDTH_BAR}" if n_drawn == max(AUDIT_SIZES) else "reported"
        measured.append(
            (
                f"n = {n_drawn}: width of the precision bound, {bar}",
                f"{min(widths, default=0.0):.3f} to {largest:.3f} on {len(widths)} recordings",
                largest <= WIDTH_BAR or n_drawn != max(AUDIT_SIZES),
            )
        )
    return measured


def report(
    rows: Sequence[Row], bound_rows: Sequence[BoundRow], command: str, n_draws: int, everything: bool = False
) -> str:
    n_traces = len({row.name for row in rows})
    lines = [
        "# Error control by a random audit: how often it holds",
        "",
        f"`{command}`, {machine('numpy', 'scipy')}; {n_traces} sequences, {n_draws} draws of each size on each.",
        "",
        *(f"- {bar}: {value}: {'reached' if holds else 'MISSED'}" for bar, value, holds in bars(rows, bound_rows)),
        "",
        "Share: of wrong labels among the kept samples that were not drawn, averaged over the draws, an empty set",
        "counting as 0. Recall and F1 count an empty set as 0, too; in the product everyone is kept there and `holds`",
        "is false. `upper` holds: in this share of the draws, everyone being kept where no cut reaches alpha. Width: 1",
        "less the mean lower bound of precision, where 4% to 6% of the kept are wrong and a third or more is kept.",
        f"Where `upper` or the bounds held in under {COVERAGE_BAR:.0%} of the draws, both are of {REPEATS} times as",
        "many new draws: an exact limit holds in hardly more than 90%, and the lowest of so many figures is below that",
        "by chance.",
        "",
        "## All sequences",
        "",
        "| n | alpha | mean share, largest | P(empty), mean | P(share > alpha), largest | recall, mean | F1, mean "
        "| `upper` holds, least | the same given a set | one cut's limit holds, least |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_summary_line(rows, n, alpha) for n in AUDIT_SIZES for alpha in ALPHAS),
        "",
        f"Given a set: where {1 - MOSTLY_EMPTY:.0%} or more of the draws give one. The promise is of all draws",
        "together.",
        "The last column is why `upper` is not the exact limit of the one cut: the same answers chose that cut.",
        "",
    ]
    for alpha in ALPHAS:
        listed = _listed(rows, alpha, everything)
        lines += [
            f"## alpha = {alpha:g}" + ("" if everything else ", the largest shares"),
            "",
            "Pairs are of n = 100 and n = 300; an audit is smaller than its data set.",
            "",
            "| sequence | noise | mean share | P(empty) | given a set | P(> alpha) | recall | F1 | `upper` holds "
            "| bounds hold | width |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_line(pair, [row for row in bound_rows if row.name == pair[0].name]) for pair in listed),
            "",
        ]
    return "\n".join(lines)


def _listed(rows: Sequence[Row], alpha: float, everything: bool) -> list[list[Row]]:
    """Rows of one alpha by recording: all of them, or those with the largest shares."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if row.alpha == alpha:
            by_name.setdefault(row.name, []).append(row)
    pairs = list(by_name.values())
    if everything:
        return pairs
    return sorted(pairs, key=lambda pair: -max(row.share for row in pair))[:10]


def _summary_line(rows: Sequence[Row], n_drawn: int, alpha: float) -> str:
    alike = [row for row in rows if row.n_drawn == n_drawn and row.alpha == alpha]
    return (
        f"| {n_drawn} | {alpha:g} | {max(row.share for row in alike):.3f} | {np.mean([r.empty for r in alike]):.2f} "
        f"| {max(row.above_alpha for row in alike):.2f} | {np.mean([row.recall for row in alike]):.3f} "
        f"| {np.mean([row.f1 for row in alike]):.3f} | {min(row.upper_holds for row in alike):.3f} "
        f"| {min(row.upper_given_set for row in alike if row.empty <= MOSTLY_EMPTY):.3f} "
        f"| {min(row.pointwise_holds for row in alike):.3f} |"
    )


def _line(pair: Sequence[Row], bound_pair: Sequence[BoundRow]) -> str:
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, help="audits of each size on each recording; 200, with --http 50")
    parser.add_argument("--http", action="store_true", help="through a real service, on three recordings")
    parser.add_argument("--half", choices=("choosing", "judging"), help="one half of the recordings; without it all")
    parser.add_argument("--everything", action="store_true", help="list every recording")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.http:
        return _run_through_http(arguments.draws, arguments.out / "fdr.md")
    n_draws = arguments.draws or 200
    half = None if arguments.half is None else ("choosing", "judging").index(arguments.half)
    results = [simulate(trace, n, n_draws) for trace in traces(half) for n in AUDIT_SIZES if trace.judged.sum() > n]
    rows, bound_rows = [row for of_one, _ in results for row in of_one], [row for _, row in results]
    command = "python -m studies.fdr" + (f" --half {arguments.half}" if arguments.half else "")
    command += f" --draws {arguments.draws}" if arguments.draws else ""
    text = report(rows, bound_rows, command, n_draws, arguments.everything)
    path = arguments.out / f"fdr{'' if half is None else '-' + arguments.half}.md"
    _, heading, through_http = (path.read_text() if path.exists() else "").partition(fdr_http.HEADING)
    path.write_text(text + (f"\n{heading}{through_http}" if heading else ""))
    missed = [bar for bar in bars(rows, bound_rows) if not bar[2]]
    print(text.partition("## alpha")[0])
    return 1 if missed else 0


def _run_through_http(n_draws: int | None, path: Path) -> int:
    """Let a real service draw and state; replace the last section of the report."""
    with store() as embedded, service(embedded.url) as served, MildClient(served.url) as client:
        rows = [fdr_http.state_after_draws(client, Recording.load(each), n_draws or 50) for each in fdr_http.PATHS]
    text = fdr_http.report(rows, "python -m studies.fdr --http" + (f" --draws {n_draws}" if n_draws else ""))
    simulated = (path.read_text() if path.exists() else "").partition(fdr_http.HEADING)[0]
    path.write_text((f"{simulated.rstrip()}\n\n" if simulated else "") + text)
    print(text)
    return 1 if any(row.missed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
