"""How much noise on frozen features makes one bit per epoch as good as the loss.

usage: python -m studies.dither FEATURES.npz ... --human FILE [--half choosing|judging] [--write]

FEATURES holds features and true labels of CIFAR-10's first images (`mild features` of an ``.npz`` of these, with a
network of ``examples/image_features.py``), FILE the labels of CIFAR-10N. A head is trained by the trainer's defaults
for ``features`` on each half of the images: the first half with seeds 0 to 4 for choosing, the second with seeds 5 to 9
for judging. In the recording pass of each epoch the bits and the losses of the same logits are kept. What is done
before is not done again (``studies/results/dither.jsonl``); ``--write`` writes ``studies/results/dither.md`` and trains
nothing. About twenty minutes of two cores.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from sklearn.metrics import f1_score, roc_auc_score
from sklearn.mixture import GaussianMixture

from benchmarks import judges
from benchmarks.logits import Recording
from mild_core import bitmap
from mild_core.selection import select
from mild_trainer.data import Dataset
from mild_trainer.settings import DEFAULTS, ModelName, TrainSettings
from studies.heads import load_half, record_head
from studies.programme import SEEDS, Half

RESULTS = Path(__file__).parent / "results"
NOISES = ("human:worse", "human:aggre", "symmetric:0.4", "symmetric:0.8", "asymmetric:0.4", "pairflip:0.4")
DITHERS = (0.0, 0.5, 1.0, 2.0)
EPOCHS = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One training; a weight decay of None is the default of the network."""

    features: str
    noise: str
    model: ModelName
    dither: float
    half: Half
    seed: int
    weight_decay: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a case; `auc` and `f1` are those of the bits, the others those of the mean loss.

    F1 of the bits is that of the selection by its defaults, F1 of the loss that of a mixture of two Gaussians.
    """

    case: Case
    auc: float
    f1: float
    loss_auc: float
    loss_f1: float
    verdict: str
    wrong: float
    always: float
    never: float
    seconds: float


def run(case: Case, data: Dataset) -> Row:
    """Train a case's head for one round, some labels planted as the trainer plants them, and judge bits and losses."""
    started = time.perf_counter()
    settings = TrainSettings.for_dataset(
        "features",
        model=case.model,
        epochs=EPOCHS,
        dither=case.dither,
        seed=case.seed,
        weight_decay=case.weight_decay,
        device="cpu",
        threads=1,
    )
    return judge(case, data, record_head(settings, data), started)


def judge(case: Case, data: Dataset, recording: Recording, started: float) -> Row:
    """Judge the count of bits and the mean loss of a training that began at `started`."""
    assert data.clean is not None
    assert recording.bits.planted is not None
    own = ~bitmap.unpack(recording.bits.planted, data.n_samples)
    logits, labels, clean = recording.logits[:, own], data.y_train[own], data.clean[own]
    misses = (logits.argmax(axis=2) != labels).sum(axis=0)
    losses = judges.average_losses(logits, labels)
    selection = select(recording.bits)
    kept = bitmap.unpack(selection.bitmap, data.n_samples)[own]
    mixture = GaussianMixture(2, random_state=0).fit(losses[:, None])
    of_low = mixture.predict_proba(losses[:, None])[:, int(mixture.means_.argmin())] > 0.5
    return Row(
        case=case,
        auc=float(roc_auc_score(~clean, misses)),
        f1=float(f1_score(clean, kept)),
        loss_auc=float(roc_auc_score(~clean, losses)),
        loss_f1=float(f1_score(clean, of_low)),
        verdict=selection.verdict,
        wrong=float((~clean).mean()),
        always=float((misses == 0).mean()),
        never=float((misses == len(logits)).mean()),
        seconds=time.perf_counter() - started,
    )


