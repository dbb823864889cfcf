"""What ``threshold=fdr`` promises after a random audit, held against the truth on human labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.selection import select
from mild_core.types import SelectionOptions
from mild_trainer.settings import TrainSettings
from studies.heads import train_head
from studies.programme import SEEDS, Case, Inputs, Line, Row, format_judged

TITLE = "What a random audit promises"
N_DRAWN, N_DRAWS = 200, 50
OPTIONS = SelectionOptions(threshold="fdr", alpha=0.1)
RECALL_BAR = 0.8

_NOISES = ("human:worse", "human:aggre", "symmetric:0.4")
_FEATURES = "lite2"
_TEXT = """The last round of a training is audited: {n_drawn} samples are drawn at random and their labels are checked,
here against the true labels. `threshold=fdr` with `alpha` 0.1 then cuts so that, averaged over draws, at most 10% of
the kept samples that were not drawn are mislabelled. {n_draws} draws for each of the trainings of heads on features
({features}, 4,000 images of CIFAR-10). Where no cut reaches `alpha` everyone is kept and `holds` is false; such a draw
counts as an empty set here, with share, recall and F1 of 0. Bars for human:worse: a share of at most .10, a recall of
at least .80.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List one training for each noise and seed."""
    if inputs.profile != "cpu" or _FEATURES not in inputs.features or inputs.human_labels is None:
        return []
    return [
        {"features": _FEATURES, "noise": noise, "half": inputs.half, "seed": seed}
        for seed in SEEDS[inputs.half]
        for noise in _NOISES
    ]


def list_settings(case: Case) -> tuple[TrainSettings, SelectionOptions]:
    """Return the defaults of heads on features, and the options of the cut."""
    return TrainSettings.for_dataset("features", seed=int(case["seed"] or 0), device="cpu", threads=1), OPTIONS


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train a head, and let random audits cut; means over the draws."""
    settings, options = list_settings(case)
    training = train_head(settings, case, inputs)
    data, bits, clean, own = training.data, training.recording.bits, training.clean, training.own
    rng = np.random.default_rng((settings.seed, N_DRAWN))
    draws: list[dict[str, float]] = []
    for _ in range(N_DRAWS):
        drawn = rng.choice(np.flatnonzero(own), N_DRAWN, replace=False)
        audit = Audit.from_marks(drawn.tolist(), clean[drawn].tolist(), data.n_samples, random=True)
        selection = select(bits, options, Annotations(audit=audit))
        assert selection.guarantee is not None
        kept = bitmap.unpack(selection.bitmap, data.n_samples) & own
        undrawn = kept.copy()
        undrawn[drawn] = False
        wrong = float((undrawn & ~clean).sum() / max(undrawn.sum(), 1))
        holds = selection.guarantee.holds
        n_right = int((kept & clean).sum())
        draws.append(
            {
                "share": wrong if holds else 0.0,
                "empty": float(not holds),
                "above_alpha": float(holds and wrong > OPTIONS.alpha),
                "recall": n_right / (own & clean).sum() if holds else 0.0,
                "f1": 2 * n_right / (kept.sum() + (own & clean).sum()) if holds else 0.0,
                "upper_holds": float(wrong <= (selection.guarantee.upper or 0.0)),
            }
        )
    means = {name: round(fmean(float(draw[name]) for draw in draws), 4) for name in draws[0]}
    return {**means, "noise_rate": round(float((~clean[own]).mean()), 4)}


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return means over the trainings of each noise, with the least and the greatest recall."""
    lines = []
    for noise in dict.fromkeys(row.case["noise"] for row in rows):
        alike = [row.result for row in rows if row.case["noise"] == noise]
        means = {name: fmean(float(result[name]) for result in alike) for name in alike[0]}
        reasons = []
        if means["share"] > OPTIONS.alpha:
            reasons.append(f"the share is above {OPTIONS.alpha:g}")
        if means["recall"] < RECALL_BAR:
            cause = "empty sets" if means["empty"] > 1 - RECALL_BAR else "the ranking allows no larger set"
            reasons.append(f"the recall is below {RECALL_BAR:g}: {cause}")
        cells = [f"{means[name]:.3f}" for name in ("noise_rate", "share", "recall", "f1")]
        cells += [f"{means[name]:.2f}" for name in ("empty", "above_alpha", "upper_holds")]
        gain = min(OPTIONS.alpha - means["share"], means["recall"] - RECALL_BAR)
        lines.append(Line(str(noise), [str(len(alike)), *cells], gain, "; ".join(reasons)))
    heads = (
        "noise",
        "trainings",
        "noise rate",
        "share of wrong labels",
        "recall",
        "F1",
        "P(empty)",
        "P(share > alpha)",
    )
    table = format_judged((*heads, "`upper` holds"), lines)
    return _TEXT.format(n_drawn=N_DRAWN, n_draws=N_DRAWS, features=_FEATURES) + "\n" + table
