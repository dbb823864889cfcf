"""The paper's programme: every question of the paper answered by one command, which goes on where it was stopped.

usage: python -m studies.paper --data-dir DIR --features FILE.npz ... [--section NAME ...] [--workers 2]
       python -m studies.paper --list | --write

DIR holds ``cifar-10-batches-py``, ``cifar-100-python`` and ``cifar-n-labels.npz``; each FILE features and true labels
of the first images of CIFAR-10 or CIFAR-100 (`mild features`, see ``studies/README.md``). A case takes about a minute
of one core at most, and its row is written as soon as it is there (``studies/results/paper.jsonl``); what is there is
not done again. A row holds a fingerprint of the settings that its case depends on: where one of their defaults is
another one today, the row is left out of everything, its case is done again, and stderr says how many are. The sections
are done in the order of `SECTIONS`, each for one seed after the other. ``--list`` says how many cases are done and how
long the others take; ``--write`` writes ``docs/results.md``, its plots and the lines of ``README.md`` that are made
from the rows. Both train nothing. Needs ``pip install -e ".[bench]"``.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from studies import features, finish, first_experiments, imbalance, promise, runner, scores, sensitivity, stability
from studies.peer_tables import format_headline
from studies.programme import Row, Section

SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "features": features,
        "promise": promise,
        "stability": stability,
        "scores": scores,
        "first_experiments": first_experiments,
        "imbalance": imbalance,
        "sensitivity": sensitivity,
        "finish": finish,
    }
)
"""The sections by name, the most important first."""
ROOT = Path(__file__).parent.parent
ROWS = ROOT / "studies" / "results" / "paper.jsonl"
PAGE = ROOT / "docs" / "results.md"
README = ROOT / "README.md"
HEADLINE = ("human:worse", "symmetric:0.4", "symmetric:0.8", "asymmetric:0.4", "pairflip:0.4")
"""Noises of the lines of README.md, which `update_readme` writes."""
_LINK = "[features](docs/results.md)"

_HEAD = """# Results

    python -m studies.paper --data-dir DIR --features {features}
    python -m studies.paper --write

{machines}.

Rows that are lost come first in every section, in bold, with the reason. All tables show the judging half of the data,
with as many of the seeds 5 to 9 as the column `seeds` says; nothing was chosen on it.
"""


def format_page(rows: Sequence[Row], images: Path) -> str:
    """Return docs/results.md, and write its plots into `images`."""
    rows = [row for row in rows if row.case["half"] == "judging"]
    features = sorted({f"{row.case['features']}.npz" for row in rows if "features" in row.case})
    machines = "; ".join(dict.fromkeys(row.machine for row in rows)) or "No rows yet"
    parts = [_HEAD.format(features=" ".join(features), machines=machines)]
    for name, section in SECTIONS.items():
        own = [row for row in rows if row.section == name]
        text = section.format_rows(own, images) if own else "Not run yet.\n"
        minutes = sum(row.seconds for row in own) / 60
        parts.append(f"## {section.TITLE}\n\n{text.rstrip()}\n\n{len(own)} cases, {minutes:.0f} minutes of one core.\n")
    return "\n".join(parts)


def update_readme(text: str, rows: Sequence[Row]) -> str:
    """Return README.md with the lines of its table that are made from the rows of the features."""
    judging_rows = [row for row in rows if row.section == "features" and row.case["half"] == "judging"]
    lines = text.splitlines(keepends=True)
    own = [position for position, line in enumerate(lines) if line.startswith(f"| {_LINK} ")]
    new_lines = [f"{line}\n" for line in format_headline(judging_rows, "lite2", HEADLINE, _LINK)]
    return "".join([*lines[: own[0]], *new_lines, *lines[own[-1] + 1 :]]) if own and new_lines else text


def write_pages(rows: Sequence[Row]) -> None:
    """Write docs/results.md, its plots, and the lines of README.md that are made from the rows."""
    PAGE.write_text(format_page(rows, PAGE.parent / "images"))
    README.write_text(update_readme(README.read_text(), rows))


STUDY = runner.Study(tuple(SECTIONS), ROWS, write_pages)

if __name__ == "__main__":
    sys.exit(runner.main(STUDY, __doc__))
