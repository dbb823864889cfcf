"""The summary of a training: ``summary.json``, and its rows and sentences for terminal, report and model card."""

import datetime
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from mild_client.atomic_write import write_atomically
from mild_core import alarms, bitmap
from mild_core.statements import (
    Statement,
    count_judged,
    describe_draw,
    describe_quality,
    describe_truth,
    describe_verdict,
    propose_draw_size,
)
from mild_trainer.clean_set import CleanSet
from mild_trainer.training.history import History, RoundRecord, find_set_round
from mild_trainer.training.loop import get_validation_accuracies
from mild_trainer.training.progress import format_count

_NUMBERS = {
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "noise true": "true_noise",
    "test accuracy": "test_accuracy",
    "noise fitted": "fitted_noise",
}
"""Columns of the table of rounds that are numbers, and their names in ``summary.json``."""
HEADINGS = ("round", "members", "kept", *_NUMBERS, "verdict")
"""Headings of the table of rounds."""


def format_table_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table of rounds, with a cell of text for each of `HEADINGS`.

    After the rounds, the rows are training on all labels, the finish, and training on the true clean set.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    """
    rows = [
        {
            "round": str(record["round"]),
            "members": f"{record['members']:,}",
            "kept": f"{record['selected']:,}",
            **{heading: format_number(record[name]) for heading, name in _NUMBERS.items()},
            "verdict": str(record["verdict"]),
        }
        for record in results["rounds"]
    ]
    n_samples, noise = results["dataset"]["num_samples"], results["noise"]["actual"]
    if validation := results.get("validation"):  # which summaries of earlier versions lack
        n_samples -= validation["num_samples"]
    others = [("all labels", n_samples, results["baseline"]["test_accuracy"], noise)]
    finish, oracle = results["finish"], results["oracle"]
    if finish is not None:
        others.append((finish["method"], finish["n_kept"], finish["test_accuracy"], None))
    if oracle is not None and noise is not None:
        others.append(("true clean", round((1 - noise) * n_samples), oracle["test_accuracy"], 0.0))
    for name, n_members, test_accuracy, wrong_share in others:
        row = {"round": name, "members": f"{n_members:,}", "test accuracy": format_number(test_accuracy)}
        if wrong_share is not None:  # of a set that keeps all of its samples
            f1 = 2 * (1 - wrong_share) / (2 - wrong_share)
            quality = map(format_number, (1 - wrong_share, 1.0, f1))
            row |= zip(("precision", "recall", "F1"), quality, strict=True)
        rows.append(row)
    return [tuple(row.get(heading, "") for heading in HEADINGS) for row in rows]


def build_rounds_table(results: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of rounds, without the columns that no row has a value for.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    """
    rows = format_table_rows(results)
    has_value = [any(cell not in ("", "-") for cell in column) for column in zip(*rows, strict=True)]
    headings, *rows = (tuple(itertools.compress(cells, has_value)) for cells in (HEADINGS, *rows))
    return headings, rows


def describe_data(results: Mapping[str, Any]) -> str:
    """Return the name of the data set, and how its labels were changed."""
    noise = results["settings"]["noise"]
    return f"{results['dataset']['name']}, {'labels as given' if noise == 'none' else f'noise {noise}'}"


def count_samples(results: Mapping[str, Any]) -> str:
    """Return the numbers of training and test samples of a ``summary.json`` in words."""
    data = results["dataset"]
    noun = "images" if data["kind"] == "images" else "samples"
    return f"{data['num_samples']:,} training and {data['num_test']:,} test {noun}"


def describe_last_set(results: Mapping[str, Any], selection: Mapping[str, Any] | None = None) -> list[Statement]:
    """Describe what is known of the clean set of a ``summary.json``, the fit's own figures last.

    Parameters
    ----------
    results
        Content of ``summary.json``.
    selection
        The set's selection as it is now, with what has been audited since; None for that of the summary.
    """
    if not results["rounds"]:
        return []
    record = get_set_round(results)
    statements = describe_quality(record["selection"] if selection is None else selection)
    if record["precision"] is None and record["recall"] is None:
        return statements
    bounded = [statement for statement in statements if statement.basis == "bounded"]
    fitted = [statement for statement in statements if statement.basis == "fitted"]
    return [*bounded, describe_truth(record["precision"], record["recall"]), *fitted]


