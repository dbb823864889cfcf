"""What the selection does to small classes under a long tail, and to a minority of shifted images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import SelectionOptions
from mild_trainer.data import Dataset
from mild_trainer.data.imbalance import make_imbalanced
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import SetMetrics
from studies.programme import Case, Inputs, Line, Row, format_judged
from studies.trainings import (
    DATA_POINTER,
    SMALL,
    RecordedTraining,
    explain_accuracy,
    get_seed,
    load_case,
    make_cases,
    make_settings,
    record_training,
    train_on,
)

TITLE = "Long tails, and a shift between training and test"
CUTS: Mapping[str, SelectionOptions] = MappingProxyType(
    {
        "one cut": SelectionOptions(),
        "per class": SelectionOptions(per_class=True),
        "a third of each class": SelectionOptions(min_keep_class=1 / 3),
    }
)
"""Options of the selection that are compared."""
TAILS = ("none", "exp:0.1", "exp:0.02")
SHIFTED_SHARE = 0.1
_N_SMALL_CLASSES = 3
_TEXT = f"""{DATA_POINTER}

Two rounds, then a fresh network is trained on the kept set, on all labels and on the true clean set. *Tail*: the
largest class has as many times the samples of the smallest; the sizes fall geometrically. *Small classes*: the smallest
{_N_SMALL_CLASSES} of ten; recall is the share of their right labels that are kept, precision the share of kept samples
so labelled that are right. *Reversed test*: accuracy where the rarest class of the training is the commonest. *One cut*
is the default; *per class* has a fit and a cut for each class, *a third of each class* keeps that much whatever the cut
says. A row is lost, and in bold, where the kept set is less accurate than all labels, on the balanced or on the
reversed test.
"""
_SHIFT_TEXT = f"""{{tail_table}}
{SHIFTED_SHARE:.0%} of the training images have a quarter of the contrast and noise on the pixels, as of another camera;
tested on plain images and on such alone, which is a test distribution that training has hardly seen. Symmetric noise
of 0.4 over all. A row is lost, and in bold, where the kept set is less accurate than all labels on the
shifted test.

"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List the long tails with each way to cut, and the shifts."""
    if inputs.profile == "gpu":
        tails = make_cases(inputs, (), 3, ("symmetric:0.4", "pairflip:0.4"), tail=TAILS, cut=tuple(CUTS))
        return [*tails, *make_cases(inputs, (), 3, ("symmetric:0.4",), tail=("shift",), cut=("one cut",))]
    noises = ("symmetric:0.4", "pairflip:0.4", "human:worse")
    shift: Mapping[str, Any] = {"tail": ("shift",), "cut": ("one cut",)}
    return [
        *make_cases(inputs, ("lite2",), 5, noises, tail=TAILS, cut=tuple(CUTS)),
        *make_cases(inputs, ("digits",), 3, noises[:1], tail=TAILS, cut=tuple(CUTS)),
        *make_cases(inputs, ("digits",), 3, noises[:1], **shift),
        *make_cases(inputs, (SMALL,), 2, noises[:1], **shift),
    ]


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the settings of two rounds with the cut of a case."""
    return (make_settings(case, rounds=2, selection=CUTS[str(case["cut"])]),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train over two rounds on unequal classes or partly shifted images, and then on three sets."""
    (settings,), data = list_settings(case), load_case(case, inputs)
    if case["tail"] == "shift":
        return _run_shift(settings, data, get_seed(case))
    data = make_imbalanced(data, str(case["tail"]), get_seed(case))
    training = record_training(settings, data)
    kept, clean = _get_kept_mask(training), training.clean
    small = np.argsort(np.bincount(data.y_train_clean, minlength=data.n_classes), kind="stable")  # type: ignore[arg-type]  # known
    is_small = np.isin(data.y_train, small[:_N_SMALL_CLASSES])
    everyone = SetMetrics.compare(np.ones_like(clean), clean)
    metrics, of_small = SetMetrics.compare(kept, clean), SetMetrics.compare(kept & is_small, clean & is_small)
    result = {
        "verdict": training.selections[-1].verdict,
        "n_samples": data.n_samples,
        "f1": metrics.f1,
        "f1_everyone": everyone.f1,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "recall_small": of_small.recall,
        "precision_small": of_small.precision,
        "right_small": float(clean[is_small].mean()),
    }
    for name, members in (("all", np.ones_like(clean)), ("kept", kept), ("true", clean)):
        (predicted,) = train_on(bitmap.pack(members), settings, data, data)
        result |= {f"{kind}_{name}": value for kind, value in _measure_accuracies(predicted, data).items()}
    return {name: value if isinstance(value, str) else round(value, 4) for name, value in result.items()}