def list_cases(features: Sequence[str], half: Half) -> list[Case]:
    """List the trainings of a half: linear heads on the first features, with weaker decay, on the others, and MLPs."""
    seeds, (best, *others) = SEEDS[half], features
    cases = [
        Case(best, noise, "linear", dither, half, seed, decay)
        for decay, dithers in ((None, DITHERS), (0.1, (0.0, 1.0)))
        for seed, noise, dither in product(seeds, NOISES, dithers)
    ]
    cases += [
        Case(name, noise, "linear", dither, half, seed)
        for name, seed, noise, dither in product(others, seeds, NOISES, DITHERS)
    ]
    return cases + [
        Case(best, noise, "mlp", dither, half, seed) for seed, noise, dither in product(seeds, NOISES, (0.0, 1.0))
    ]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of earlier calls."""
    if not path.exists():
        return []
    values = [json.loads(line) for line in path.read_text().splitlines()]
    return [Row(**{**value, "case": Case(**value["case"])}) for value in values]


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one setting, which differ in their seeds."""

    rows: tuple[Row, ...]

    def mean(self, name: str) -> float:
        """Mean of a field over the seeds."""
        return fmean(getattr(row, name) for row in self.rows)

    def format_spread(self, name: str) -> str:
        """Mean of a field over the seeds, with the least and the greatest value."""
        values = [getattr(row, name) for row in self.rows]
        return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


Groups: TypeAlias = Mapping[tuple[str, str, ModelName, float | None, str, float], Group]
"""Groups by half, features, model, weight decay, noise and dither."""


def group_rows(rows: Iterable[Row]) -> Groups:
    """Group the rows that differ in their seeds alone."""
    groups: dict[tuple[str, str, ModelName, float | None, str, float], list[Row]] = {}
    for row in rows:
        case = row.case
        key = (case.half, case.features, case.model, case.weight_decay, case.noise, case.dither)
        groups.setdefault(key, []).append(row)
    return {key: Group(tuple(group)) for key, group in groups.items()}


def format_results(rows: Sequence[Row]) -> str:
    """Return the result as Markdown: the judging half at the default, lost rows first, then what it was chosen by."""
    groups, default = group_rows(rows), float(DEFAULTS["features"]["dither"])
    sections = [
        _HEAD.format(default=default, decay=DEFAULTS["features"]["weight_decay"]),
        _format_judged(groups, default),
        "## What the dither was chosen by\n\nMeans over the six noises, linear head, of the sets with five seeds.\n",
        _format_means(groups),
        "## A head with little weight decay (0.1)\n",
        _format_decay(groups),
    ]
    return "\n".join(sections)


_HEAD = """# Noise on frozen features, and what a bit knows then

    python -m studies.dither lite2.npz lite0.npz --human cifar-n-labels.npz --half choosing
    python -m studies.dither lite2.npz lite0.npz --human cifar-n-labels.npz --half judging
    python -m studies.dither --write

Heads on frozen EfficientNet-Lite features of CIFAR-10 (8,000 images: 4,000 for choosing, 4,000 for judging), trained
by the defaults for `features` but with 20 epochs (weight decay {decay:g}), one round, 2% of the labels planted. AUC:
the count of epochs in which a sample was not predicted as labelled, and the mean loss over the same logits, against
the true labels. F1 of the right labels: the set of the selection's defaults, a mixture of two Gaussians on the mean
loss, and keeping everyone. Planted samples are left out. Means over seeds, with the least and the greatest.

The default of `--dither` is {default:g}, which has the best means on the choosing half. Under dither a head forgets
more than the verdict `separable` allows: it is `weak` more often, and on asymmetric noise often `unimodal`, so that
everyone is kept. A dither of 0.5 costs .002 AUC and was `unimodal` nowhere. Weight decay, learning rate and batch
size were tried on the choosing half with one seed and four noises; decay 1 against 0.1 brings more than dither does,
and leaves less for it to bring (last table).

## The judging half at the default

Rows in which the bits are behind the mean loss of the same passes, or the set behind that of the loss or behind keeping
everyone, come first, in bold.
"""


