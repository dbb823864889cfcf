"""Heads on frozen features for one round: our selection compared with the peers, on the same passes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from benchmarks import judges
from benchmarks.judges import Judgement
from benchmarks.logits import RecordingTrainer, predict_held_out
from benchmarks.truth import Mask, auc, best_f1, f1, measure_found_share
from mild_core import bitmap
from mild_core.selection import select
from mild_trainer.settings import TrainSettings
from studies.heads import HUMAN_COLUMNS, HeadTraining, train_head
from studies.peer_tables import EVERYONE, OURS, RIGHT, format_comparison, format_prior_comparison
from studies.programme import SEEDS, Case, Inputs, Row

TITLE = "One round on frozen features, beside the peers"
NOISES = (
    "human:worse",
    "human:aggre",
    "human:random1",
    "symmetric:0.2",
    "symmetric:0.4",
    "symmetric:0.6",
    "symmetric:0.8",
    "asymmetric:0.4",
    "pairflip:0.4",
    "instance:0.4",
    "none",
)
NOISES_100 = ("human:noisy", "symmetric:0.4", "symmetric:0.8", "asymmetric:0.4", "pairflip:0.4", "none")
N_FOLDS = 3
Measures: TypeAlias = dict[str, float | None]
"""Measures of a method by name; None where one does not apply."""

_TEXT = """Linear heads on features of frozen networks ({features}), trained by the defaults for `features` for one
round on one half of the images of each file. `human:` is noise of CIFAR-10N and CIFAR-100N. Right and wrong labels are
those of the data set; 2% of the labels are planted, and these samples are left out everywhere. AUC: of the ranking, F1:
of the right labels in the set that a method keeps. Ours is the score and the selection by its defaults. Mean loss, AUM
of the same passes, cleanlab in sample and wrong events judge the passes that our bits are of; AUM with threshold
samples and cleanlab held out train networks of their own at the same cost; neighbours are judged on the features.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List one training for each file of features, noise and seed."""
    if inputs.profile != "cpu":
        return []
    return [
        {"features": name, "noise": noise, "half": inputs.half, "seed": seed}
        for seed in SEEDS[inputs.half]
        for name in inputs.features
        for noise in (NOISES_100 if "cifar100" in name else NOISES)
        if noise not in HUMAN_COLUMNS or inputs.human_labels is not None
    ]


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the defaults of heads on features."""
    return (TrainSettings.for_dataset("features", seed=int(case["seed"] or 0), device="cpu", threads=1),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train a head, and judge its samples without the planted ones by all methods.

    The same passes are judged twice, the second time as recorded with a balanced class prior.
    """
    training = train_head(*list_settings(case), case, inputs)
    clean, own = training.clean, training.own
    balanced = replace(training, recording=training.recording.with_class_prior(np.ones(training.data.n_classes)))
    (ours, verdict), (ours_balanced, verdict_balanced) = _judge_by_selection(training), _judge_by_selection(balanced)
    judgements = {OURS: ours, **_judge_passes(training), **_judge_by_own_trainings(training)}
    judgements[EVERYONE] = Judgement(np.zeros(own.sum()), np.ones(own.sum(), dtype=bool))
    judgements_balanced = {OURS: ours_balanced, **_judge_passes(balanced)}
    methods, methods_balanced = (
        {name: _measure(judgement, clean[own]) for name, judgement in each.items()}
        for each in (judgements, judgements_balanced)
    )
    methods[RIGHT] = {}
    sets = [(methods[name], judgement.kept) for name, judgement in judgements.items() if judgement.kept is not None]
    trainer = RecordingTrainer(training.settings, training.data)
    for measures, kept in (*sets, (methods_balanced[OURS], ours_balanced.kept), (methods[RIGHT], clean[own])):
        members = np.flatnonzero(own)[kept]
        measures["accuracy"] = trainer.train_comparison_network(bitmap.from_indices(members, own.size))
    return {
        "methods": _round_measures(methods),
        "verdict": verdict,
        "methods_with_prior": _round_measures(methods_balanced),
        "verdict_with_prior": verdict_balanced,
        "noise_rate": round(float((~clean[own]).mean()), 4),
    }


def _round_measures(methods: Mapping[str, Measures]) -> dict[str, Measures]:
    return {
        name: {k: None if v is None else round(v, 4) for k, v in values.items()} for name, values in methods.items()
    }


def _judge_by_selection(training: HeadTraining) -> tuple[Judgement, str]:
    """Judge the samples by our scores and selection; return the verdict too."""
    selection, own = select(training.recording.bits), training.own
    return Judgement(selection.scores[own], bitmap.unpack(selection.bitmap, own.size)[own]), selection.verdict


def _judge_passes(training: HeadTraining) -> dict[str, Judgement]:
    """Judge the samples by the peers that look at the recorded passes."""
    logits, labels = training.recording.logits[:, training.own], training.data.y_train[training.own]
    return {
        "mean loss, Gaussian mixture": judges.judge_by_mean_loss(logits, labels, training.settings.seed),
        "AUM, same passes": judges.judge_by_margin(logits, labels),
        "cleanlab, in sample": judges.judge_by_cleanlab(logits[-1], labels),
        "wrong events, beta mixture": judges.judge_by_wrong_events(logits.argmax(axis=2) == labels),
    }


def _judge_by_own_trainings(training: HeadTraining) -> dict[str, Judgement]:
    """Judge the samples by the peers that train at the same cost, or not at all."""
    settings, data, own = training.settings, training.data, training.own
    by_thresholds = judges.judge_by_margin_threshold(settings, data)
    assert by_thresholds.kept is not None
    own_trainings, labels = predict_held_out(settings, data, N_FOLDS)[own], data.y_train[own]
    return {
        "AUM, threshold samples": Judgement(by_thresholds.suspicion[own], by_thresholds.kept[own]),
        "cleanlab, held out": judges.judge_by_cleanlab(own_trainings, labels),
        "votes of neighbours": judges.judge_by_neighbours(data.x_train[own], labels, data.n_classes),
    }


def _measure(judgement: Judgement, clean: Mask) -> Measures:
    """AUC, F1 and the F1 of the best cut; no AUC where no label is wrong."""
    has_both = bool(clean.any() and not clean.all())
    return {
        "auc": auc(judgement.suspicion, clean) if has_both else None,
        "f1": None if judgement.kept is None else f1(judgement.kept, clean),
        "best_f1": best_f1(judgement.suspicion, clean),
        "found": measure_found_share(judgement.suspicion, clean),
    }


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the comparison with the peers, lost rows first, and plot it."""
    features = sorted({str(row.case["features"]) for row in rows})
    comparison = format_comparison(rows, images / "results-features.svg")
    return f"{_TEXT.format(features=', '.join(features))}\n{comparison}\n{format_prior_comparison(rows)}"
