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

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, get_args

import torch
from threadpoolctl import threadpool_limits

from benchmarks.timing import machine
from mild_core.errors import ParameterError
from studies import features, finish, first_experiments, imbalance, promise, scores, sensitivity, stability
from studies.peer_tables import format_headline
from studies.programme import Case, Half, Inputs, Profile, Row, Section, make_fingerprint, make_key, read_rows

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


def list_cases(section: Section, inputs: Inputs) -> list[Case]:
    """List the cases of a section, all of the first seed before those of the next one."""
    return sorted(section.list_cases(inputs), key=lambda case: int(case["seed"] or 0))


def run_case(name: str, case: Case, inputs: Inputs) -> Row:
    """Run a case of a section; in the same or in another process."""
    torch.set_num_threads(1)
    fingerprint, started = make_fingerprint(SECTIONS[name].list_settings(case)), time.perf_counter()
    with threadpool_limits(1):
        result = SECTIONS[name].run_case(case, inputs)
    seconds = round(time.perf_counter() - started, 2)
    return Row(name, case, result, seconds, machine("torch", "numpy", "scipy", "scikit-learn"), fingerprint)


def find_current(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that today's settings would give, and say on stderr how many others are left out, and why."""
    current = [row for row in rows if row.fingerprint is not None and row.fingerprint == _sign_case(row)]
    n_unsigned = sum(row.fingerprint is None for row in rows)
    for number, reason in (
        (n_unsigned, "have no fingerprint of the settings that they were computed with"),
        (len(rows) - len(current) - n_unsigned, "were computed with other settings than today's"),
    ):
        if number:
            print(f"left out: {number} of {len(rows)} rows, which {reason}; run their cases again", file=sys.stderr)
    return current


def _sign_case(row: Row) -> str | None:
    """Return the fingerprint that a row's case has today; None where no section has such a case any more."""
    try:
        return make_fingerprint(SECTIONS[row.section].list_settings(row.case))
    except (KeyError, ParameterError):
        return None


def run(
    todo: Sequence[tuple[str, Case]], inputs: Inputs, path: Path, n_workers: int, limit_minutes: float | None
) -> int:
    """Run cases in processes, and append each row to a file at once; return the number of cases that have failed."""
    deadline = None if limit_minutes is None else time.monotonic() + 60 * limit_minutes
    waiting: Iterator[tuple[str, Case]] = iter(todo)
    n_done, n_failed, running = 0, 0, dict[Future[Row], tuple[str, Case]]()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, ProcessPoolExecutor(n_workers, get_context("spawn")) as pool:
        while True:
            if deadline is None or time.monotonic() < deadline:
                for name, case in islice(waiting, n_workers - len(running)):
                    running[pool.submit(run_case, name, case, inputs)] = name, case
            if not running:
                return n_failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key, error = make_key(*running.pop(future)), future.exception()
                n_done += 1
                if error is None:
                    file.write(future.result().to_line())
                    file.flush()
                n_failed += error is not None
                ending = f"{future.result().seconds:.1f} s" if error is None else f"failed: {error!r}"
                print(f"{n_done}/{len(todo)} {key}: {ending}", flush=True)


def format_list(inputs: Inputs, rows: Sequence[Row]) -> str:
    """Say how many cases of each section are done, and how long the others take on one core."""
    lines = []
    for name, section in SECTIONS.items():
        keys = {make_key(name, case) for case in section.list_cases(inputs)}
        done = [row for row in rows if row.key in keys]
        time_text = ""
        if done:
            seconds = fmean(row.seconds for row in done)
            time_text = f", {seconds:.1f} s each, {(len(keys) - len(done)) * seconds / 60:.0f} minutes to go"
        lines.append(f"{name}: {len(done)} of {len(keys)} cases{time_text}")
    return "\n".join(lines)


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
    judged = [row for row in rows if row.section == "features" and row.case["half"] == "judging"]
    lines = text.splitlines(keepends=True)
    own = [position for position, line in enumerate(lines) if line.startswith(f"| {_LINK} ")]
    made = [f"{line}\n" for line in format_headline(judged, "lite2", HEADLINE, _LINK)]
    return "".join([*lines[: own[0]], *made, *lines[own[-1] + 1 :]]) if own and made else text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=get_args(Profile), default="cpu")
    parser.add_argument("--half", choices=get_args(Half), default="judging", help="of the data and the seeds")
    parser.add_argument("--section", choices=SECTIONS, nargs="+", default=list(SECTIONS))
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR's folders and of cifar-n-labels.npz")
    parser.add_argument("--features", type=Path, nargs="+", default=[], help=".npz files of features and labels")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--limit-minutes", type=float, help="begin no case after so many minutes")
    parser.add_argument("--limit-cases", type=int, help="do so many cases of each section at most")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--list", action="store_true", help="say how many cases are done, and train nothing")
    parser.add_argument("--write", action="store_true", help="write docs/results.md and the lines of README.md only")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if a case has failed."""
    arguments: Any = parse(argv)
    rows = find_current(read_rows(arguments.rows))
    features = {path.stem: path for path in arguments.features}
    inputs = Inputs(arguments.profile, arguments.half, arguments.data_dir, features)
    if arguments.write:
        if not rows:
            print(f"{arguments.rows} has no row of today's settings; nothing is written", file=sys.stderr)
            return 1
        PAGE.write_text(format_page(rows, PAGE.parent / "images"))
        README.write_text(update_readme(README.read_text(), rows))
        return 0
    if arguments.list:
        print(format_list(inputs, rows))
        return 0
    done = {row.key for row in rows}
    todo: list[tuple[str, Case]] = []
    for name in arguments.section:
        cases = [case for case in list_cases(SECTIONS[name], inputs) if make_key(name, case) not in done]
        todo += [(name, case) for case in cases[: arguments.limit_cases]]
    return int(run(todo, inputs, arguments.rows, arguments.workers, arguments.limit_minutes) > 0)


if __name__ == "__main__":
    sys.exit(main())
