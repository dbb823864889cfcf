"""The paper's three first experiments: tracking, fixed and fitted thresholds, and two rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

from benchmarks.truth import auc
from mild_core import bitmap
from mild_core.scores import score_samples
from mild_core.selection import select
from mild_core.types import SelectionOptions
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import SetMetrics
from mild_trainer.training.trainer import Trainer
from studies.programme import Case, Inputs, Line, Row, format_judged, format_table
from studies.trainings import (
    DATA_POINTER,
    SMALL,
    RecordedTraining,
    describe_rounds,
    explain_accuracy,
    load_case,
    make_cases,
    make_settings,
    record_training,
)

TITLE = "The first experiments: tracking, thresholds, two rounds"
FIXED_SHARES = (0.25, 0.5, 0.75)
"""Fixed thresholds, as shares of the epochs in which a kept sample may be misclassified; the middle one is metric 0."""
_WAYS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tracking": {"rounds": 1, "plant": 0.0},
        "fitted": {"rounds": 2, "oracle": True},
        "fixed": {"rounds": 2, "selection": SelectionOptions(threshold="value", value=0.0)},
    }
)
"""Settings of each experiment."""
_TEXT = f"""{DATA_POINTER}

Means over seeds. *Tracking*: the same training without and with recorded bits, everyone observed, no label planted.
*Thresholds*: the metric of round 0 cut by the fit, and at a fixed value, given as the share of the epochs in which a
kept sample may be misclassified (metric 0 is 0.50). *Two rounds*: by the defaults, and with the fixed threshold 0.50;
round 1 trains on the set of round 0. A row is lost, and in bold, where a fixed threshold has the better F1, or
where two rounds are less accurate than training on all labels.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List the experiments: all on symmetric 0.2, and the thresholds on more noise where trainings are short."""
    ways = tuple(_WAYS)
    small = make_cases(inputs, (SMALL,), 3, ("symmetric:0.2",), way=ways)
    if inputs.profile == "gpu":
        return small
    short = make_cases(inputs, ("lite2",), 5, ("symmetric:0.2",), way=ways)
    short += make_cases(inputs, ("digits",), 3, ("symmetric:0.2",), way=ways)
    noises = ("symmetric:0.8", "pairflip:0.4", "human:worse")
    short += make_cases(inputs, ("lite2",), 5, noises, way=ways[1:])
    return short + make_cases(inputs, ("digits",), 3, noises, way=ways[1:]) + small


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the settings of an experiment."""
    return (make_settings(case, **_WAYS[str(case["way"])]),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train without and with tracking, or over two rounds."""
    (settings,), data = list_settings(case), load_case(case, inputs)
    if case["way"] == "tracking":
        return _compare_tracking(settings, data)
    training = record_training(settings, data)
    if case["way"] == "fixed":
        return describe_rounds(training)
    return {
        **describe_rounds(training),
        "auc": round(_measure_auc(training), 4),
        "fixed_f1": {f"{share:g}": round(f1, 4) for share, f1 in _cut_at_shares(training).items()},
        "accuracy_true_set": training.history.oracle_accuracy,
    }


def _compare_tracking(settings: TrainSettings, data: Dataset) -> Mapping[str, Any]:
    """Train on all labels without recording, and with it."""
    untracked = Trainer(settings, data).train_comparison_network(bitmap.full(data.n_samples))
    tracked = record_training(settings, data).history.rounds[0].test_accuracy
    return {"accuracy_untracked": untracked, "accuracy_tracked": tracked}


def _measure_auc(training: RecordedTraining) -> float:
    """Return the area under the curve of the metric of round 0, without planted samples."""
    values = score_samples(training.rounds[:1], "mild-simple").values
    return auc(values[training.own], training.clean[training.own])


def _cut_at_shares(training: RecordedTraining) -> dict[float, float]:
    """Return the F1 of the fixed thresholds in round 0, and under 0 that of the fitted one, without planted samples."""
    bits, own = training.rounds[0], training.own
    selections = {0.0: training.selections[0]} | {
        share: select(bits, SelectionOptions(threshold="value", value=(2 * share - 1) * bits.n_epochs))
        for share in FIXED_SHARES
    }
    kept = {share: bitmap.unpack(selection.bitmap, len(own)) & own for share, selection in selections.items()}
    return {share: SetMetrics.compare(mask, training.clean & own).f1 for share, mask in kept.items()}


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return one table for each experiment."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (str(row.case["way"]), str(row.case["data"]), str(row.case["noise"]))
        groups.setdefault(key, []).append(row.result)
    parts = (_format_tracking(groups), _format_thresholds(groups), _format_two_rounds(groups))
    return "\n".join((_TEXT, *parts))


Groups = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
"""Results by way, data and noise, one for each seed."""


def _format_tracking(groups: Groups) -> str:
    lines, n_equal, n_all = [], 0, 0
    for (way, data, noise), results in groups.items():
        if way == "tracking":
            n_equal += sum(result["accuracy_untracked"] == result["accuracy_tracked"] for result in results)
            n_all += len(results)
            accuracies = [_format_mean(results, name) for name in ("accuracy_untracked", "accuracy_tracked")]
            lines.append((f"{data}, {noise}", str(len(results)), *accuracies))
    text = f"""Recording bits changes no training: {n_equal} of {n_all} end with the very same test accuracy. It costs a
forward pass of every sample and epoch; what the tracker itself costs is in
[tracker-cpu.md](../benchmarks/results/tracker-cpu.md).

"""
    return text + format_table(("data, noise", "seeds", "test accuracy, tracking off", "tracking on"), lines)


def _format_thresholds(groups: Groups) -> str:
    lines = []
    for (way, data, noise), results in groups.items():
        if way != "fitted":
            continue
        f1 = {name: fmean(result["fixed_f1"][name] for result in results) for name in results[0]["fixed_f1"]}
        gain = f1["0"] - max(f1[f"{share:g}"] for share in FIXED_SHARES)
        threshold = _format_mean([{"cut": result["threshold"][0]} for result in results], "cut")
        cells = (str(len(results)), _format_mean(results, "auc"), threshold, *(f"{mean:.3f}" for mean in f1.values()))
        loss = _explain_threshold(results, gain) if gain < 0 else ""
        lines.append(Line(f"{data}, {noise}", cells, gain, loss))
    n_lost = sum(line.gain < 0 for line in lines)
    text = f"""Some fixed threshold is ahead of the fitted one in {n_lost} of {len(lines)} rows. Which of them that is
differs between rows and is not known beforehand; the last three columns of F1 show what a wrong choice costs.

"""
    heads = ("data, noise", "seeds", "AUC", "fitted threshold", "F1, fitted", *(f"F1, {s:.2f}" for s in FIXED_SHARES))
    return text + format_judged(heads, lines)


def _explain_threshold(results: Sequence[Mapping[str, Any]], gain: float) -> str:
    """Return why a fixed threshold is ahead of the fitted one."""
    n_whole = sum(result["threshold"][0] is None for result in results)
    precision, recall = _average(results, "precision", "recall")
    if n_whole:
        reason = f"the fit keeps everyone in {n_whole} of {len(results)} seeds"
    elif recall < precision:
        reason = f"the fit cuts low, {1 - recall:.0%} of the right labels are dropped"
    else:
        reason = f"the fit cuts high, {1 - precision:.0%} of the kept labels are wrong"
    return f"F1 by {-gain:.3f}: {reason}"


def _format_two_rounds(groups: Groups) -> str:
    lines = []
    for (way, data, noise), results in groups.items():
        if way == "tracking" or ("fitted", data, noise) not in groups:
            continue
        gain = fmean(result["accuracy"][-1] - result["accuracy"][0] for result in results)
        cells = [str(len(results))]
        for number in (0, -1):
            cells += [f"{fmean(r[field][number] for r in results):.3f}" for field in ("precision", "recall", "f1")]
        cells += [f"{fmean(r['accuracy'][number] for r in results):.3f}" for number in (0, -1)]
        true_set = fmean(result["accuracy_true_set"] for result in groups["fitted", data, noise])
        all_labels, kept_set = (fmean(r["accuracy"][number] for r in results) for number in (0, -1))
        loss = explain_accuracy((all_labels, kept_set, true_set), *_average(results, "precision", "recall"))
        lines.append(Line(f"{data}, {noise}, {way} threshold", [*cells, f"{true_set:.3f}"], gain, loss))
    heads = (
        *("data, noise", "seeds", "precision, round 0", "recall", "F1", "precision, round 1", "recall", "F1"),
        *("test accuracy, all labels", "test accuracy, kept set", "test accuracy, true clean set"),
    )
    return format_judged(heads, lines)


def _average(results: Sequence[Mapping[str, Any]], *fields: str) -> list[float]:
    """Return the means over seeds of fields of the set that is trained on, that of round 0."""
    return [fmean(result[field][0] for result in results) for field in fields]


def _format_mean(results: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the mean of a field over the seeds; ``-`` where a seed has none."""
    values = [result[name] for result in results]
    return "-" if None in values else f"{fmean(values):.3f}"