def _format_judged(groups: Groups, default: float) -> str:
    """Return the table of the judging half, lost rows first."""
    lines = []
    for (half, features, model, decay, noise, dither), group in groups.items():
        plain = groups.get((half, features, model, decay, noise, 0.0))
        if half != "judging" or decay is not None or dither != default or plain is None:
            continue
        share = 1 - group.mean("wrong")
        everyone = 2 * share / (1 + share)
        gap = group.mean("auc") - group.mean("loss_auc")
        lost = gap < 0 or group.mean("f1") < max(group.mean("loss_f1"), everyone)
        counts = Counter(row.verdict for row in group.rows)
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        name = f"{features}, {model}, {noise}"
        cells = (
            f"**{name}**" if lost else name,
            str(len(group.rows)),
            f"{plain.mean('auc'):.3f}",
            group.format_spread("auc"),
            group.format_spread("loss_auc"),
            f"{plain.mean('loss_auc'):.3f}",
            f"{plain.mean('f1'):.3f}",
            group.format_spread("f1"),
            f"{group.mean('loss_f1'):.3f}",
            f"{everyone:.3f}",
            verdicts,
        )
        lines.append((not lost, gap, f"| {' | '.join(cells)} |"))
    head = (
        "| features, head, noise | seeds | AUC, no dither | AUC, dither | AUC, loss of the same passes | AUC, loss, no "
        "dither | F1, no dither | F1, dither | F1, loss | F1, everyone | verdicts |\n" + "|---" * 11 + "|"
    )
    return "\n".join([head, *(line for _, _, line in sorted(lines))]) + "\n"


_MEANS_HEAD = "| features | half | dither | AUC | AUC, loss | F1 | F1, loss | always as labelled | never |"


def _format_means(groups: Groups) -> str:
    """Return the means over all noises for each dither and half."""
    lines = [_MEANS_HEAD, "|---" * 9 + "|"]
    for features, half, dither in product(sorted({key[1] for key in groups}), SEEDS, DITHERS):
        found = [groups.get((half, features, "linear", None, noise, dither)) for noise in NOISES]
        complete = [group for group in found if group is not None and len(group.rows) == len(SEEDS[half])]
        if len(complete) == len(NOISES):
            names = ("auc", "loss_auc", "f1", "loss_f1", "always", "never")
            values = " | ".join(f"{fmean(group.mean(name) for group in complete):.3f}" for name in names)
            lines.append(f"| {features} | {half} | {dither:g} | {values} |")
    return "\n".join(lines) + "\n"


def _format_decay(groups: Groups) -> str:
    """Return what dither does where weights decay little."""
    lines = ["| noise | half | seeds | AUC, no dither | AUC, dither 1 | AUC, loss, dither 1 |", "|---" * 6 + "|"]
    for (half, features, model, decay, noise, dither), group in sorted(groups.items(), key=str):
        plain = groups.get((half, features, model, decay, noise, 0.0))
        if decay is not None and dither and plain is not None:
            means = (plain.mean("auc"), group.mean("auc"), group.mean("loss_auc"))
            values = " | ".join(f"{mean:.3f}" for mean in means)
            lines.append(f"| {features}, {noise} | {half} | {len(group.rows)} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, nargs="*")
    parser.add_argument("--human", type=Path, help="labels of CIFAR-10N, an .npz")
    parser.add_argument("--half", choices=SEEDS, default="choosing")
    parser.add_argument("--rows", type=Path, default=RESULTS / "dither.jsonl")
    parser.add_argument("--write", action="store_true", help="write the table and train nothing")
    arguments = parser.parse_args()
    if arguments.write:
        (RESULTS / "dither.md").write_text(format_results(read_rows(arguments.rows)))
        return 0
    paths = {path.stem: path for path in arguments.features}
    done = {row.case for row in read_rows(arguments.rows)}
    for case in list_cases(list(paths), arguments.half):
        if case in done:
            continue
        data = load_half(paths[case.features], arguments.human, case.noise, case.half, case.seed)
        row = run(case, data)
        with arguments.rows.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(f"{case}: AUC {row.auc:.3f}, of the loss {row.loss_auc:.3f}, {row.seconds:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
