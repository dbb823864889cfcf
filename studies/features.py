"""Heads on frozen features for one round: our selection beside the peers, on the same passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import judges
from benchmarks.judges import Judgement
from benchmarks.logits import Logits, Recording, RecordingTrainer, held_out
from benchmarks.truth import Mask, auc, best_f1, f1, share_found
from mild_core import bitmap
from mild_core.selection import select
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from studies.heads import HUMAN_COLUMNS, load_half, record_head
from studies.peer_tables import EVERYONE, OURS, RIGHT, format_comparison
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

_TEXT = """Linear heads on features of frozen networks ({features}), trained by the defaults for `features` for one
round on one half of the images of each file. `human:` is noise of CIFAR-10N and CIFAR-100N. Right and wrong labels are
those of the data set; 2% of the labels are planted, and these samples are left out everywhere. AUC: of the ranking, F1:
of the right labels in the set that a method keeps. Ours is the score and the selection by its defaults. Mean loss, AUM
of the same passes, cleanlab in sample and wrong events judge the passes that our bits are of; AUM with threshold
samples and cleanlab held out train networks of their own at the same cost; neighbours are judged on the features.
"""


@dataclass(frozen=True, slots=True, eq=False)
class _Training:
    """A recorded training, with what its judges need; masks and labels of shape (n_samples,)."""

    settings: TrainSettings
    data: Dataset
    recording: Recording
    clean: Mask
    own: Mask
    """Samples whose label was not planted: those that are judged."""

    @property
    def own_logits(self) -> Logits:
        """Logits of the judged samples in every epoch, shape (n_epochs, n_own, n_classes)."""
        return self.recording.logits[:, self.own]

    @property
    def own_labels(self) -> NDArray[np.int64]:
        """Labels of the judged samples."""
        return self.data.y_train[self.own]


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
    """Train a head, and let everybody judge its samples, of which the planted ones are left out."""
    training = _train(case, inputs)
    trainer = RecordingTrainer(training.settings, training.data)
    clean, own = training.clean, training.own
    selection = select(training.recording.bits)
    ours = Judgement(selection.scores[own], bitmap.unpack(selection.bitmap, own.size)[own])
    judgements = {OURS: ours, **_judge_by_peers(training)}
    methods = {name: _measure(judgement, clean[own]) for name, judgement in judgements.items()}
    methods[EVERYONE] = _measure(Judgement(np.zeros(own.sum()), np.ones(own.sum(), dtype=bool)), clean[own])
    sets: dict[str, Mask] = {name: found.kept for name, found in judgements.items() if found.kept is not None}
    sets |= {EVERYONE: np.ones(own.sum(), dtype=bool), RIGHT: clean[own]}
    methods[RIGHT] = {}
    for name, kept in sets.items():
        members = np.flatnonzero(own)[kept]
        methods[name]["accuracy"] = trainer.train_comparison_network(bitmap.from_indices(members, own.size))
    result = {
        name: {k: None if v is None else round(v, 4) for k, v in values.items()} for name, values in methods.items()
    }
    wrong = float((~clean[own]).mean())
    return {"methods": result, "verdict": selection.verdict, "noise_rate": round(wrong, 4)}


def _train(case: Case, inputs: Inputs) -> _Training:
    (settings,) = list_settings(case)
    path, noise = inputs.features[str(case["features"])], str(case["noise"])
    data = load_half(path, inputs.human_labels, noise, inputs.half, settings.seed)
    recording = record_head(settings, data)
    assert data.clean is not None
    assert recording.bits.planted is not None
    own = ~bitmap.unpack(recording.bits.planted, data.n_samples)
    return _Training(settings, data, recording, data.clean, own)


def _judge_by_peers(training: _Training) -> dict[str, Judgement]:
    """Judge the samples by every peer, on the recorded passes or by trainings of its own at the same cost."""
    settings, data, own = training.settings, training.data, training.own
    logits, labels = training.own_logits, training.own_labels
    correct = logits.argmax(axis=2) == labels
    by_thresholds = judges.area_under_margin_thresholded(settings, data)
    assert by_thresholds.kept is not None
    own_trainings = held_out(settings, data, N_FOLDS)[own]
    return {
        "mean loss, Gaussian mixture": judges.mean_loss(logits, labels, settings.seed),
        "AUM, same passes": judges.area_under_margin(logits, labels),
        "AUM, threshold samples": Judgement(by_thresholds.suspicion[own], by_thresholds.kept[own]),
        "cleanlab, in sample": judges.cleanlab(logits[-1], labels),
        "cleanlab, held out": judges.cleanlab(own_trainings, labels),
        "wrong events, beta mixture": judges.wrong_events(correct),
        "votes of neighbours": judges.neighbour_votes(data.x_train[own], labels, data.n_classes),
    }


def _measure(judgement: Judgement, clean: Mask) -> dict[str, float | None]:
    """AUC, F1 and the F1 of the best cut; no AUC where no label is wrong."""
    has_both = bool(clean.any() and not clean.all())
    return {
        "auc": auc(judgement.suspicion, clean) if has_both else None,
        "f1": None if judgement.kept is None else f1(judgement.kept, clean),
        "best_f1": best_f1(judgement.suspicion, clean),
        "found": share_found(judgement.suspicion, clean),
    }


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return the comparison with the peers, lost rows first, and plot it."""
    features = sorted({str(row.case["features"]) for row in rows})
    return _TEXT.format(features=", ".join(features)) + "\n" + format_comparison(rows, images / "results-features.svg")
