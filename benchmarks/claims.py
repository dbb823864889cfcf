"""Claims: a measured figure and its bar, and the page that a benchmark writes of them.

A benchmark is a module with a `BENCHMARK`: what it measures, with which options, and with which smaller ones in a short
run. ``python -m benchmarks.NAME`` writes ``results/NAME.md``; ``python -m benchmarks`` runs all of them and collects
their claims in one table. Studies have the same command line.
"""

import argparse
import operator
import os
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.timing import describe_machine

RESULTS = Path(__file__).parent / "results"
HEADS = ("claim", "stated in", "bar", "figure", "verdict")
_COMPARISONS = {"at most": operator.le, "at least": operator.ge, "below": operator.lt, "above": operator.gt}


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured figure, and the bar that it must reach.

    Attributes
    ----------
    text
        What is claimed.
    figure, bar
        What was measured, and the bar; NaN misses every bar.
    sense
        On which side of the bar the figure must be.
    form
        Format of both, such as ``{:.1f} x``.
    """

    text: str
    figure: float
    sense: Literal["at most", "at least", "below", "above"]
    bar: float
    form: str = "{:g}"

    @property
    def holds(self) -> bool:
        """Whether the figure reaches the bar."""
        return bool(_COMPARISONS[self.sense](self.figure, self.bar))

    def format_bar(self) -> str:
        """Format the bar, with its side."""
        return f"{self.sense} {self.form.format(self.bar)}"

    def format_figure(self) -> str:
        """Format the figure."""
        return self.form.format(self.figure)

    def format_cells(self, stated: str) -> list[str]:
        """Format the cells of a table with `HEADS`."""
        page, _, heading = stated.partition("#")
        link = f"[{Path(page).name}{f', {heading}' if heading else ''}](../../{stated})"
        verdict = "reached" if self.holds else "**MISSED**"
        return [self.text, link, self.format_bar(), self.format_figure(), verdict]


def claim_none(text: str, wrong: Sequence[object]) -> Claim:
    """Claim that something never happens, given the cases in which it did."""
    return Claim(text, len(wrong), "at most", 0)


@dataclass(frozen=True, slots=True)
class Report:
    """Results of a benchmark.

    Attributes
    ----------
    title
        Title of the page.
    claims
        The claims, with their figures.
    about
        Sentences after the command, the machine and the versions.
    text
        Lines of Markdown after the table of claims.
    complaints
        Lines that are only printed, such as what was lost.
    page
        Name of the page, if it is not the benchmark's.
    """

    title: str
    claims: Sequence[Claim]
    about: str = ""
    text: Sequence[str] = ()
    complaints: Sequence[str] = ()
    page: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, or a study, and its command line.

    Attributes
    ----------
    name
        Name of its module and its page.
    stated
        Page of the repository, and heading, that states what it backs, or is made from it.
    measure
        Measures with the options of a command line; returns an exit status where there is no page to write.
    options
        Default of each option: a number, a text, a tuple of them, or False for a flag.
    short
        Options that differ in a short run.
    packages
        Packages whose versions are stated.
    choices
        Values that an option may take, where not all are allowed.
    """

    name: str
    stated: str
    measure: Callable[[Namespace], Report | int]
    options: Mapping[str, Any]
    short: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()
    choices: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, print and write the page; return the exit status, 1 if a claim does not hold."""
        arguments = self._parse(argv)
        report = self.measure(arguments)
        if isinstance(report, int):
            return report
        lines = [f"# {report.title}", "", self._describe(arguments, report.about)]
        if report.claims:
            lines += ["", *format_table(HEADS, [claim.format_cells(self.stated) for claim in report.claims])]
        text = "\n".join([*lines, *(["", *report.text] if report.text else [])]).rstrip("\n") + "\n"
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{report.page or self.name}.md").write_text(text)
        print(text, *report.complaints[:50], sep="\n")
        return int(not all(claim.holds for claim in report.claims))

    def format_command(self, arguments: Namespace) -> str:
        """Format the command, with the options that differ from their defaults."""
        words = [self._command, *(["--short"] if arguments.short else [])]
        defaults = {**self.options, **(self.short if arguments.short else {})}
        for name, default in defaults.items():
            value = getattr(arguments, name)
            values = tuple(value) if isinstance(value, list | tuple) else (value,)
            if values != (default if isinstance(default, tuple) else (default,)):
                words += [f"--{name.replace('_', '-')}", *([] if value is True else map(str, values))]
        return " ".join(words)

    @property
    def _folder(self) -> Path:
        """Folder of its module, ``benchmarks`` or ``studies``."""
        return Path(sys.modules[self.measure.__module__].__file__ or "").parent

    @property
    def _command(self) -> str:
        return f"python -m {self._folder.name}.{self.name}"

    def _parse(self, argv: Sequence[str] | None) -> Namespace:
        parser = argparse.ArgumentParser(
            prog=self._command,
            description=sys.modules[self.measure.__module__].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for name, default in self.options.items():
            option = f"--{name.replace('_', '-')}"
            if isinstance(default, bool):
                parser.add_argument(option, action="store_true")
            else:
                kind, nargs = (type(default[0]), "+") if isinstance(default, tuple) else (type(default), None)
                parser.add_argument(option, nargs=nargs, type=kind, default=default, choices=self.choices.get(name))
        parser.add_argument("--short", action="store_true", help="smaller defaults")
        parser.add_argument("--out", type=Path, default=self._folder / "results", help="folder of the page")
        if parser.parse_known_args(argv)[0].short:
            parser.set_defaults(**self.short)
        return parser.parse_args(argv)

    def _describe(self, arguments: Namespace, about: str) -> str:
        """Return the command, the machine and the versions."""
        load = f"load average {os.getloadavg()[0]:.1f} at the end"
        versions = describe_machine(*self.packages)
        return f"`{self.format_command(arguments)}`, {versions}, {os.cpu_count()} cores, {load}. {about}".rstrip()


def format_spread(values: Sequence[float], digits: int = 3) -> str:
    """Format the median, with the least and the greatest value."""
    middle, *ends = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({' to '.join(ends)})"


def format_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Format the lines of a table in Markdown."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (heads, ["---"] * len(heads), *rows)]
