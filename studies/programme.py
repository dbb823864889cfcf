"""What the sections of the paper's programme share: their interface, their cases, and their rows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, Self, TypeAlias

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks import claims
from benchmarks.recordings import Half
from mild_core.types import SelectionOptions
from mild_trainer.settings import TrainSettings

Profile: TypeAlias = Literal["cpu", "gpu"]
Case: TypeAlias = Mapping[str, str | int | float | bool | None]
"""One computation of at most a minute: its settings by name, among them `half` and `seed`."""

SEEDS: Mapping[Half, range] = MappingProxyType({"choosing": range(5), "judging": range(5, 10)})
"""Seeds of each half of the data."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the cases are listed for, and where their data are.

    Attributes
    ----------
    profile
        ``cpu``, about an hour of two cores in all, or ``gpu``, the published networks and epochs.
    half
        Half of the data and of the seeds.
    data_dir
        Folder of ``cifar-10-batches-py``, ``cifar-100-python`` and ``cifar-n-labels.npz``; None without one.
    features
        Files of features by name (`mild features`), which is the file's without its suffix.
    """

    profile: Profile
    half: Half
    data_dir: Path | None
    features: Mapping[str, Path]

    @property
    def human_labels(self) -> Path | None:
        """File of the labels that people gave; None where it is not in the folder."""
        path = None if self.data_dir is None else self.data_dir / "cifar-n-labels.npz"
        return path if path is not None and path.exists() else None


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a case.

    Attributes
    ----------
    section, case
        Name of the section, and the case.
    result
        What `Section.run_case` has returned.
    seconds
        Time that it took, of one thread.
    machine
        Machine and versions.
    fingerprint
        `make_fingerprint` of what `Section.list_settings` returned; None in rows from before there were fingerprints.
    """

    section: str
    case: Case
    result: Mapping[str, Any]
    seconds: float
    machine: str
    fingerprint: str | None = None

    @property
    def key(self) -> str:
        """What no other row has."""
        return make_key(self.section, self.case)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read a row that `to_line` has written."""
        return cls(**json.loads(line))

    def to_line(self) -> str:
        """Return the row as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


class Section(Protocol):
    """A module of `studies` that answers one question of the paper; its name is that of the module."""

    TITLE: str
    """Heading of the section in docs/results.md."""

    def list_cases(self, inputs: Inputs, /) -> Sequence[Case]:
        """List the cases that the inputs allow; the runner does those of the first seed first."""

    def list_settings(self, case: Case, /) -> Sequence[TrainSettings | SelectionOptions]:
        """List the settings of the trainings of a case, and options of selections that are in none of them."""

    def run_case(self, case: Case, inputs: Inputs, /) -> Mapping[str, Any]:
        """Compute one case, on one thread; the result is made of JSON values."""

    def format_rows(self, rows: Sequence[Row], images: Path, /) -> str:
        """Return the rows of the judging half as Markdown, lost rows first, and write the plots into `images`."""


def make_key(section: str, case: Case) -> str:
    """Return a text that no other case has."""
    return f"{section} {json.dumps(case, sort_keys=True)}"


def make_fingerprint(settings: Iterable[TrainSettings | SelectionOptions]) -> str:
    """Return twelve hexadecimal digits that differ where a setting differs.

    A setting that is off (None, False, 0 or ``none``) counts as missing: a new one that is off by default changes no
    fingerprint.
    """
    values = [_drop_unset(asdict(each)) for each in settings]
    return sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _drop_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _drop_unset(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value not in (None, False, 0, "none")
    }


def read_rows(path: Path) -> list[Row]:
    """Read the rows of earlier calls; none if there is no file."""
    return [Row.from_line(line) for line in path.read_text().splitlines()] if path.exists() else []


@dataclass(frozen=True, slots=True)
class Line:
    """A line of `format_judged`.

    Attributes
    ----------
    name, cells
        What stands in the first column, and in the following ones.
    gain
        Lines with less of it come first.
    loss
        What is lost, and why; empty where nothing is.
    """

    name: str
    cells: Sequence[str]
    gain: float
    loss: str = ""


def format_judged(heads: Sequence[str], lines: Iterable[Line]) -> str:
    """Return a table with another column ``what is lost``: lost lines first, and their names in bold."""
    ordered = sorted(lines, key=lambda line: (not line.loss, line.gain, line.name))
    cells = [(f"**{line.name}**" if line.loss else line.name, *line.cells, line.loss or "-") for line in ordered]
    return format_table((*heads, "what is lost"), cells)


def format_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, with an empty line after it."""
    return "".join(f"{line}\n" for line in claims.format_table(heads, lines)) + "\n"


def add_legend(figure: Figure) -> None:
    """Name whatever is drawn in any panel of a figure, once, to the right of it."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")


def save_plot(figure: Figure, path: Path) -> str:
    """Write a figure as SVG, the same bytes for the same figure, and return the Markdown that shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    return f"![{path.stem.replace('-', ' ')}](images/{path.name})\n"
