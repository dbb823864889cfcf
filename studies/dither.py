"""How much noise on frozen features makes one bit per epoch as good as the loss.

usage: python -m studies.dither --data-dir DIR --features FILE.npz ... [--half choosing|judging] [--workers 2]
       python -m studies.dither --list | --write

DIR holds ``cifar-n-labels.npz``, each FILE features and true labels of the first images of CIFAR-10 (`mild features`,
see ``studies/README.md``). A head is trained by the trainer's defaults for ``features`` on each half of the images: the
first half with seeds 0 to 4 for choosing, the second with seeds 5 to 9 for judging. In the recording pass of each epoch
the bits and the losses of the same logits are kept. Rows are kept in ``studies/results/dither.jsonl`` as those of
`studies.paper` are; ``--write`` writes ``studies/results/dither.md``. A half takes about ten minutes of one core.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np

from benchmarks import judges
from benchmarks.truth import auc, f1
from mild_core import bitmap
from mild_core.selection import select
from mild_trainer.settings import DEFAULTS, TrainSettings
from studies import runner
from studies.heads import train_head
from studies.programme import SEEDS, Case, Inputs, Line, Row, format_judged, format_table

TITLE = "Noise on frozen features, and what a bit knows then"
RESULTS = Path(__file__).parent / "results"
NOISES = ("human:worse", "human:aggre", "symmetric:0.4", "symmetric:0.8", "asymmetric:0.4", "pairflip:0.4")
DITHERS = (0.0, 0.5, 1.0, 2.0)
DEFAULT = float(DEFAULTS["features"]["dither"])
EPOCHS = 20


def list_cases(inputs: Inputs) -> list[Case]:
    """List the trainings of a half: heads on the first features, the same with weaker decay, and on the others.

    A weight decay of None is the default of the network.
    """
    if inputs.profile != "cpu" or not inputs.features or inputs.human_labels is None:
        return []
    best, *others = inputs.features
    groups = [([best], None, DITHERS), ([best], 0.1, (0.0, 1.0)), (others, None, DITHERS)]
    return [
        {"features": name, "noise": noise, "weight_decay": decay, "dither": dither, "half": inputs.half, "seed": seed}
        for names, decay, dithers in groups
        for seed, name, noise, dither in product(SEEDS[inputs.half], names, NOISES, dithers)
    ]


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the defaults of heads on features, with the decay and the dither of a case."""
    changes = {name: case[name] for name in ("weight_decay", "dither", "seed")}
    return (TrainSettings.for_dataset("features", epochs=EPOCHS, device="cpu", threads=1, **changes),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train a head for one round, some labels planted as the trainer plants them, and judge bits and losses.

    F1 of the bits is that of the selection by its defaults, F1 of the loss that of a mixture of two Gaussians. `always`
    and `never` are the shares of the samples that were predicted as labelled in all epochs, and in none.
    """
    training = train_head(*list_settings(case), case, inputs)
    data, recording, own = training.data, training.recording, training.own
    logits, labels, clean = recording.logits[:, own], data.y_train[own], training.clean[own]
    misses = (logits.argmax(axis=2) != labels).sum(axis=0)
    of_loss = judges.judge_by_mean_loss(logits, labels, training.settings.seed)
    assert of_loss.kept is not None
    selection = select(recording.bits)
    values = {
        "auc": auc(misses, clean),
        "f1": f1(bitmap.unpack(selection.bitmap, data.n_samples)[own], clean),
        "loss_auc": auc(of_loss.suspicion, clean),
        "loss_f1": f1(of_loss.kept, clean),
        "everyone_f1": f1(np.ones_like(clean), clean),
        "always": float((misses == 0).mean()),
        "never": float((misses == len(logits)).mean()),
    }
    return {"verdict": selection.verdict, **{name: round(value, 4) for name, value in values.items()}}


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one setting, which differ in their seeds."""

    rows: tuple[Row, ...]

    def mean(self, name: str) -> float:
        """Mean of a result over the seeds."""
        return fmean(row.result[name] for row in self.rows)

    def format_spread(self, name: str) -> str:
        """Mean of a result over the seeds, with the least and the greatest value."""
        values = [row.result[name] for row in self.rows]
        return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    @property
    def gains(self) -> tuple[float, float]:
        """AUC of the bits less that of the loss, and F1 less the best one of the loss and of keeping everyone."""
        best = max(self.mean("loss_f1"), self.mean("everyone_f1"))
        return self.mean("auc") - self.mean("loss_auc"), self.mean("f1") - best

    def explain(self) -> str:
        """Say in words what is ahead of the bits and why; empty where nothing is."""
        (of_auc, of_f1), reasons = self.gains, list[str]()
        if of_auc < 0:
            reasons.append(f"AUC: the mean loss by {-of_auc:.3f}, it sums real numbers")
        if of_f1 < 0:
            is_loss = self.mean("loss_f1") > self.mean("everyone_f1")
            reasons.append(f"F1: {'the mixture on the mean loss' if is_loss else 'keeping everyone'} by {-of_f1:.3f}")
            n_whole = sum(row.result["verdict"] in ("unimodal", "learning") for row in self.rows)
            reasons += [f"{n_whole} of {len(self.rows)} verdicts keep everyone"] if n_whole else []
        return "; ".join(reasons)


Setting: TypeAlias = tuple[Any, ...]
Groups: TypeAlias = Mapping[Setting, Group]
"""Groups by half, features, weight decay, noise and dither."""


def group_rows(rows: Sequence[Row]) -> Groups:
    """Group the rows that differ in their seeds alone."""
    groups: dict[Setting, list[Row]] = {}
    for row in rows:
        key = tuple(row.case[name] for name in ("half", "features", "weight_decay", "noise", "dither"))
        groups.setdefault(key, []).append(row)
    return {key: Group(tuple(group)) for key, group in groups.items()}


_TEXT = f"""Linear heads on frozen EfficientNet-Lite features of CIFAR-10 (8,000 images: 4,000 for choosing, 4,000 for
judging), trained by the defaults for `features` but with {EPOCHS} epochs, one round, 2% of the labels planted. AUC: the
count of epochs in which a sample was not predicted as labelled, and the mean loss over the same logits, against the
true labels. F1 of the right labels: the set of the selection's defaults, a mixture of two Gaussians on the mean loss,
and keeping everyone. Planted samples are left out. Means over seeds, with the least and the greatest.

The default of `--dither` is {DEFAULT:g}, which has the best means on the choosing half of the first features. Under
dither a head forgets more than the verdict `separable` allows: it is `weak` more often, and on asymmetric noise often
`unimodal`, so that everyone is kept. Weight decay (the default is {DEFAULTS["features"]["weight_decay"]:g}), learning
rate and batch size were tried on the choosing half with one seed and four noises.

## The judging half at the default

Rows in which the bits are behind the mean loss of the same passes, or the set behind that of the loss or behind keeping
everyone, come first, in bold.
"""


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the judging half at the default, lost rows first, and both halves of what the default was chosen by."""
    groups = group_rows(rows)
    parts = [
        _TEXT,
        _format_judged(groups),
        "## What the dither was chosen by\n\nMeans over the six noises.\n",
        _format_means(groups),
        "## A head with little weight decay (0.1)\n",
        _format_decay(groups),
    ]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _format_judged(groups: Groups) -> str:
    """Return the table of the judging half, lost rows first."""
    lines = []
    for (half, features, decay, noise, dither), group in groups.items():
        plain = groups.get((half, features, decay, noise, 0.0))
        if half != "judging" or decay is not None or dither != DEFAULT or plain is None:
            continue
        counts = Counter(row.result["verdict"] for row in group.rows)
        cells = (
            str(len(group.rows)),
            f"{plain.mean('auc'):.3f}",
            group.format_spread("auc"),
            group.format_spread("loss_auc"),
            f"{plain.mean('loss_auc'):.3f}",
            f"{plain.mean('f1'):.3f}",
            group.format_spread("f1"),
            f"{group.mean('loss_f1'):.3f}",
            f"{group.mean('everyone_f1'):.3f}",
            ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()),
        )
        lines.append(Line(f"{features}, {noise}", cells, min(group.gains), group.explain()))
    heads = (
        *("features, noise", "seeds", "AUC, no dither", "AUC, dither", "AUC, loss of the same passes"),
        *("AUC, loss, no dither", "F1, no dither", "F1, dither", "F1, loss", "F1, everyone", "verdicts"),
    )
    return format_judged(heads, lines)


def _format_means(groups: Groups) -> str:
    """Return the means over all noises for each dither and half."""
    lines, names = [], ("auc", "loss_auc", "f1", "loss_f1", "always", "never")
    for features, half, dither in product(sorted({key[1] for key in groups}), SEEDS, DITHERS):
        alike = [group for noise in NOISES if (group := groups.get((half, features, None, noise, dither)))]
        if len(alike) == len(NOISES):
            means = (f"{fmean(group.mean(name) for group in alike):.3f}" for name in names)
            verdicts = Counter(row.result["verdict"] for group in alike for row in group.rows)
            counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
            n_seeds = min(len(group.rows) for group in alike)
            lines.append((features, half, f"{dither:g}", str(n_seeds), *means, counts))
    heads = ("features", "half", "dither", "seeds", "AUC", "AUC, loss", "F1", "F1, loss", "always as labelled", "never")
    return format_table((*heads, "verdicts"), lines)


def _format_decay(groups: Groups) -> str:
    """Return what dither does where weights decay little."""
    lines = []
    for (half, features, decay, noise, dither), group in sorted(groups.items(), key=str):
        plain = groups.get((half, features, decay, noise, 0.0))
        if decay is not None and dither and plain is not None:
            means = (plain.mean("auc"), group.mean("auc"), group.mean("loss_auc"))
            lines.append((f"{features}, {noise}", half, str(len(group.rows)), *(f"{mean:.3f}" for mean in means)))
    return format_table(
        ("features, noise", "half", "seeds", "AUC, no dither", "AUC, dither 1", "AUC, loss, dither 1"), lines
    )


def format_page(rows: Sequence[Row]) -> str:
    """Return studies/results/dither.md."""
    features = " ".join(dict.fromkeys(f"{row.case['features']}.npz" for row in rows))
    command = f"    python -m studies.dither --data-dir DIR --features {features} --half"
    machines = "; ".join(dict.fromkeys(row.machine for row in rows))
    commands = f"{command} choosing\n{command} judging\n    python -m studies.dither --write"
    return f"# {TITLE}\n\n{commands}\n\n{machines}.\n\n{format_rows(rows, RESULTS)}"


def write_page(rows: Sequence[Row]) -> None:
    """Write studies/results/dither.md."""
    (RESULTS / "dither.md").write_text(format_page(rows))


STUDY = runner.Study(("dither",), RESULTS / "dither.jsonl", write_page)

if __name__ == "__main__":
    sys.exit(runner.main(STUDY, __doc__))
