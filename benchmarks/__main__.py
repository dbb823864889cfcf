"""Measures every claim of the README and of docs/ that has a bar, and writes one table.

usage: python -m benchmarks [--only NAME ...] [--full]

Runs each benchmark in a separate process, with its short profile unless ``--full`` is given, continues after one that
fails, and writes ``results/claims.md``, in which the rows of benchmarks that were not run stay. Exits with 1 if a claim
does not hold. ``--full`` also writes the page of each benchmark.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.claims import HEADS, RESULTS, format_table
from benchmarks.timing import describe_machine

BENCHMARKS = (
    "digits", "selection", "peers", "features", "recovery", "fit", "dynamics", "tracker", "ingest", "stream", "latency",
    "dashboard", "models", "load", "neighbours", "scale", "outage", "faults", "embedded_store", "failover", "rot",
)  # fmt: skip
FAILED = "**FAILED**"


def read_claims(page: Path, command: str) -> list[str]:
    """Read the rows of the claims on a benchmark's page, and add the command."""
    lines = page.read_text().splitlines()
    start = lines.index(format_table(HEADS, [])[0]) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append(f"{line} `{command}` |")
    return rows


def run_benchmark(name: str, full: bool, folder: Path) -> list[str]:
    """Run a benchmark that writes to `folder`; return the rows of its claims, or a row that says why there are none."""
    command = f"python -m benchmarks.{name}{'' if full else ' --short'}"
    words = [sys.executable, *command.split()[1:], "--out", str(folder)]
    before = {page: page.stat().st_mtime_ns for page in folder.glob("*.md")}
    process = subprocess.run(words, capture_output=True, text=True, check=False)
    for page in folder.glob("*.md"):
        if page.stat().st_mtime_ns != before.get(page):
            return read_claims(page, command)
    reason = (process.stderr.strip().splitlines() or [""])[-1].replace("|", "/")
    print(process.stdout[-2000:], process.stderr[-4000:], sep="\n")
    return [f"| {name} |  |  | ended with {process.returncode}: {reason} | {FAILED} | `{command}` |"]


def write_table(rows: Sequence[str], page: Path) -> list[str]:
    """Write the table of claims, with the rows of benchmarks that are not in `rows` from the page as it was."""
    earlier = [line for line in page.read_text().splitlines() if "`python -m" in line] if page.exists() else []
    lines = []
    for name in BENCHMARKS:
        own = [row for row in rows if _is_row_of(row, name)]
        lines += own or [row for row in earlier if _is_row_of(row, name)]
    n_missed = sum("| reached |" not in line for line in lines)
    text = [
        "# Claims",
        "",
        f"{len(lines)} claims, {n_missed} of them missed. Made by `make bench` on {describe_machine('numpy')}, "
        f"{os.cpu_count()} cores: each row is of the benchmark's last run, by the command behind it. All other "
        "figures of full runs are on the benchmarks' own pages.",
        "",
        *format_table((*HEADS, "command"), []),
        *lines,
        "",
    ]
    page.write_text("\n".join(text))
    return text


def _is_row_of(row: str, name: str) -> bool:
    return f"`python -m benchmarks.{name}`" in row or f"`python -m benchmarks.{name} " in row


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME")
    parser.add_argument("--full", action="store_true", help="full size, for hours")
    parser.add_argument("--table", type=Path, default=RESULTS / "claims.md", help="page of all claims")
    arguments = parser.parse_args(argv)
    rows: list[str] = []
    with TemporaryDirectory(prefix="mild-bench-") as scratch:
        for name in arguments.only:
            began = time.monotonic()
            own = run_benchmark(name, arguments.full, RESULTS if arguments.full else Path(scratch))
            print(*own, f"{name}: {time.monotonic() - began:.0f} s", "", sep="\n", flush=True)
            rows += own
            text = write_table(rows, arguments.table)
    print("\n".join(text))
    return int(any("| reached |" not in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
