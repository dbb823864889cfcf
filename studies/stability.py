"""Whether threshold, set and network stay stable over ten and more rounds, by who is observed and which bits count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mild_core.types import SelectionOptions
from mild_trainer.presets import PUBLISHED_LOOP
from mild_trainer.settings import TrainSettings
from studies.programme import Case, Inputs, Line, Row, add_legend, format_judged, save_plot
from studies.trainings import (
    DATA_TEXT,
    describe_rounds,
    is_published,
    load_case,
    make_cases,
    make_settings,
    record_training,
)

TITLE = "Ten and more rounds: is the threshold stable?"
N_ROUNDS, N_STAGES = 12, 27
LOOPS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "all, pooled": {},
        "all, latest": {"selection": SelectionOptions(evidence="latest")},
        "members, pooled": {"observe": "members", "plant": 0.0},
        "published": PUBLISHED_LOOP,
    }
)
"""Settings of each loop: whom it observes, and the rounds whose bits count."""
_PARTS = ("precision", "recall")
_LOST = 0.005
"""Loss of F1 from which a loop is said to lose by further rounds."""
_TEXT = f"""{DATA_TEXT}

{N_ROUNDS} rounds, fewer only where two sets are equal. *all, pooled*: the defaults; everyone is observed, the bits of
all rounds count. *all, latest*: those of the last round. *members, pooled*: a dropped sample is not observed any more.
*published*: members alone, the last round alone, density fit cut at the noisy scale, weights carried on. Thresholds are
the share of the epochs in which a kept sample may be misclassified; `-` where a round keeps everyone. *Moves*: mean
change of the threshold between rounds from round 1 on. *Jaccard*: of the last two sets. Means over seeds; in brackets
the standard deviation over seeds. A row is lost, and in bold, where the last round's F1 is {_LOST:g} below that of
round 1.
"""


def list_cases(inputs: Inputs) -> list[Case]:
    """List the loops for each noise; trainings of digits take longest and have fewer seeds."""
    noises, loops = ("symmetric:0.4", "pairflip:0.4", "human:worse"), tuple(LOOPS)
    if inputs.profile == "gpu":
        return make_cases(inputs, (), 3, (*noises, "human:noisy"), loop=loops)
    return [
        *make_cases(inputs, ("lite2",), 5, noises, loop=loops),
        *make_cases(inputs, ("digits",), 3, noises, loop=loops),
    ]


def list_settings(case: Case) -> tuple[TrainSettings]:
    """Return the settings of a loop over all rounds."""
    n_rounds = N_STAGES if is_published(case) else N_ROUNDS
    return (make_settings(case, rounds=n_rounds, **LOOPS[str(case["loop"])]),)


def run_case(case: Case, inputs: Inputs) -> Mapping[str, Any]:
    """Train over all rounds; the result has a list with an entry for each round under each name."""
    (settings,) = list_settings(case)
    return describe_rounds(record_training(settings, load_case(case, inputs)))


@dataclass(frozen=True, slots=True)
class Course:
    """The rounds of the seeds of one data set, noise and loop."""

    title: str
    loop: str
    results: tuple[Mapping[str, Any], ...]

    def mean(self, field: str, number: int) -> float:
        """Mean of a field in a round, that of the last one for seeds that ended before."""
        return fmean(self.values(field, number))

    def values(self, field: str, number: int) -> list[float]:
        """Values of a field in a round, one for each seed that has one."""
        found = [result[field][min(number, len(result[field]) - 1)] for result in self.results]
        return [value for value in found if value is not None]

    def format_cell(self, field: str, number: int) -> str:
        """Return mean and standard deviation over the seeds."""
        values = self.values(field, number)
        return f"{fmean(values):.3f} ({pstdev(values):.3f})" if values else "-"

    @property
    def gain(self) -> float:
        """F1 of the last round minus that of round 1, mean over the seeds."""
        return fmean(result["f1"][-1] - result["f1"][min(1, len(result["f1"]) - 1)] for result in self.results)

    @property
    def threshold_moves(self) -> float | None:
        """Mean change of the threshold between rounds from round 1 on; None where no two rounds cut."""
        moves = []
        for result in self.results:
            cuts = [cut for cut in result["threshold"][1:] if cut is not None]
            moves += [abs(after - before) for before, after in pairwise(cuts)]
        return fmean(moves) if moves else None

    def describe_loss(self) -> str:
        """Return which of precision and recall has fallen most since round 1, of a loop that loses F1; else nothing."""
        if self.gain >= -_LOST:
            return ""
        means = {field: (self.mean(field, 1), fmean(r[field][-1] for r in self.results)) for field in _PARTS}
        field = max(_PARTS, key=lambda field: means[field][0] - means[field][1])
        return "{} falls from {:.3f} to {:.3f}".format(field, *means[field])


def group_courses(rows: Sequence[Row]) -> list[Course]:
    """Group the rows that differ in their seeds alone."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (f"{row.case['data']}, {row.case['noise']}", str(row.case["loop"]))
        groups.setdefault(key, []).append(row.result)
    return [Course(title, loop, tuple(results)) for (title, loop), results in groups.items()]