def describe_state() -> str:
    """Return a sentence that says which marks a file that is written now holds."""
    now = datetime.datetime.now(datetime.UTC)
    return f"Marks made after {now:%Y-%m-%d %H:%M} UTC are not in these figures."


def get_set_round(results: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the round of a ``summary.json`` whose clean set is delivered."""
    rounds: list[dict[str, Any]] = results["rounds"]
    return rounds[find_set_round([record["selection"] for record in rounds])]


def describe_set_round(results: Mapping[str, Any]) -> str | None:
    """Return a sentence where the delivered clean set is not that of the last round; None where it is."""
    if not results["rounds"]:
        return None
    last, number = results["rounds"][-1], get_set_round(results)["round"]
    if last["round"] == number:
        return None
    return (
        f"The clean set is that of round {number}, the last that was cut: round {last['round']} keeps everyone, as its "
        f"verdict, {last['verdict']}, allows no cut."
    )


def describe_next_step(statements: Sequence[Statement], review_command: str, results: Mapping[str, Any]) -> str | None:
    """Describe how labels of the last set get checked; None where it is bounded, or the true labels are known.

    Parameters
    ----------
    statements
        What is known of the set.
    review_command
        `mild review` with the training.
    results
        Content of ``summary.json``.
    """
    if not statements or statements[0].basis not in ("unknown", "measured"):
        return None
    selection = results["rounds"][-1]["selection"]
    n = propose_draw_size(count_judged(selection))
    options = f"--draw {n}" if selection.get("run_id") is not None else f"--order random --limit {n}"
    return f"{describe_draw(n)}: {review_command} {options}"


def describe_last_verdict(results: Mapping[str, Any]) -> str | None:
    """Return sentences with the verdict on the last fit, its reasons and its meaning; None without rounds."""
    if not results["rounds"]:
        return None
    selection = results["rounds"][-1]["selection"]
    reasons = "; ".join(str(reason).replace("`", "") for reason in selection["reasons"])
    verdict = f"{selection['verdict']}{reasons and f' ({reasons})'}"
    return f"Verdict on the last fit: {verdict}. {describe_verdict(selection)}"


def describe_planting(results: Mapping[str, Any]) -> str | None:
    """Return a sentence about the planted samples of a ``summary.json``; None without planted samples."""
    planted = results["planted"]
    if planted is None or not results["rounds"]:
        return None
    n_planted, n_returned = planted["num_samples"], planted["returned"]
    verb = "was" if n_planted == 1 else "were"
    changed = f"{format_count(n_planted, 'label')} {verb} changed on purpose in round 0, to calibrate"
    if not results["rounds"][-1]["round"]:
        return f"{changed}; the set of round 0 leaves their samples out."
    share = f"all {n_planted}" if n_returned == n_planted else f"{n_returned} of {n_planted}"
    return f"{changed}. They have their own labels again since, and {share} are in the final set."


def describe_validation(results: Mapping[str, Any]) -> str | None:
    """Return a sentence that compares the validation accuracy of the rounds; None without held-out samples."""
    validation = results.get("validation")
    if validation is None or not results["rounds"]:
        return None
    accuracies = ", ".join(format_number(record["validation_accuracy"]) for record in results["rounds"])
    samples, error = (
        format_count(validation["num_samples"], "held-out sample"),
        format_number(validation["standard_error"]),
    )
    best, last = (results["rounds"][at]["validation_accuracy"] for at in (validation["best_round"], -1))
    comparison = (
        ", no more than a standard error above the last" if 0 < best - last <= validation["standard_error"] else ""
    )
    return (
        f"Accuracy on the given labels of {samples}, round by round: {accuracies} (standard error {error}); "
        f"best in round {validation['best_round']}{comparison}."
    )


def describe_alarms(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each alarm of each round of a ``summary.json``."""
    return [f"Round {record['round']}: {alarm}." for record in results["rounds"] for alarm in record["alarms"]]


def format_number(value: float | None) -> str:
    """Return the number with three decimals; a dash for None."""
    return "-" if value is None else f"{value:.3f}"


def find_round_alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    """Return the alarms after the last of `rounds`, each a sentence without a full stop.

    Precision and recall are measured against the true labels, or else on the audited samples. Where neither is known,
    only the accuracies raise alarms.
    """
    accuracies = {
        "test accuracy": [record.test_accuracy for record in rounds if record.test_accuracy is not None],
        "validation accuracy": get_validation_accuracies(rounds),
    }
    messages = alarms.find_alarms(*_get_precision_recall(rounds[-1]), accuracies)
    if rounds[-1].summary["verdict"] == "learning":
        messages.append("the network was still learning, so nothing is cut: train longer (--epochs)")
    return messages


def find_held_out_alarms(history: History, record: RoundRecord) -> list[str]:
    """Return how the held-out labels of ``--validation`` and ``--verify`` speak against the fit of a round."""
    noise = record.summary["fitted"].get("noise_rate")
    fitted_noise = None if noise is None else float(noise["low"])
    messages = []
    if record.validation_accuracy is not None and history.held_out is not None:
        labels = history.data.y_train[bitmap.unpack(history.held_out, history.data.n_samples)]
        commonest = float(np.bincount(labels).max() / labels.size)  # what a network gets that predicts one class alone
        messages += alarms.find_held_out_alarms(record.validation_accuracy, labels.size, commonest, fitted_noise)
    agreement = history.held_out_agreement
    if agreement is not None:  # compared with chance already: without signal, there are no rounds
        messages += alarms.find_held_out_alarms(agreement.agreement, agreement.n_samples, None, fitted_noise)
    return messages


def _get_precision_recall(record: RoundRecord) -> tuple[float | None, float | None]:
    """Return the precision and the recall of a round's clean set; None where they are unknown."""
    if record.agreement is not None:
        return record.agreement.precision, record.agreement.recall
    audit_metrics = record.summary.get("measured") or {}
    return audit_metrics.get("precision"), audit_metrics.get("recall")


def summarise_training(history: History) -> dict[str, Any]:
    """Return the content of ``summary.json`` for a training, as JSON values."""
    data, settings = history.data, history.settings
    return {
        "settings": settings.as_json(),
        "versions": {
            "mild-selection": metadata.version("mild-selection"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "dataset": {
            "name": data.name,
            "num_samples": data.n_samples,
            "num_test": len(data.y_test),
            "num_classes": data.n_classes,
            "kind": "features" if data.has_features else "images",
            "shape": list(data.x_train.shape[1:]),
        },
        "noise": {"spec": settings.noise, "actual": history.true_noise},
        "verified": history.held_out_agreement
        and {
            **asdict(history.held_out_agreement),
            "what": "agreement of the given labels with networks that were trained on the other half of the samples",
        },
        "planted": None
        if history.planted is None
        else {
            "fraction": settings.plant,
            "how": settings.plant_how,
            "num_samples": history.n_planted,
            "returned": history.n_returned,
            "what": "labels broken on purpose in round 0, which leaves their samples out; those in the last set again",
        },
        "validation": None
        if not history.n_held_out
        else {
            "share": settings.validation,
            "num_samples": history.n_held_out,
            "patience": settings.patience,
            "best_round": history.best_round,
            "standard_error": history.validation_standard_error,
            "what": "samples held out of all training: no set holds them, and their given labels compare the rounds",
        },
        "rounds": [
            {
                **_summarise_round(record, history.true_noise),
                "alarms": [*find_round_alarms(history.rounds[: i + 1]), *find_held_out_alarms(history, record)],
            }
            for i, record in enumerate(history.rounds)
        ],
        "ended": history.stop_reason,
        "baseline": {
            "test_accuracy": history.rounds[0].test_accuracy if history.rounds else None,
            "what": "the same network and epochs on all labels, planted ones included, which is what round 0 trains on",
        },
        "finish": history.finish_result
        and {
            **asdict(history.finish_result),
            "ema": settings.ema,
            "what": "a fresh network trained after the last round; its weights are those of model.safetensors",
        },
        "passes": {
            **asdict(history.compute_cost),
            "what": "samples sent through a network and learnt from, in the rounds and in the finish, planting and "
            "observing included; comparisons, checks and tests are left out",
        },
        "oracle": None
        if history.oracle_accuracy is None
        else {
            "test_accuracy": history.oracle_accuracy,
            "what": "the same network and epochs on the truly clean samples alone",
        },
    }


def _summarise_round(record: RoundRecord, true_noise: float | None) -> dict[str, Any]:
    return {
        "round": record.round,
        "members": record.n_members,
        "selected": record.n_selected,
        **(dict.fromkeys(("precision", "recall", "f1")) if record.agreement is None else asdict(record.agreement)),
        "fitted_noise": record.fitted_noise,
        "true_noise": true_noise,
        "test_accuracy": record.test_accuracy,
        "validation_accuracy": record.validation_accuracy,
        "verdict": record.summary["verdict"],
        "overlap": record.overlap,
        "seconds": sum(epoch.seconds for epoch in record.epochs),
        "selection": dict(record.summary),
        "fit": record.fit and asdict(record.fit),
        "epochs": [{"epoch": epoch.epoch, **epoch.to_metrics(), "seconds": epoch.seconds} for epoch in record.epochs],
    }


def write_summary(results: dict[str, Any], folder: Path) -> Path:
    """Write the result of `summarise_training` to ``summary.json`` in `folder`, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    write_atomically(path, f"{json.dumps(results, indent=2)}\n".encode())
    return path


def write_clean_set(
    history: History,
    folder: Path,
    samples: CleanSet | None = None,
    predicted: NDArray[np.int64] | None = None,
) -> str | None:
    """Write the clean set of a training to ``clean.npy`` and ``clean.csv``, and return a line about them.

    Without rounds, delete the files of an earlier training and return None.

    Parameters
    ----------
    history
        The training, whose data set has the names of samples and classes.
    folder
        Folder of the files.
    samples
        Scores and marks of the samples; None if they are unknown.
    predicted
        Shape (n_samples,), labels that the last network predicts; None if they are unknown. Those that differ from the
        given ones are the suggested labels.
    """
    paths = [folder / "clean.npy", folder / "clean.csv"]
    if not history.rounds:
        for path in paths:
            path.unlink(missing_ok=True)
        return None
    kept = bitmap.unpack(history.set_round.selected, history.data.n_samples)
    result = replace(samples or CleanSet(kept), kept=kept).name_samples(history.data, predicted)
    for path in paths:
        result.write(path)
    line = f"{result.describe_file(paths[0])}; {paths[1]} has a line for each"
    is_last = history.set_round is history.rounds[-1]
    return line if is_last else f"{line}. It is the set of round {history.set_round.round}, the last that was cut"


def build_terminal_table(results: dict[str, Any]) -> Table:
    """Return the table of rounds for a terminal of 80 columns, without the verdicts."""
    settings = results["settings"]
    table = Table(
        title=f"{describe_data(results)}, {settings['model']}, {settings['epochs']} epochs a round",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    headings, rows = build_rounds_table(results)
    n_columns = len(headings) - ("verdict" in headings)
    for heading in headings[:n_columns]:
        table.add_column(heading.replace(" ", "\n"), justify="left" if heading == "round" else "right", no_wrap=True)
    for i, row in enumerate(rows):
        table.add_row(*row[:n_columns], end_section=i == len(results["rounds"]) - 1)
    return table
