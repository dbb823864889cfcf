"""What the headline's loops cost, counted from their settings before anything is trained.

What is unknown then is the set: rounds after the first train on it. So the counts are given for sets of everybody, of
whose label is right, and for ours cutting nobody beside a published loop that finds the truth. One that keeps still
fewer is still cheaper: the benchmark judges by the sets that came out.
"""

from collections.abc import Sequence

from mild_trainer.settings import TrainSettings
from mild_trainer.training.compute_cost import ComputeCost
from mild_trainer.training.duration import EARLY_EPOCHS

SHARE = 0.2
"""Of the published protocol's passes, that ours may take to select."""
N_TRAINING = 50_000
RIGHT = 0.2 + 0.8 / 10
"""Share of right labels after 80% are redrawn from ten classes."""


def selecting(settings: TrainSettings, n_samples: int, later: Sequence[int]) -> ComputeCost:
    """Forward and backward passes of a training's rounds; `later` has the members of each but the first."""
    spent = ComputeCost()
    if settings.plant and settings.plant_how == "confused":
        spent += ComputeCost.of_training(EARLY_EPOCHS * n_samples) + ComputeCost(forward=n_samples)
    for number, n_members in enumerate((n_samples, *later)):
        watched = {"all": n_samples, "mixed": n_samples - n_members, "members": 0}[settings.observe]
        each = ComputeCost.of_training(n_members) + ComputeCost(forward=watched)
        n_epochs = settings.count_epochs(number)
        spent += ComputeCost(n_epochs * each.forward, n_epochs * each.backward)
    return spent


def table(published: TrainSettings, ours: TrainSettings) -> list[str]:
    """One row for each guess of the sets."""
    n_samples = published.limit or N_TRAINING
    n_right = round(RIGHT * n_samples)
    lines = [
        "| our set | the published set | our passes | the published protocol's | share |",
        "|---|---|---|---|---|",
    ]
    for n_ours, n_published in ((n_samples, n_samples), (n_right, n_right), (n_samples, n_right)):
        own = selecting(ours, n_samples, [n_ours] * (ours.rounds - 1)).total
        whole = selecting(published, n_samples, [n_published] * (published.rounds - 1)).total
        lines.append(f"| {n_ours:,} | {n_published:,} | {own:,} | {whole:,} | {own / whole:.3f} |")
    return lines
