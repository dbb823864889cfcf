"""Whether MixMatch or contrastive training after the selection helps, at the cost of plain training on the same set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mild_trainer.settings import TrainSettings
from mild_trainer.training.trainer import Trainer
from studies.programme import Case, Inputs, Line, Row, format_judged
from studies.trainings import (
    DATA_POINTER,
    SMALL,
    describe_rounds,
    is_published,
    load_case,
    make_cases,
    make_settings,
    record_training,
)

TITLE = "Finishing with the dropped samples: MixMatch, contrastive"
PLAIN = "supervised"
FINISHES = (PLAIN, "mixmatch", "contrastive")
_ROUNDS: Mapping[str, int] = {"digits": 2, SMALL: 1}
"""Rounds before the finish, of the data whose number of rounds is not that of the published protocol."""
_TEXT = f"""{DATA_POINTER}

After the last round (two on digits, one on `cifar16`) a fresh network is trained on the kept set (`{PLAIN}`), or on the
dropped samples too, without their labels. All finishes of a line share the set and cost as many passes as training on
all samples for the epochs that the line names. A row is lost, and in bold, where the finish is less accurate than
`{PLAIN}`. Networks are small and budgets short, no case for methods made for hundreds of epochs: so this says where
they do not help, and not that they never do.

Mini-WebVision, the paper's other data set, is read (`--dataset webvision --classes 50`, tested on a made-up folder in
`tests/trainer/test_webvision.py`), and was not trained on: its pictures were not at hand.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List a training for each noise and budget in epochs."""
    if inputs.profile == "gpu":
        return make_cases(inputs, (), 3, ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4"), epochs=(300,))
    return [
        *make_cases(inputs, ("digits",), 5, ("symmetric:0.4", "symmetric:0.8"), epochs=(25,)),
        *make_cases(inputs, ("digits",), 5, ("symmetric:0.8",), epochs=(60,)),
        *make_cases(inputs, (SMALL,), 3, ("symmetric:0.4",), epochs=(10,)),
    ]


def list_settings(case: Case) -> list[TrainSettings]:
    """List the settings of each finish."""
    changes: dict[str, Any] = {"ema": 0.999} if is_published(case) else {"rounds": _ROUNDS[str(case["data"])]}
    return [make_settings(case, finish=finish, finish_epochs=case["epochs"], **changes) for finish in FINISHES]


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train over the rounds, and finish in every way on the same set."""
    settings = list_settings(case)
    training = record_training(replace(settings[0], finish="none"), load_case(case, inputs))
    history = training.history
    accuracies = {
        each.finish: Trainer(each, history.data).run_finish(history.set_round.selected).test_accuracy
        for each in settings
    }
    last = {name: values[-1] for name, values in describe_rounds(training).items()}
    return {**{name: last[name] for name in ("kept", "precision", "recall", "verdict")}, "accuracies": accuracies}


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the accuracy of each finish and that of plain training on the same set."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        title = "{data}, {noise}, {epochs} epochs".format(**row.case)
        groups.setdefault(title, []).append(row.result)
    lines, helps = [], []
    for title, results in groups.items():
        for finish in FINISHES[1:]:
            gains = [result["accuracies"][finish] - result["accuracies"][PLAIN] for result in results]
            gain, n_won, name = fmean(gains), sum(each > 0 for each in gains), f"{title}, {finish}"
            if gain > 0 and n_won > len(gains) / 2:
                helps.append(f"{name} ({gain:+.3f}, {n_won} of {len(gains)} seeds)")
            means = [fmean(result["accuracies"][kind] for result in results) for kind in (PLAIN, finish)]
            cells = [f"{fmean(result[field] for result in results):.3f}" for field in ("kept", "precision", "recall")]
            cells += [*(f"{mean:.3f}" for mean in means), f"{n_won} of {len(gains)}"]
            dropped = 1 - fmean(result["kept"] for result in results)
            loss = f"it shares its passes with the {dropped:.0%} that are dropped" if gain < 0 else ""
            lines.append(Line(name, [str(len(gains)), *cells], gain, loss))
    n_lost = sum(line.gain < 0 for line in lines)
    finding = (
        f"It does not help in {n_lost} of {len(lines)} rows. It helps, in most seeds: {'; '.join(helps) or 'nowhere'}."
    )
    heads = (
        *("data, noise, budget, finish", "seeds", "kept", "precision", "recall"),
        *("accuracy, supervised", "accuracy", "ahead in"),
    )
    return f"{_TEXT}\n{finding}\n\n{format_judged(heads, lines)}"
