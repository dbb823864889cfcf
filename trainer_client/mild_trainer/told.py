"""A training's ``summary.json`` in words and rows, as the terminal, the report and the model card tell it."""

from collections.abc import Mapping
from typing import Any

from mild_trainer.progress import counted

HEADINGS = (
    "round",
    "members",
    "kept",
    "precision",
    "recall",
    "F1",
    "noise estimated",
    "noise true",
    "test accuracy",
    "verdict",
)
"""Columns of the table of rounds."""


def rows(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return one row a round, and one each for training on all labels, the finish, and the true clean set."""
    found = [
        (
            str(told["round"]),
            f"{told['members']:,}",
            f"{told['selected']:,}",
            *(number(told[name]) for name in ("precision", "recall", "f1", "estimated_noise", "true_noise")),
            number(told["test_accuracy"]),
            str(told["verdict"]),
        )
        for told in numbers["rounds"]
    ]
    n_samples, noise = numbers["dataset"]["num_samples"], numbers["noise"]["actual"]
    if held := _validation(numbers):
        n_samples -= held["num_samples"]
    truth = ("", "", "") if noise is None else (number(1 - noise), number(1.0), number(_f1(noise)))
    found.append(("all labels", f"{n_samples:,}", "", *truth, "", "", number(numbers["baseline"]["test_accuracy"]), ""))
    finish, oracle = numbers["finish"], numbers["oracle"]
    if finish is not None:
        found.append((finish["method"], f"{finish['n_kept']:,}", *[""] * 6, number(finish["test_accuracy"]), ""))
    if oracle is not None and noise is not None:
        n_clean = round((1 - noise) * n_samples)
        perfect = ("1.000",) * 3
        found.append(("true clean", f"{n_clean:,}", "", *perfect, "", "", number(oracle["test_accuracy"]), ""))
    return found


def planting(numbers: Mapping[str, Any]) -> str | None:
    """What became of the planted samples, in a sentence; None where there are none."""
    planted = numbers["planted"]
    if planted is None or not numbers["rounds"]:
        return None
    last = numbers["rounds"][-1]["round"]
    returned = f"; {planted['returned']:,} are in the set of round {last}, by their own labels" if last else ""
    broken = counted(planted["num_samples"], "label")
    return f"{broken} broken on purpose in round 0, whose set leaves their samples out{returned}."


def validation(numbers: Mapping[str, Any]) -> str | None:
    """How the rounds compare by the samples that were held out, in a sentence; None where nobody was."""
    held = _validation(numbers)
    if held is None or not numbers["rounds"]:
        return None
    course = ", ".join(number(told["validation_accuracy"]) for told in numbers["rounds"])
    who, error = counted(held["num_samples"], "held-out sample"), number(held["standard_error"])
    best, last = (numbers["rounds"][at]["validation_accuracy"] for at in (held["best_round"], -1))
    near = ", no more than a standard error above the last" if 0 < best - last <= held["standard_error"] else ""
    return (
        f"Accuracy on the given labels of {who}, round by round: {course} (standard error {error}); best in round "
        f"{held['best_round']}{near}."
    )


def alarming(numbers: Mapping[str, Any]) -> list[str]:
    """Every round's alarms, a sentence each."""
    return [f"Round {told['round']}: {said}." for told in numbers["rounds"] for said in told["alarms"]]


def number(value: float | None) -> str:
    """Three decimals, or a dash for what is not known."""
    return "-" if value is None else f"{value:.3f}"


def _validation(numbers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is told of the samples held out; summaries of earlier versions tell nothing."""
    found: Mapping[str, Any] | None = numbers.get("validation")
    return found


def _f1(noise: float) -> float:
    """F1 of keeping everything: precision 1 - noise, recall 1."""
    return 2 * (1 - noise) / (2 - noise)
