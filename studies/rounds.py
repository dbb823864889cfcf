"""Which round a training should end with, by the accuracy on given labels that were held out, against the truth.

Every run trains up to ``--rounds`` rounds on digits, a tenth of the samples held out (``--validation 0.1``), and ends
before only where two sets are the same. Then it is looked up where the plateau would have ended it, and what
``round=best`` would have given.
"""

import multiprocessing
import statistics
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from benchmarks.claims import Benchmark, Report, format_table
from mild_core.alarms import PATIENCE, find_plateau
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import run_rounds

NOISES = ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4", "instance:0.4")


@dataclass(frozen=True, slots=True)
class Course:
    """One training; lists hold one entry a round, and `f1` is of the set that the round ended with."""

    noise: str
    seed: int
    f1: list[float]
    test_accuracy: list[float]
    validation_accuracy: list[float]


def train(job: tuple[str, int, int]) -> Course:
    noise, seed, n_rounds = job
    torch.set_num_threads(1)
    settings = TrainSettings.for_dataset(
        "digits", noise=noise, seed=seed, rounds=n_rounds, device="cpu", agree=1.0, validation=0.1, patience=1000
    )
    rounds = run_rounds(settings).rounds
    return Course(
        noise,
        seed,
        f1=[record.agreement.f1 for record in rounds if record.agreement is not None],
        test_accuracy=[record.test_accuracy or 0.0 for record in rounds],
        validation_accuracy=[record.validation_accuracy or 0.0 for record in rounds],
    )


def choices(course: Course) -> Mapping[str, int]:
    """The round that each way to choose one ends with."""
    held, n_rounds = course.validation_accuracy, len(course.f1)
    last = n_rounds - 1
    stop = next((k for k in range(n_rounds) if find_plateau(held[: k + 1]) is not None), last)
    return {
        "round 0": 0,
        "the last round": last,
        "the last before the plateau's stop": stop,
        "`round=best` at the plateau's stop": held.index(max(held[: stop + 1])),
        "`round=best` of all": held.index(max(held)),
        "the best F1, in hindsight": course.f1.index(max(course.f1)),
    }


def table(courses: Sequence[Course]) -> list[str]:
    rows = []
    for noise in dict.fromkeys(course.noise for course in courses):
        chosen = [(course, choices(course)) for course in courses if course.noise == noise]
        for way in chosen[0][1]:
            f1 = [course.f1[rounds[way]] for course, rounds in chosen]
            accuracy = [course.test_accuracy[rounds[way]] for course, rounds in chosen]
            number = statistics.mean(rounds[way] for _, rounds in chosen)
            means = (f"{statistics.mean(f1):.3f} ({min(f1):.3f})", f"{statistics.mean(accuracy):.3f}")
            rows.append((noise, way, f"{number:.1f}", *means))
    return format_table(("noise", "ends with", "round, mean", "F1, mean (least)", "test accuracy, mean"), rows)


def measure(options: Namespace) -> Report:
    jobs = [(noise, seed, options.rounds) for seed in options.seeds for noise in options.noise]
    courses = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for course in pool.imap_unordered(train, jobs):
            print(course, flush=True)
            courses.append(course)
    courses.sort(key=lambda course: (options.noise.index(course.noise), course.seed))
    about = (
        "Digits, ResNet-8, a tenth of the samples held out with their given labels; the plateau is "
        f"{PATIENCE} rounds without a rise. F1 is that of the set against the truth, among the samples not held out. "
        "Accuracy on those held out, round by round, below the table."
    )
    lines = [
        f"- {course.noise}, seed {course.seed}: {_listed(course.validation_accuracy)}; F1 {_listed(course.f1)}"
        for course in courses
    ]
    return Report("Which round to end with", [], about, [*table(courses), "", *lines])


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


STUDY = Benchmark(
    "rounds",
    "docs/method.md#rounds",
    measure,
    options={"seeds": (0, 1, 2), "noise": NOISES, "rounds": 6, "processes": multiprocessing.cpu_count()},
    packages=("torch",),
)


if __name__ == "__main__":
    sys.exit(STUDY.main())
