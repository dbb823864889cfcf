"""Random histories, most of them absurd: a selection never raises, holds no NaN where a number is due, has a verdict.

Draws 0 to 3 rounds' worth of everything that breaks statistics: 0 or 1 epoch, 0 to 3 samples, all bits equal, nothing
observed, members only, any metric, fit and rule; and permutes the samples, which must permute the answer.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from mild_core import bitmap
from mild_core.results import Selection
from mild_core.selection import select
from mild_core.types import Evidence, Fit, Metric, RoundBits, Rule, SelectionOptions, Verdict


def draw_options(rng: np.random.Generator) -> SelectionOptions:
    rule = str(rng.choice([rule for rule in get_args(Rule) if rule != "fdr"]))  # that one needs an audit
    given: dict[str, Any] = {"threshold": rule}
    if rule == "value":
        given["value"] = float(rng.normal(0, 20))
    if rule == "fraction" and rng.random() < 0.5:
        given["fraction"] = float(rng.random())
    if rule in ("precision", "recall"):
        given["target"] = float(rng.choice([0.0, 0.9, 1.0]))
    return SelectionOptions(
        metric=str(rng.choice(get_args(Metric))),  # type: ignore[arg-type] # drawn from the alias itself
        fit=str(rng.choice(get_args(Fit))),  # type: ignore[arg-type] # likewise
        evidence=str(rng.choice(get_args(Evidence))),  # type: ignore[arg-type] # likewise
        p=float(rng.random()),
        cost_ratio=float(10 ** rng.uniform(-6, 6)),
        min_keep=float(rng.choice([0.0, 0.01, 1.0])),
        **given,
    )


class Drawn(NamedTuple):
    """A round: bits of shape (n_epochs, n_samples), and whose they are, shape (n_samples,)."""

    correct: np.ndarray
    observed: np.ndarray | None
    members: np.ndarray
    planted: np.ndarray | None


def draw_rounds(rng: np.random.Generator, n_samples: int) -> list[Drawn]:
    rounds = []
    for _ in range(rng.integers(1, 4)):
        n_epochs = int(rng.choice([0, 1, 2, 7, 8, 20, 60]))
        shape = (n_epochs, n_samples)
        members = rng.random(n_samples) < rng.choice([0.0, 0.5, 1.0])
        seen = rng.choice([-1.0, 0.0, 0.3, 0.9])
        observed = None if seen < 0 else (rng.random(shape) < seen) & (members | (rng.random() < 0.5))
        rate = rng.choice([0.0, 0.5, 1.0]) if rng.random() < 0.3 else rng.random(n_samples)
        correct = rng.random(shape) < rate
        planted = rng.random(n_samples) < rng.choice([0.02, 0.5, 1.0]) if rng.random() < 0.3 else None
        rounds.append(Drawn(correct if observed is None else correct & observed, observed, members, planted))
    return rounds


def pack_rounds(rounds: Sequence[Drawn], order: np.ndarray, expects_members: bool) -> list[RoundBits]:
    def rows(bits: np.ndarray) -> np.ndarray:
        return bitmap.pack(bits[:, order]).reshape(len(bits), bitmap.n_bytes(order.size))

    return [
        RoundBits(
            order.size,
            rows(drawn.correct),
            None if drawn.observed is None else rows(drawn.observed),
            bitmap.pack(drawn.members[order]),
            "members" if expects_members else "all",
            None if drawn.planted is None else bitmap.pack(drawn.planted[order]),
        )
        for drawn in rounds
    ]


def describe_fault(selection: Selection, n_samples: int) -> str | None:
    """What is wrong with a selection, if anything."""
    summary = selection.summary()
    if summary["verdict"] not in get_args(Verdict):
        return f"verdict {summary['verdict']!r}"
    if not 0 <= summary["num_selected"] <= n_samples - max(summary["unobserved"], summary["planted"]):
        return f"{summary['num_selected']} selected of {n_samples}, {summary['unobserved']} unobserved"
    if not summary["num_selected"] and selection.scored.any():
        return f"an empty set of {int(selection.scored.sum())} scored samples"
    estimates = [v for e in summary["fitted"].values() if e is not None for v in e.values()]
    numbers = [*estimates, *(v for c in summary["components"] for v in c.values())]
    if not all(math.isfinite(v) for v in numbers):
        return f"a number is not finite in {summary}"
    return None


def find_fault(seed: int) -> str | None:
    """Draw one history, select twice, and say what is wrong, if anything."""
    rng = np.random.default_rng(seed)
    n_samples = int(rng.choice([1, 2, 3, 60, 500]))
    options, rounds = draw_options(rng), draw_rounds(rng, n_samples)
    expects_members = bool(rng.random() < 0.5)
    identity, order = np.arange(n_samples), rng.permutation(n_samples)
    selection = select(pack_rounds(rounds, identity, expects_members), options)
    permuted = select(pack_rounds(rounds, order, expects_members), options)
    kept, permuted_kept = (bitmap.unpack(s.bitmap, n_samples) for s in (selection, permuted))
    if not (kept[order] == permuted_kept).all():
        return f"permuting changed {int((kept[order] != permuted_kept).sum())} of {n_samples} samples"
    return describe_fault(selection, n_samples)


def test_random_histories_are_all_answered(effort: int) -> None:
    wrong = {seed: said for seed in range(500 * effort) if (said := find_fault(seed)) is not None}
    assert wrong == {}