def _get_kept_mask(training: RecordedTraining) -> NDArray[np.bool_]:
    """Return the mask of the set that the training delivers, shape (n_samples,)."""
    return bitmap.unpack(training.history.set_round.selected, training.history.data.n_samples)


def _measure_accuracies(predicted: NDArray[np.int64], data: Dataset) -> dict[str, float]:
    """Return the accuracy with equal classes, and where the shares of the training's classes are reversed."""
    right = predicted == data.y_test
    assert data.y_train_clean is not None
    accuracies = np.array([right[data.y_test == label].mean() for label in range(data.n_classes)])
    sizes = np.bincount(data.y_train_clean, minlength=data.n_classes)
    reversed_shares = np.empty_like(accuracies)
    reversed_shares[np.argsort(sizes, kind="stable")] = np.sort(sizes)[::-1] / sizes.sum()
    return {"balanced": float(accuracies.mean()), "reversed": float(accuracies @ reversed_shares)}


def _run_shift(settings: TrainSettings, data: Dataset, seed: int) -> Mapping[str, Any]:
    """Shift a tenth of the training images and a copy of the test images, and train as without a shift."""
    rng = np.random.default_rng((seed, 7))
    is_shifted = np.zeros(data.n_samples, dtype=bool)
    is_shifted[rng.permutation(data.n_samples)[: round(SHIFTED_SHARE * data.n_samples)]] = True
    images = np.where(is_shifted[:, None, None, None], shift_images(data.x_train, rng), data.x_train)
    data = replace(data, x_train=images)
    tests = (data, replace(data, x_test=shift_images(data.x_test, rng)))
    training = record_training(settings, data)
    kept, clean = _get_kept_mask(training), training.clean
    result: dict[str, Any] = {"verdict": training.selections[-1].verdict}
    for name, mask in (("plain", ~is_shifted), ("shifted", is_shifted)):
        metrics = SetMetrics.compare(kept & mask, clean & mask)
        result |= {f"recall_{name}": round(metrics.recall, 4), f"precision_{name}": round(metrics.precision, 4)}
    for name, members in (("all", np.ones_like(clean)), ("kept", kept), ("true", clean)):
        for kind, predicted in zip(
            ("plain", "shifted"), train_on(bitmap.pack(members), settings, data, *tests), strict=True
        ):
            result[f"{kind}_{name}"] = round(float((predicted == data.y_test).mean()), 4)
    return result


