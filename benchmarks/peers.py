"""The selection compared with the peers, on the same trainings and at the same cost: the ranking, and the clean set.

One training with the trainer's defaults is recorded: we use its bits, the peers its logits of the same pass
(`benchmarks/judges.py`). Peers that need further trainings get the same settings and the same number of passes, a
backward pass counted as two; their parameters (folds, schedule of AUM) were chosen on seeds 100 and 101, in their
favour. Detection is of mislabelled samples, F1 of the kept set. Writes ``peers.json``, too; for another data set than
digits ``peers-DATASET.md`` and ``.json``. Needs ``pip install -e ".[bench]"``.
"""

import json
import multiprocessing
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import judges
from benchmarks.claims import Benchmark, Claim, Report, format_spread, format_table
from benchmarks.judges import Judgement
from benchmarks.logits import RecordingTrainer, predict_held_out
from benchmarks.truth import Mask, best_f1, f1
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation

OURS = "ours, one round"
EVERYTHING = "keep everything"
ORACLE = "mean loss, noise rate known"
MARGIN = 0.01
"""Greatest difference by which our F1 may be lower."""
N_FOLDS = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """How well a method judged one training's samples; None where it does not apply."""

    noise: str
    seed: int
    method: str
    auroc: float | None
    auprc: float | None
    f1: float | None
    best_f1: float | None


def measure_figures(noise: str, seed: int, method: str, judgement: Judgement, clean: Mask) -> Figures:
    suspicion, kept = judgement.suspicion, judgement.kept
    return Figures(
        noise=noise,
        seed=seed,
        method=method,
        auroc=float(roc_auc_score(~clean, suspicion)),
        auprc=float(average_precision_score(~clean, suspicion)),
        f1=None if kept is None else f1(kept, clean),
        best_f1=best_f1(suspicion, clean),
    )


def judge_all(settings: TrainSettings) -> list[Figures]:
    """Judge by all methods on one data set, noise and seed."""
    torch.set_num_threads(1)
    data = preparation.prepare_dataset(settings, preparation.read_dataset(settings))
    clean, labels, seed = data.clean, data.y_train, settings.seed
    assert clean is not None
    recording = RecordingTrainer(settings, data).record()
    by_loss = judges.judge_by_mean_loss(recording.logits, labels, seed)
    methods: dict[str, Callable[[], Judgement]] = {
        OURS: lambda: judges.judge_by_selection(recording, settings.selection),
        "ours, bits of the training pass": lambda: judges.judge_by_training_pass(settings, data),
        "cleanlab, held out": lambda: judges.judge_by_cleanlab(predict_held_out(settings, data, N_FOLDS), labels),
        "cleanlab, in sample": lambda: judges.judge_by_cleanlab(recording.logits[-1], labels),
        "AUM, threshold samples": lambda: judges.judge_by_margin_threshold(settings, data),
        "AUM, same training, ranks only": lambda: judges.judge_by_margin(recording.logits, labels),
        "mean loss, Gaussian mixture": lambda: by_loss,
        ORACLE: lambda: judges.keep_lowest(by_loss, int(clean.sum())),
    }
    figures = [measure_figures(settings.noise, seed, name, judge(), clean) for name, judge in methods.items()]
    return [Figures(settings.noise, seed, EVERYTHING, None, None, f1(np.ones_like(clean), clean), None), *figures]


def format_figures(figures: Sequence[Figures]) -> list[str]:
    heads = (
        "noise",
        "method",
        "AUROC",
        "AUPRC",
        "F1 of the kept",
        "F1 of the best cut",
        "seeds with a lower F1 than ours",
    )
    rows = []
    for noise in dict.fromkeys(f.noise for f in figures):
        reference = {f.seed: f.f1 for f in figures if (f.noise, f.method) == (noise, OURS)}
        for method in dict.fromkeys(f.method for f in figures):
            own = [f for f in figures if (f.noise, f.method) == (noise, method)]
            values = ([getattr(f, name) for f in own] for name in ("auroc", "auprc", "f1", "best_f1"))
            columns = ["" if None in column else format_spread(column) for column in values]
            pairs = [(f.f1, reference[f.seed]) for f in own if f.f1 is not None and method != OURS]
            behind = sum(1 for theirs, ours in pairs if ours is not None and theirs < ours)
            rows.append((noise, method, *columns, f"{behind} of {len(pairs)}" if pairs else ""))
    return format_table(heads, rows)


def list_claims(figures: Sequence[Figures]) -> list[Claim]:
    """List a claim for each noise: our set against that of the best method that knows no more."""
    claims = []
    for noise in dict.fromkeys(f.noise for f in figures):
        medians = {
            method: statistics.median(
                f.f1 for f in figures if (f.noise, f.method) == (noise, method) and f.f1 is not None
            )
            for method in dict.fromkeys(f.method for f in figures if f.noise == noise and f.f1 is not None)
        }
        rivals = {method: f1 for method, f1 in medians.items() if not method.startswith("ours") and method != ORACLE}
        best = max(rivals, key=lambda method: rivals[method])
        text = f"{noise}: F1 of the set in one round less that of the best peer ({best})"
        claims.append(Claim(text, medians[OURS] - rivals[best], "at least", -MARGIN, "{:.3f}"))
    return claims


def measure(options: Namespace) -> Report:
    changes = {name: getattr(options, name) or None for name in ("limit", "model", "epochs")}
    changes["data_dir"] = Path(options.data_dir) if options.data_dir else None
    jobs = [
        TrainSettings.for_dataset(options.dataset, noise=noise, seed=seed, device="cpu", threads=1, **changes)
        for seed in options.seeds
        for noise in options.noise
    ]
    figures: list[Figures] = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for part in pool.imap(judge_all, jobs):
            figures += part
            own = next(f for f in part if f.method == OURS)
            print(f"{own.noise} seed {own.seed}: F1 {own.f1:.3f}", flush=True)
    page = "peers" if options.dataset == "digits" else f"peers-{options.dataset}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{page}.json").write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n")
    about = f"Median (least to greatest) over {len(options.seeds)} seeds."
    return Report(f"Peers on {options.dataset}", list_claims(figures), about, format_figures(figures), page=page)


BENCHMARK = Benchmark(
    "peers",
    "README.md#results",
    measure,
    options={
        "dataset": "digits",
        "data_dir": "",
        "limit": 0,
        "model": "",
        "epochs": 0,
        "noise": ("symmetric:0.05", "symmetric:0.4", "symmetric:0.8", "pairflip:0.4"),
        "seeds": tuple(range(5)),
        "processes": multiprocessing.cpu_count(),
    },
    short={"noise": ("symmetric:0.4", "symmetric:0.8"), "seeds": (0,)},
    packages=("torch", "numpy", "scikit-learn", "cleanlab"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
