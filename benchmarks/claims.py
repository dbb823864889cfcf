"""Claims: a figure beside its bar, and the page that a benchmark makes of them.

A benchmark is a module with a `BENCHMARK`: what it measures, with which options, and with which smaller ones in a short
run. ``python -m benchmarks.NAME`` writes ``results/NAME.md``; ``python -m benchmarks`` runs all of them and gathers
their claims in one table. Studies have the same command line.
"""

import argparse
import operator
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.timing import machine

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

    def format_cells(self, stated: str) -> list[str]:
        """Cells of a table with `HEADS`."""
        page, _, heading = stated.partition("#")
        link = f"[{Path(page).name}{f', {heading}' if heading else ''}](../../{stated})"
        bar = f"{self.sense} {self.form.format(self.bar)}"
        return [self.text, link, bar, self.form.format(self.figure), "reached" if self.holds else "**MISSED**"]


def claim_none(text: str, wrong: Sequence[object]) -> Claim:
    """Claim that something never happens, given what happened."""
    return Claim(text, len(wrong), "at most", 0)


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark has measured.

    Attributes
    ----------
    title
        Of its page.
    claims
        With their figures.
    about
        Sentences behind the command, the machine and the versions.
    text
        Lines of Markdown behind the table of claims.
    complaints
        Lines that are only printed, such as what was lost.
    page
        Name of its page, if that is not the benchmark's.
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
        Of its module and its page.
    stated
        Page of the repository, and heading, that states what it backs, or is made from it.
    measure
        Measures with the options of a command line.
    options
        Default by name: a number, a text, a tuple of them, or False for a flag.
    short
        Those that differ in a short run.
    packages
        Whose versions matter.
    """

    name: str
    stated: str
    measure: Callable[[Namespace], Report]
    options: Mapping[str, Any]
    short: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Measure, print and write the page; return 1 if a claim does not hold."""
        arguments = self._parse(argv)
        report = self.measure(arguments)
        lines = [f"# {report.title}", "", self._describe(arguments, report.about)]
        if report.claims:
            lines += ["", *format_table(HEADS, [claim.format_cells(self.stated) for claim in report.claims])]
        text = "\n".join([*lines, *(["", *report.text] if report.text else [])]).rstrip("\n") + "\n"
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / f"{report.page or self.name}.md").write_text(text)
        print(text, *report.complaints[:50], sep="\n")
        return int(not all(claim.holds for claim in report.claims))

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
            elif isinstance(default, tuple):
                parser.add_argument(option, nargs="+", type=type(default[0]), default=default)
            else:
                parser.add_argument(option, type=type(default), default=default)
        parser.add_argument("--short", action="store_true", help="smaller, where nothing else is given")
        parser.add_argument("--out", type=Path, default=self._folder / "results", help="folder of the page")
        if parser.parse_known_args(argv)[0].short:
            parser.set_defaults(**self.short)
        return parser.parse_args(argv)

    def _describe(self, arguments: Namespace, about: str) -> str:
        """The command with all that is not its default, the machine and the versions."""
        words = [self._command, *(["--short"] if arguments.short else [])]
        usual = {**self.options, **(self.short if arguments.short else {})}
        for name, value in usual.items():
            given = getattr(arguments, name)
            given = tuple(given) if isinstance(given, list) else given
            if given != value:
                values = [] if given is True else given if isinstance(given, tuple) else [given]
                words.append(" ".join([f"--{name.replace('_', '-')}", *map(str, values)]))
        load = f"load average {os.getloadavg()[0]:.1f} at the end"
        return f"`{' '.join(words)}`, {machine(*self.packages)}, {os.cpu_count()} cores, {load}. {about}".rstrip()


def format_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [f"| {' | '.join(map(str, cells))} |" for cells in (heads, ["---"] * len(heads), *rows)]
