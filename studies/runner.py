"""The runner of a study: runs the cases of its sections that have no row yet, and writes its pages from the rows."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, cast, get_args

import torch
from threadpoolctl import threadpool_limits

from benchmarks.recordings import Half
from benchmarks.timing import describe_machine
from mild_core.errors import ParameterError
from studies.programme import Case, Inputs, Profile, Row, Section, make_fingerprint, make_key, read_rows


@dataclass(frozen=True, slots=True)
class Study:
    """The sections, rows and pages of one command.

    Attributes
    ----------
    sections
        Modules of this package, the most important first.
    rows
        File of the rows, a line of JSON each.
    write
        Writes the pages from the rows.
    """

    sections: Sequence[str]
    rows: Path
    write: Callable[[Sequence[Row]], object]


def get_section(name: str) -> Section:
    """Return a section by its name."""
    return cast(Section, import_module(f"studies.{name}"))


def list_cases(name: str, inputs: Inputs) -> list[Case]:
    """List the cases of a section, all of the first seed before those of the next one."""
    return sorted(get_section(name).list_cases(inputs), key=lambda case: int(case["seed"] or 0))


def run_case(name: str, case: Case, inputs: Inputs) -> Row:
    """Run a case of a section; in the same or in another process."""
    torch.set_num_threads(1)
    section, started = get_section(name), time.perf_counter()
    fingerprint = make_fingerprint(section.list_settings(case))
    with threadpool_limits(1):
        result = section.run_case(case, inputs)
    seconds = round(time.perf_counter() - started, 2)
    return Row(name, case, result, seconds, describe_machine("torch", "numpy", "scipy", "scikit-learn"), fingerprint)


def find_current_rows(rows: Sequence[Row]) -> list[Row]:
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
        return make_fingerprint(get_section(row.section).list_settings(row.case))
    except (ImportError, KeyError, ParameterError):
        return None


def run_cases(
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


def format_list(sections: Sequence[str], inputs: Inputs, rows: Sequence[Row]) -> str:
    """Say how many cases of each section are done, and how long the others take on one core."""
    lines = []
    for name in sections:
        keys = {make_key(name, case) for case in list_cases(name, inputs)}
        done_rows = [row for row in rows if row.key in keys]
        time_text = ""
        if done_rows:
            seconds = fmean(row.seconds for row in done_rows)
            time_text = f", {seconds:.1f} s each, {(len(keys) - len(done_rows)) * seconds / 60:.0f} minutes to go"
        lines.append(f"{name}: {len(done_rows)} of {len(keys)} cases{time_text}")
    return "\n".join(lines)


def parse_arguments(study: Study, description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a study."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=get_args(Profile), default="cpu")
    parser.add_argument("--half", choices=get_args(Half), default="judging", help="of the data and the seeds")
    parser.add_argument("--section", choices=study.sections, nargs="+", default=study.sections)
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR's folders and of cifar-n-labels.npz")
    parser.add_argument("--features", type=Path, nargs="+", default=[], help=".npz files of features and labels")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--limit-minutes", type=float, help="begin no case after so many minutes")
    parser.add_argument("--limit-cases", type=int, help="do so many cases of each section at most")
    parser.add_argument("--rows", type=Path, default=study.rows)
    parser.add_argument("--list", action="store_true", help="say how many cases are done, and train nothing")
    parser.add_argument("--write", action="store_true", help="write what is made from the rows, and train nothing")
    return parser.parse_args(argv)


def main(study: Study, description: str | None, argv: Sequence[str] | None = None) -> int:
    """Run the command of a study; return 1 if a case has failed."""
    arguments: Any = parse_arguments(study, description, argv)
    rows = find_current_rows(read_rows(arguments.rows))
    features = {path.stem: path for path in arguments.features}
    inputs = Inputs(arguments.profile, arguments.half, arguments.data_dir, features)
    if arguments.write:
        if not rows:
            print(f"{arguments.rows} has no row of today's settings; nothing is written", file=sys.stderr)
            return 1
        study.write(rows)
        return 0
    if arguments.list:
        print(format_list(study.sections, inputs, rows))
        return 0
    done_keys = {row.key for row in rows}
    todo: list[tuple[str, Case]] = []
    for name in arguments.section:
        cases = [case for case in list_cases(name, inputs) if make_key(name, case) not in done_keys]
        todo += [(name, case) for case in cases[: arguments.limit_cases]]
    return int(run_cases(todo, inputs, arguments.rows, arguments.workers, arguments.limit_minutes) > 0)