def shift_images(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return images with a quarter of the contrast around their mean, and normal noise on the pixels."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    shifted = mean + 0.25 * (images - mean) + rng.normal(0, 16, images.shape)
    clipped: NDArray[np.uint8] = np.clip(np.rint(shifted), 0, 255).astype(np.uint8)
    return clipped


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return a table of the long tails and one of the shifts, and what they come to in words."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (str(row.case["data"]), str(row.case["noise"]), str(row.case["tail"]), str(row.case["cut"]))
        groups.setdefault(key, []).append(row.result)
    means = {key: _average(results) for key, results in groups.items()}
    counts = {key: len(results) for key, results in groups.items()}
    tails = {key: mean for key, mean in means.items() if key[2] != "shift"}
    shifts = {key: mean for key, mean in means.items() if key[2] == "shift"}
    text = f"{_TEXT}\n{_describe_tails(tails)}\n\n{_format_tails(tails, counts)}"
    return _SHIFT_TEXT.format(tail_table=text) + _format_shifts(shifts, counts) if shifts else text


Means = Mapping[tuple[str, str, str, str], Mapping[str, float]]
"""Mean results by data, noise, tail and cut."""


def _average(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of every number over the seeds."""
    return {name: fmean(r[name] for r in results) for name in results[0] if not isinstance(results[0][name], str)}


def _describe_tails(means: Means) -> str:
    """Return what the tails come to, a line for each way to cut."""
    lines = []
    for cut in CUTS:
        alike = {key: mean for key, mean in means.items() if key[3] == cut and key[2] != "none"}
        if not alike:
            continue
        lost = sum(_is_lost(mean) for mean in alike.values())
        gain = fmean(mean["balanced_kept"] - mean["balanced_all"] for mean in alike.values())
        recalls = (fmean(mean[name] for mean in alike.values()) for name in ("recall_small", "recall"))
        lines.append(
            f"- *{cut}* is less accurate than all labels in {lost} of {len(alike)} rows with a tail, {gain:+.3f} in the"
            " mean; it keeps {:.2f} of the right labels of small classes and {:.2f} of all.".format(*recalls)
        )
    return "\n".join(lines)


def _is_lost(mean: Mapping[str, float]) -> bool:
    """Check whether the kept set is less accurate than all labels on one of the tests."""
    return any(mean[f"{kind}_kept"] < mean[f"{kind}_all"] for kind in ("balanced", "reversed"))


def _format_tails(means: Means, counts: Mapping[tuple[str, str, str, str], int]) -> str:
    lines = []
    for key, mean in means.items():
        data, noise, tail, cut = key
        factor = "no tail" if tail == "none" else f"{1 / float(tail.removeprefix('exp:')):.0f} times"
        name = f"{data}, {noise}, {factor}, *{cut}*"
        fields = ["f1", "f1_everyone", "recall", "recall_small", "precision_small", "right_small"]
        fields += [f"{kind}_{name}" for kind in ("balanced", "reversed") for name in ("all", "kept", "true")]
        cells = [str(counts[key]), f"{mean['n_samples']:,.0f}", *(f"{mean[field]:.3f}" for field in fields)]
        gain, kind = min((mean[f"{kind}_kept"] - mean[f"{kind}_all"], kind) for kind in ("balanced", "reversed"))
        small = kind == "reversed"
        precision, recall = (mean[f"{field}_small" if small else field] for field in ("precision", "recall"))
        loss = explain_accuracy((mean[f"{kind}_all"], mean[f"{kind}_kept"], mean[f"{kind}_true"]), precision, recall)
        lines.append(Line(name, cells, gain, f"small classes: {loss}" if small and loss else loss))
    heads = (
        *("data, noise, tail, cut", "seeds", "samples", "F1", "F1, everyone", "recall", "recall, small classes"),
        *("precision, small", "right labels among small", "accuracy, all labels", "kept set", "true clean set"),
        *("reversed test, all labels", "kept set", "true clean set"),
    )
    return format_judged(heads, lines)


def _format_shifts(means: Means, counts: Mapping[tuple[str, str, str, str], int]) -> str:
    lines = []
    for key, mean in means.items():
        fields = ["recall_plain", "recall_shifted", "precision_plain", "precision_shifted"]
        fields += [f"{kind}_{name}" for kind in ("plain", "shifted") for name in ("all", "kept", "true")]
        gain = mean["shifted_kept"] - mean["shifted_all"]
        accuracies = (mean["shifted_all"], mean["shifted_kept"], mean["shifted_true"])
        loss = explain_accuracy(accuracies, mean["precision_shifted"], mean["recall_shifted"])
        cells = [str(counts[key]), *(f"{mean[field]:.3f}" for field in fields)]
        lines.append(Line(key[0], cells, gain, loss))
    heads = (
        *("data", "seeds", "recall, plain", "recall, shifted", "precision, plain", "precision, shifted"),
        *("plain test, all labels", "kept set", "true clean set"),
        *("shifted test, all labels", "kept set", "true clean set"),
    )
    return format_judged(heads, lines)
