"""The cost of the headline's loops, counted from their settings before anything is trained.

Rounds after the first train on the set, which is unknown then. So the costs are given for three guesses: both loops
keep all samples, both keep the rightly labelled ones, and ours keeps all while the published loop finds the right ones.
A loop that keeps fewer is cheaper: the study judges by the actual sets.
"""

from collections.abc import Sequence

from benchmarks.claims import format_table
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import ComputeCost
from mild_trainer.training.trainer import EARLY_EPOCHS

N_TRAINING = 50_000
RIGHT = 0.2 + 0.8 / 10
"""Share of right labels after 80% are redrawn from ten classes."""


def count_passes(settings: TrainSettings, n_samples: int, later: Sequence[int]) -> ComputeCost:
    """Count the passes of a training's rounds; `later` has the numbers of members of all but the first."""
    spent = ComputeCost()
    if settings.plant and settings.plant_how == "confused":
        spent += ComputeCost.of_training(EARLY_EPOCHS * n_samples) + ComputeCost(forward=n_samples)
    for number, n_members in enumerate((n_samples, *later)):
        watched = {"all": n_samples, "mixed": n_samples - n_members, "members": 0}[settings.observe]
        each = ComputeCost.of_training(n_members) + ComputeCost(forward=watched)
        n_epochs = settings.count_epochs(number)
        spent += ComputeCost(n_epochs * each.forward, n_epochs * each.backward)
    return spent


def format_budget(published: TrainSettings, ours: TrainSettings) -> list[str]:
    """Format the table, a row for each guess of the sets."""
    n_samples = published.limit or N_TRAINING
    n_right = round(RIGHT * n_samples)
    rows = []
    for n_ours, n_published in ((n_samples, n_samples), (n_right, n_right), (n_samples, n_right)):
        own = count_passes(ours, n_samples, [n_ours] * (ours.rounds - 1)).total
        whole = count_passes(published, n_samples, [n_published] * (published.rounds - 1)).total
        rows.append((f"{n_ours:,}", f"{n_published:,}", f"{own:,}", f"{whole:,}", f"{own / whole:.3f}"))
    return format_table(("our set", "the published set", "our passes", "the published protocol's", "share"), rows)