def format_rows(rows: Sequence[Row], images: Path) -> str:
    """Return a line for each loop, lost ones first, what they come to in words, and a plot of F1 and thresholds."""
    courses = sorted(group_courses(rows), key=lambda course: course.gain)
    last = max(len(result["f1"]) for course in courses for result in course.results) - 1
    heads = (
        *("data, noise, loop", "seeds", "rounds", "F1, round 0", "F1, round 1", "F1, last", "F1, least from 1 on"),
        *(
            "threshold, round 1",
            "threshold, last",
            "moves",
            "kept, last",
            "Jaccard",
            "accuracy, round 0",
            "last",
        ),
    )
    lines = []
    for course in courses:
        moves = course.threshold_moves
        n_rounds = fmean(len(result["f1"]) for result in course.results)
        least = fmean(min(result["f1"][1:] or result["f1"]) for result in course.results)
        cells = (
            *(str(len(course.results)), f"{n_rounds:.1f}"),
            *(course.format_cell("f1", number) for number in (0, 1, last)),
            f"{least:.3f}",
            *(course.format_cell("threshold", number) for number in (1, last)),
            "-" if moves is None else f"{moves:.3f}",
            *(f"{course.mean(field, last):.3f}" for field in ("kept", "jaccard")),
            *(f"{course.mean('accuracy', number):.3f}" for number in (0, last)),
        )
        lines.append(Line(f"{course.title}, *{course.loop}*", cells, course.gain, course.describe_loss()))
    plot = save_plot(_draw_courses(courses, last + 1), images / "results-stability.svg")
    findings = [_describe_loop(loop, alike) for loop in LOOPS if (alike := [c for c in courses if c.loop == loop])]
    return "\n".join((_TEXT, *findings, "", format_judged(heads, lines) + plot))


def _describe_loop(loop: str, courses: Sequence[Course]) -> str:
    """Return what a loop came to, in one sentence."""
    n_lost = sum(course.gain < -_LOST for course in courses)
    moves = [moves for course in courses if (moves := course.threshold_moves) is not None]
    threshold = f"its threshold moves by {max(moves):.3f} a round at most" if moves else "it never cuts twice"
    worst = min(courses, key=lambda course: course.gain)
    return (
        f"- *{loop}* loses F1 after round 1 in {n_lost} of {len(courses)} rows (at worst {worst.gain:+.3f}, "
        f"{worst.title}), gains {fmean(course.gain for course in courses):+.3f} in the mean, and {threshold}."
    )


def _draw_courses(courses: Sequence[Course], n_rounds: int) -> Figure:
    """Draw F1 and threshold of every loop over the rounds, a column for each data set and noise."""
    titles = sorted({course.title for course in courses})
    figure = Figure(figsize=(3.0 * len(titles), 5.0), layout="constrained")
    panels = figure.subplots(2, len(titles), sharex=True, sharey="row", squeeze=False)
    colours = {loop: f"C{position}" for position, loop in enumerate(LOOPS)}
    for course in sorted(courses, key=lambda course: list(LOOPS).index(course.loop)):
        column = titles.index(course.title)
        for axes, field in zip(panels[:, column], ("f1", "threshold"), strict=True):
            numbers = [number for number in range(n_rounds) if course.values(field, number)]
            values = [course.mean(field, number) for number in numbers]
            axes.plot(numbers, values, marker=".", color=colours[course.loop], label=course.loop)
    for column, title in enumerate(titles):
        panels[0, column].set_title(title, fontsize=9)
        panels[1, column].set_xlabel("round")
    panels[0, 0].set_ylabel("F1")
    panels[1, 0].set_ylabel("threshold, share of the epochs")
    panels[1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure)
    return figure
