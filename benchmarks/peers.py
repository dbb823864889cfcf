"""The selection beside the peers, on the same trainings and at the same cost: ranking, and the clean set itself.

usage: pip install -e ".[bench]" && python -m benchmarks.peers [--seeds 0 1 …] [--noise symmetric:0.4 …]
       python -m benchmarks.peers --dataset cifar10 --data-dir data --limit 1500 --model resnet8 --epochs 20

One training with the trainer's defaults is recorded: its bits are ours, its logits of the same pass are the peers'
(`benchmarks/judges.py`). Peers that need trainings of their own get the same settings and the same number of passes,
a backward pass counted as two; their choices (folds, schedule of AUM) were made on seeds 100 and 101, in their favour.
Detection is of mislabelled samples, F1 of the set that is kept. Writes ``results/peers.md`` and ``results/peers.json``.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import judges
from benchmarks.judges import Judgement
from benchmarks.logits import RecordingTrainer, held_out
from benchmarks.timing import machine
from benchmarks.truth import Mask, best_f1, f1
from mild_trainer.settings import TrainSettings
from mild_trainer.training import preparation

NOISES = ("symmetric:0.05", "symmetric:0.4", "symmetric:0.8", "pairflip:0.4")
RESULTS = Path(__file__).parent / "results"
OURS = "ours, one round"
EVERYTHING = "keep everything"
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


def figures(noise: str, seed: int, method: str, judgement: Judgement, clean: Mask) -> Figures:
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


def judged(settings: TrainSettings) -> list[Figures]:
    """Every method on one data set, one noise and one seed."""
    torch.set_num_threads(1)
    data = preparation.prepare_dataset(settings, preparation.read_dataset(settings))
    clean, labels, seed = data.clean, data.y_train, settings.seed
    assert clean is not None
    recording = RecordingTrainer(settings, data).record()
    by_loss = judges.mean_loss(recording.logits, labels, seed)
    methods: dict[str, Callable[[], Judgement]] = {
        OURS: lambda: judges.ours(recording, settings.selection),
        "ours, bits of the training pass": lambda: judges.ours_in_training(settings, data),
        "cleanlab, held out": lambda: judges.cleanlab(held_out(settings, data, N_FOLDS), labels),
        "cleanlab, in sample": lambda: judges.cleanlab(recording.logits[-1], labels),
        "AUM, threshold samples": lambda: judges.area_under_margin_thresholded(settings, data),
        "AUM, same training, ranks only": lambda: judges.area_under_margin(recording.logits, labels),
        "mean loss, Gaussian mixture": lambda: by_loss,
        "mean loss, noise rate known": lambda: judges.lowest(by_loss, int(clean.sum())),
    }
    found = [Figures(settings.noise, seed, EVERYTHING, None, None, f1(np.ones_like(clean), clean), None)]
    return found + [figures(settings.noise, seed, method, judge(), clean) for method, judge in methods.items()]


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def spread(values: Sequence[float | None]) -> str:
    numbers = [v for v in values if v is not None]
    if not numbers:
        return ""
    return f"{statistics.median(numbers):.3f} ({min(numbers):.3f} to {max(numbers):.3f})"


def table(found: Sequence[Figures]) -> list[str]:
    heads = (
        "noise",
        "method",
        "AUROC",
        "AUPRC",
        "F1 of the kept",
        "F1 of the best cut",
        "seeds with a lower F1 than ours",
    )
    lines = [row(heads), row(["---"] * len(heads))]
    for noise in dict.fromkeys(f.noise for f in found):
        reference = {f.seed: f.f1 for f in found if (f.noise, f.method) == (noise, OURS)}
        for method in dict.fromkeys(f.method for f in found):
            chosen = [f for f in found if (f.noise, f.method) == (noise, method)]
            columns = [spread([getattr(f, name) for f in chosen]) for name in ("auroc", "auprc", "f1", "best_f1")]
            pairs = [(f.f1, reference[f.seed]) for f in chosen if f.f1 is not None and method != OURS]
            behind = sum(1 for theirs, own in pairs if own is not None and theirs < own)
            lines.append(row((noise, method, *columns, f"{behind} of {len(pairs)}" if pairs else "")))
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--noise", nargs="+", default=list(NOISES))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    given = {name: getattr(arguments, name) for name in ("data_dir", "limit", "model", "epochs")}
    # Seed by seed, and written after every one: a run that is cut off leaves a table of fewer seeds.
    jobs = [
        TrainSettings.for_dataset(arguments.dataset, noise=noise, seed=seed, device="cpu", threads=1, **given)
        for seed in arguments.seeds
        for noise in arguments.noise
    ]
    found: list[Figures] = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for part in pool.imap(judged, jobs):
            found += part
            own = next(f for f in part if f.method == OURS)
            print(f"{own.noise} seed {own.seed}: F1 {own.f1:.3f}", flush=True)
            if own.noise == arguments.noise[-1]:
                write(found, arguments)
    print("\n" + "\n".join(table(found)))


def write(found: Sequence[Figures], arguments: argparse.Namespace) -> None:
    names = ("dataset", "limit", "model", "epochs")
    shape = " ".join(f"--{name} {getattr(arguments, name)}" for name in names if getattr(arguments, name) is not None)
    if arguments.data_dir is not None:
        shape += " --data-dir data"
    if arguments.noise != list(NOISES):
        shape += f" --noise {' '.join(arguments.noise)}"
    seeds = list(dict.fromkeys(f.seed for f in found))
    lines = [
        f"# Peers on {arguments.dataset}",
        "",
        f"`python -m benchmarks.peers {shape} --seeds {' '.join(map(str, seeds))}`, {multiprocessing.cpu_count()} CPU "
        f"cores, {machine('torch', 'numpy', 'scikit-learn', 'cleanlab')}. Median (least to greatest) over "
        f"{len(seeds)} seeds.",
        "",
        *table(found),
        "",
    ]
    name = "peers" if arguments.dataset == "digits" else f"peers-{arguments.dataset}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{name}.md").write_text("\n".join(lines))
    (arguments.out / f"{name}.json").write_text(json.dumps([asdict(f) for f in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
