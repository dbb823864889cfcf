"""Which round a training should end with, by the accuracy on given labels that were held out, against the truth.

usage: python -m studies.rounds [--seeds 0 1 …] [--noise symmetric:0.4 …] [--rounds 6] [--processes 2]

Every run trains up to ``--rounds`` rounds on digits, a tenth of the samples held out (``--validation 0.1``), and ends
before only where two sets are the same. Then it is looked up where the plateau would have ended it, and what
``round=best`` would have given. Writes ``results/rounds.md``.
"""

import argparse
import multiprocessing
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mild_core.alarms import PATIENCE, find_plateau
from mild_trainer.settings import TrainSettings
from mild_trainer.training.loop import run_rounds

NOISES = ("symmetric:0.4", "symmetric:0.8", "pairflip:0.4", "instance:0.4")
RESULTS = Path(__file__).parent / "results"


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


def table(courses: Sequence[Course]) -> str:
    lines = ["| noise | ends with | round, mean | F1, mean (least) | test accuracy, mean |", "|---|---|---|---|---|"]
    for noise in dict.fromkeys(course.noise for course in courses):
        chosen = [(course, choices(course)) for course in courses if course.noise == noise]
        for way in chosen[0][1]:
            f1 = [course.f1[rounds[way]] for course, rounds in chosen]
            accuracy = [course.test_accuracy[rounds[way]] for course, rounds in chosen]
            number = statistics.mean(rounds[way] for _, rounds in chosen)
            means = f"{statistics.mean(f1):.3f} ({min(f1):.3f}) | {statistics.mean(accuracy):.3f}"
            lines.append(f"| {noise} | {way} | {number:.1f} | {means} |")
    return "\n".join(lines)


def report(arguments: argparse.Namespace, courses: Sequence[Course]) -> str:
    seeds = " ".join(map(str, arguments.seeds))
    machine = f"{multiprocessing.cpu_count()} shared cores, Python {platform.python_version()}"
    command = f"`python -m studies.rounds --seeds {seeds} --rounds {arguments.rounds}`"
    return "\n".join(
        (
            "# Which round to end with",
            "",
            f"{command}, {machine}, torch {torch.__version__}. Digits, ResNet-8, a tenth of the samples held out with",
            f"their given labels; the plateau is {PATIENCE} rounds without a rise. F1 is that of the set against the",
            "truth, among the samples not held out. Accuracy on those held out, round by round, below the table.",
            "",
            table(courses),
            "",
            *(
                f"- {course.noise}, seed {course.seed}: {_listed(course.validation_accuracy)}; F1 {_listed(course.f1)}"
                for course in courses
            ),
            "",
        )
    )


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", nargs="+", default=list(NOISES))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    jobs = [(noise, seed, arguments.rounds) for seed in arguments.seeds for noise in arguments.noise]
    courses = []
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for course in pool.imap_unordered(train, jobs):
            print(course, flush=True)
            courses.append(course)
    courses.sort(key=lambda course: (arguments.noise.index(course.noise), course.seed))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "rounds.md").write_text(report(arguments, courses))


if __name__ == "__main__":
    main()
