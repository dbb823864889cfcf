"""Three questions that the publication leaves open, answered by trainings of our own.

usage: python -m benchmarks.questions [--rounds 12] [--seeds 0 1] [--processes 2]

1. Is the threshold stable over ten and more rounds? Digits, the trainer's defaults, rounds that end only where two
   sets are the same.
2. Do the scores survive a long tail of classes? Every recording (`benchmarks.recordings`) of a long tail beside the
   same training on all samples.
3. Does the full metric (`mild`) rank better than the simplified one (`mild-simple`)? Every recorded training of one
   round whose labels are partly wrong, by its evaluation pass, both halves: areas under the curve and the F1 of the
   best cut, with Wilcoxon's signed-rank test. Nothing is chosen by it.

Writes ``results/questions.md``. Data that shift between training and test were not recorded, and are not answered for.
"""

import argparse
import multiprocessing
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from scipy.stats import wilcoxon

from benchmarks.recordings import recordings
from benchmarks.selection import MIN_EPOCHS, Trace, sequences
from benchmarks.timing import machine
from benchmarks.truth import auc, best_f1
from mild_core import bitmap
from mild_core.scores import score_samples
from mild_core.selection import select
from mild_core.types import Metric
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import run_rounds

RESULTS = Path(__file__).parent / "results"
NOISES = ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4")
SIMPLE: Metric = "mild-simple"
OTHERS: tuple[Metric, ...] = tuple(metric for metric in get_args(Metric) if metric != SIMPLE)


@dataclass(frozen=True, slots=True)
class Loop:
    """One training of many rounds; lists hold an entry a round, cuts as a share of the epochs."""

    noise: str
    seed: int
    cut: list[float | None]
    f1: list[float]


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a metric orders one training's samples, and the F1 of its best cut."""

    auc: float
    f1: float


def loop(job: tuple[str, int, int]) -> Loop:
    noise, seed, rounds = job
    torch.set_num_threads(1)
    settings = TrainSettings.for_dataset("digits", noise=noise, seed=seed, rounds=rounds, agree=1.0, device="cpu")
    history = run_rounds(settings)
    cuts = [r.summary["threshold"]["cut"] for r in history.rounds]
    epochs = [r.summary["epochs"] for r in history.rounds]
    found = [r.agreement for r in history.rounds]
    return Loop(
        noise,
        seed,
        [None if cut is None else cut / n_epochs for cut, n_epochs in zip(cuts, epochs, strict=True)],
        [agreement.f1 for agreement in found if agreement is not None],
    )


def ranking(trace: Trace, metric: Metric) -> Ranking:
    values = score_samples(trace.rounds, metric).values[trace.judged]
    clean = trace.clean[trace.judged]
    return Ranking(auc(values, clean), best_f1(values, clean))


def partly_wrong(traces: Sequence[Trace]) -> list[Trace]:
    """One trace a training: of one round, seen by the evaluation pass, with right and with wrong labels."""
    return [
        t
        for t in traces
        if len(t.rounds) == 1
        and t.rounds[0].n_epochs >= MIN_EPOCHS
        and not t.name.endswith("/train")
        and not re.search(r"_(none|symmetric-1\.0)_", t.name)
    ]


def of_metrics(traces: Sequence[Trace]) -> list[str]:
    simple = [ranking(t, SIMPLE) for t in traces]
    lines = [
        f"| metric against `{SIMPLE}` | AUC, mean difference | better in | p | F1 of the best cut | better in | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in OTHERS:
        cells = []
        found = [ranking(t, metric) for t in traces]
        for name in ("auc", "f1"):
            more = np.array([getattr(a, name) - getattr(b, name) for a, b in zip(found, simple, strict=True)])
            p = wilcoxon(more).pvalue
            cells += [f"{more.mean():+.4f}", f"{int((more > 0).sum())} of {more.size}", f"{p:.2g}"]
        lines.append(f"| `{metric}` | {' | '.join(cells)} |")
    return lines


def of_long_tails(traces: Sequence[Trace]) -> list[str]:
    by_name = {t.name: t for t in traces}
    lines = [
        "| training | samples, wrong | AUC | F1 of the best cut | F1 of the default | its verdict |",
        "|---|---|---|---|---|---|",
    ]
    for tailed in (t for t in traces if "_tail" in t.name):
        whole = re.sub(r"_tail\d+", "", tailed.name)
        same = next((by_name[n] for n in (whole, whole.replace("_s", "_plant-confused_s")) if n in by_name), None)
        for trace in [tailed] if same is None else [same, tailed]:
            found, chosen = ranking(trace, SIMPLE), select(trace.rounds)
            kept = bitmap.unpack(chosen.bitmap, chosen.n_samples)
            wrong = 1 - trace.clean[trace.judged].mean()
            lines.append(
                f"| {trace.name} | {int(trace.judged.sum()):,}, {wrong:.2f} | {found.auc:.3f} | {found.f1:.3f} "
                f"| {trace.f1(kept):.3f} | {chosen.verdict} |"
            )
    return lines


def of_rounds(loops: Sequence[Loop]) -> list[str]:
    n = max(len(found.f1) for found in loops)
    lines = [
        "| noise, seed | cut and F1 in round "
        + " | ".join(str(r) for r in range(n))
        + " | F1, least from round 1 on |",
        "|---" * (n + 2) + "|",
    ]
    for found in loops:
        cells = [
            f"{'all' if cut is None else f'{cut:.2f}'}, {f1:.3f}" for cut, f1 in zip(found.cut, found.f1, strict=True)
        ]
        cells += [""] * (n - len(cells))
        lines.append(f"| {found.noise}, {found.seed} | {' | '.join(cells)} | {min(found.f1[1:], default=0):.3f} |")
    lasting = [found.f1[-1] - found.f1[1] for found in loops if len(found.f1) > 2]
    lines += ["", f"Last round's F1 minus that of round 1: {statistics.mean(lasting):+.3f} in the mean,"]
    return [*lines[:-1], f"{lines[-1]} {min(lasting):+.3f} at worst, {max(lasting):+.3f} at best."]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--noise", nargs="+", default=list(NOISES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    jobs = [(noise, seed, arguments.rounds) for noise in arguments.noise for seed in arguments.seeds]
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        loops = pool.map(loop, jobs, chunksize=1)
    traces = partly_wrong(sequences(recordings()))
    seeds = " ".join(map(str, arguments.seeds))
    lines = [
        "# What the publication leaves open",
        "",
        f"`python -m benchmarks.questions --rounds {arguments.rounds} --seeds {seeds}`, "
        f"{machine('numpy', 'scipy', 'torch')}.",
        "",
        "## Is the threshold stable over many rounds?",
        "",
        "Digits, the trainer's defaults (everyone observed, pooled evidence, fresh weights). Cuts are a share of the "
        "epochs so far; `all`: nothing was cut.",
        "",
        *of_rounds(loops),
        "",
        "## Do the scores survive a long tail?",
        "",
        "`tail10`: the largest class has ten times the samples of the smallest.",
        "",
        *of_long_tails(traces),
        "",
        "## Do the full and the simplified metric differ?",
        "",
        f"{len(traces)} recorded trainings, evaluation pass, both halves; Wilcoxon's signed-rank test, two-sided.",
        "",
        *of_metrics(traces),
        "",
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "questions.md").write_text("\n".join(lines))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
