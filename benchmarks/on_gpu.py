"""All that needs a GPU, within 25 minutes of one: the claims of tracker, throughput, selection and human labels.

usage: python -m benchmarks.on_gpu --data-dir DIR [--out DIR] [--minutes 25] [--only PART ...] [--again]
       python -m benchmarks.on_gpu --data-dir DIR --rehearse

Each part is a separate process with its own time limit, so that one that fails or hangs does not stop the others; its
output goes to ``OUT/PART.log``. After each part ``OUT/on_gpu.json`` and ``OUT/on_gpu.md`` are replaced. Finished parts
are not repeated, so several calls complete the whole; a part that does not fit into the remaining minutes is left for
the next call. ``--only sequence`` runs all parts whose names begin so. ``DIR`` holds ``cifar-10-batches-py`` and
``cifar-n-labels.npz``. Neither the checkout nor fastapi or redis need to be installed. ``--rehearse`` runs all parts on
the processor, on few images with a small network, and judges nothing. Exits with 1 unless all parts are finished.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.claims import HEADS, RESULTS, Claim, format_table

ROOT = Path(__file__).parent.parent
MARGIN = 5.0
"""Seconds reserved for the report when a part is stopped."""
REHEARSED = 10.0
"""Expected seconds of a part of a rehearsal."""
LOG_LINES = 15
"""Lines of the log of a failed part in the report."""
PROBE = """
import json, os, platform, numpy, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "device": torch.cuda.get_device_name() if cuda else None, "cores": os.cpu_count(),
    "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "cudnn": torch.backends.cudnn.version(), "numpy": numpy.__version__,
}))
"""
TUNED_ACCURACY = 0.839
"""Of the literature, on the labels `worse` of CIFAR-10N."""

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One process.

    Attributes
    ----------
    name
        Name of the part and of its log.
    command
        Arguments after ``python -m``.
    file, read
        File that the process writes when it is finished, and the function that reads the result from it.
    seconds
        Expected time: with less left it is not started.
    limit
        Seconds after which it is stopped.
    """

    name: str
    command: Sequence[str]
    file: Path
    read: Callable[[Path], Result]
    seconds: float
    limit: float


def list_parts(data_dir: Path, out: Path, rehearse: bool) -> list[Part]:
    """List the parts in order, at full size for CUDA, or small ones for a processor."""
    device = ["--device", "cpu" if rehearse else "cuda"]
    data = ["--data-dir", str(data_dir), *device]
    tracker = ["--repeats", "1", "--samples", "128"] if rehearse else []
    network = ["--model", "resnet8"] if rehearse else []
    throughput = ["--samples", "256", "--epochs", "1", "--batch-size", "64", "--workers", "1", "--matrix", "256"]
    throughput = [*network, *throughput] if rehearse else []
    record_options = [*network, "--limit", "300", "--epochs", "2"] if rehearse else []
    small = [*network, "--limit", "400", "--n-test", "200", "--pixels", "16", "--share", "0.1"] if rehearse else []
    shortened = ["--seconds", "3" if rehearse else "200"]
    epochs = 2 if rehearse else 30

    def record(name: str, noise: str) -> Part:
        file = out / "sequences" / f"cifar10_{noise}_e{epochs}_plant-confused_s1.npz"
        words = ["benchmarks.record", "--full", "--only", noise, "--out", str(file.parent), *data, *record_options]
        return Part(f"sequence-{name}", words, file, lambda file: {"file": f"sequences/{file.name}"}, 150, 330)

    def train(name: str, way: str, seconds: float, *words: str) -> Part:
        file = out / f"{name}.json"
        words = ("studies.headline", "--only", way, "--row", str(file), *data, *small, *words)
        return Part(name, words, file, read_json, seconds, 2 * seconds + 60)

    def measure_throughput(name: str, *words: str) -> Part:
        words = ("studies.train_gpu", "--out", str(out / name), *device, *throughput, *words)
        return Part(name, words, out / name / "train_gpu.json", read_json, 120, 300)

    page, counts = out / f"tracker-{device[1]}.md", out / "tests.xml"
    tracker = ["benchmarks.tracker", "--out", str(out), *device, *tracker]
    human = ("--noise", "cifar10n:worse")
    parts = [
        Part("tests", list_test_words(counts), counts, read_counts, 60, 180),
        Part("tracker", tracker, page, read_page, 60, 240),
        measure_throughput("throughput"),
        record("worse", "human-worse"),
        record("symmetric", "symmetric-0.4"),
        train("headline-ours", "ours", 110),
        train("headline-cross-entropy", "cross-entropy", 110),
        train("headline-true-set", "true-set", 50),
        train("headline-published", "published", 240, *shortened),
        train("human-ours", "ours", 120, *human),
        train("human-class-prior", "ours", 120, *human, "--class-prior", "balanced"),
        train("human-cross-entropy", "cross-entropy", 110, *human),
        measure_throughput("throughput-compiled", "--compile"),
    ]
    # To compile takes a compiler, which not every processor's machine has.
    return [replace(part, seconds=REHEARSED) for part in parts[:-1]] if rehearse else parts


def list_test_words(counts: Path) -> list[str]:
    """List the words that run the tests marked gpu, without the service's fixtures, which need further packages.

    Warnings of other versions of the libraries than the tests are pinned to fail none.
    """
    mark = ".".join(("pytest", "mark", "gpu"))
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if mark in path.read_text()]
    words = ["pytest", "-m", "gpu", "-n", "0", "-v", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    return [*words, "--confcutdir", str(ROOT / "tests" / "trainer"), f"--junitxml={counts}", *files]


def read_json(file: Path) -> Result:
    """Read the result of a part that writes one."""
    result: Result = json.loads(file.read_text())
    return result


def read_counts(file: Path) -> Result:
    """Read the numbers of tests by outcome."""
    suite = ElementTree.parse(file).getroot()[0]
    return {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


def read_page(page: Path) -> Result:
    """Read the claims on the page of a benchmark: text, bar, figure and whether it is reached."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines()]
    claims = [row for row in rows if len(row) == len(HEADS) and row[-1] in ("reached", "**MISSED**")]
    return {"claims": [[text, bar, figure, verdict == "reached"] for text, _, bar, figure, verdict in claims]}


def claim_accuracy(accuracy: float) -> Claim:
    """Claim the accuracy after the selection, without a finish, on CIFAR-10 with symmetric noise of 0.8."""
    return Claim("accuracy by the selection alone", accuracy, "above", 0.791, "{:.3f}")


def claim_passes(share: float) -> Claim:
    """Claim the passes of the selection, as a share of the published protocol's."""
    return Claim("passes, of the published protocol's", share, "at most", 0.2, "{:.3f}")


def claim_throughput(ratio: float) -> Claim:
    """Claim the speed of our training, relative to a loop written as the published one is."""
    return Claim("images a second over the published loop's", ratio, "at least", 8, "{:.1f}x")


def list_rows(results: Mapping[str, Result], rehearsal: bool) -> list[tuple[str, ...]]:
    """List the rows of the report from the results of the finished parts, by name.

    The cells of a row are its group, text, bar, figure, verdict and part.
    """
    rows: list[tuple[str, ...]] = []
    measured: Mapping[str, Result] = defaultdict(lambda: defaultdict(lambda: nan), results)

    def add(group: str, part: str, text: str, figure: str, bar: str = "-", is_reached: bool | None = None) -> None:
        verdict = (
            "-" if is_reached is None else "not judged" if rehearsal else "reached" if is_reached else "**MISSED**"
        )
        rows.append((group, text, bar, *((figure, verdict) if part in results else ("", "not measured")), part))

    def add_figures(group: str, part: str, text: str, form: str) -> None:
        add(group, part, text, form.format_map(measured[part]))

    def add_claim(group: str, part: str, claim: Claim, form: str = "", suffix: str = "") -> None:
        figure = claim.format_figure() + form.format_map(measured[part])
        add(group, part, claim.text + suffix, figure, claim.format_bar(), claim.holds)

    tests, ours, plain = measured["tests"], measured["headline-ours"], results.get("human-cross-entropy")
    n_bad = tests["failures"] + tests["errors"]
    n_passed = tests["tests"] - n_bad - tests["skipped"]
    text = f"{n_passed} passed, {n_bad} failed, {tests['skipped']} skipped"
    add("overhead", "tests", "tests marked gpu", text, "all pass", n_passed == tests["tests"] > 0)
    claims = results.get("tracker", {"claims": []})["claims"]
    for is_aum, text in ((False, "`update`, of a step of ResNet-34 at batch 512"), (True, "AUM's `update` over ours")):
        cells = [cells for claim, *cells in claims if ("AUM" in claim) == is_aum]
        bar, figure, is_reached = cells[0] if cells else ("-", "not measured: aum is not installed", None)
        add("overhead", "tracker", text, figure, bar, is_reached)
    add("overhead", "tracker", "waits of the host within `update`, which end the part", "none", "none", True)
    for part, suffix in (("throughput", ""), ("throughput-compiled", ", compiled")):
        claim = claim_throughput(measured[part]["ours"] / measured[part]["published"])
        add_claim("throughput", part, claim, ": {ours:,.0f} and {published:,.0f}", suffix)
        add_figures("throughput", part, f"share of the measured bf16 peak{suffix}", "{peak_share:.1%}")
    for name in ("worse", "symmetric"):
        add_figures("sequences", f"sequence-{name}", "recorded", "{file}")
    quality, accuracies = "{auc:.3f}, {f1:.3f}, {verdict}", "{test_accuracy:.3f}, {best_accuracy:.3f}"
    text = "cross entropy on all labels: accuracy after the last and in the best epoch"
    add_claim("headline", "headline-ours", claim_accuracy(ours["test_accuracy"]))
    add_claim(
        "headline", "headline-ours", claim_passes(ours["passes"] / ours["protocol"]), ": {passes:,} of {protocol:,}"
    )
    add_figures("headline", "headline-ours", "AUC of the scores and F1 of the set", quality)
    add_figures("headline", "headline-true-set", "accuracy on the true clean set", "{test_accuracy:.3f}")
    add_figures("headline", "headline-published", "the published loop, shortened", "{test_accuracy:.3f}, {name}")
    add_figures("headline", "headline-cross-entropy", text, accuracies)
    bar = f"above cross entropy here, and {TUNED_ACCURACY} (tuned, in the literature)"
    for part, way in (("human-ours", "ours"), ("human-class-prior", "ours, `--class-prior balanced`")):
        add_figures("human labels", part, f"{way}: AUC and F1", quality)
        accuracy = measured[part]["test_accuracy"]
        is_reached = None if plain is None else accuracy > max(TUNED_ACCURACY, plain["best_accuracy"])
        add("human labels", part, f"{way}: accuracy by the selection alone", f"{accuracy:.3f}", bar, is_reached)
    add_figures("human labels", "human-cross-entropy", text, accuracies)
    return rows


def make_environment(out: Path) -> dict[str, str]:
    """Return variables with which the packages of the checkout are found, installed or not.

    The client reads its version from the metadata of an installation; they are written for one that is not.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site = out / "site"
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True, exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    environment = dict(os.environ)  # noqa: TID251 (handed on, not read)
    paths = [*map(str, (ROOT / "service", ROOT / "trainer_client", ROOT)), environment.get("PYTHONPATH", ""), str(site)]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def run_command(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str]) -> int | None:
    """Run a process with its output in `log`; return its exit code, or None if it was stopped after `limit` seconds."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and its workers
                process.wait()


def run_part(part: Part, log: Path, limit: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run a part, and return its status, its time, and its result or the reason of its failure."""
    part.file.unlink(missing_ok=True)
    part.file.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = run_command([sys.executable, "-m", *part.command], log, limit, environment)
    outcome: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    if code is None:
        return {**outcome, "status": "stopped", "reason": f"it did not end within {limit:.3g} s"}
    # A missed bar ends with 1, and so does an exception, which leaves no file.
    if code not in (0, 1) or not part.file.exists():
        return {**outcome, "status": "failed", "reason": f"it ended with {code} and is not finished"}
    try:
        return {**outcome, "status": "finished", "result": dict(part.read(part.file))}
    except (ValueError, LookupError, ElementTree.ParseError) as error:
        return {**outcome, "status": "failed", "reason": f"{part.file.name} cannot be read: {error!r}"}


def run_parts(
    parts: Sequence[Part], state: dict[str, Any], out: Path, deadline: float, machine: str, again: bool
) -> None:
    """Run the parts that are not finished and fit in before `deadline`, and write the report after each one."""
    environment = make_environment(out)
    for part in parts:
        if state["parts"].get(part.name, {}).get("status") == "finished" and not again:
            continue
        seconds_left = deadline - time.monotonic() - MARGIN
        entry: dict[str, Any] = {"command": shorten_paths(part.command, out), "machine": machine}
        if seconds_left < part.seconds:
            reason = f"it takes about {part.seconds:.0f} s, and {max(seconds_left, 0):.0f} s were left"
            entry |= {"status": "skipped", "reason": reason}
        else:
            state["parts"][part.name] = {**entry, "status": "begun", "reason": "the whole was ended meanwhile"}
            write_report(state, out)
            entry |= run_part(part, out / f"{part.name}.log", min(part.limit, seconds_left), environment)
        state["parts"][part.name] = entry
        write_report(state, out)
        print(f"{part.name}: {describe_status(entry)}", flush=True)


def shorten_paths(command: Sequence[str], out: Path) -> str:
    """Return a command as text, with the folder of the results as OUT and that of the data as DIR."""
    words = list(command)
    if "--data-dir" in words:
        words[words.index("--data-dir") + 1] = "DIR"
    return " ".join(["python -m", *words]).replace(str(out), "OUT").replace(f"{ROOT}/", "")


def describe_status(entry: Mapping[str, Any]) -> str:
    seconds = f" after {entry['seconds']:.0f} s" if "seconds" in entry else ""
    return f"{entry['status']}{seconds}" + (f": {entry['reason']}" if "reason" in entry else "")


def write_report(state: Mapping[str, Any], out: Path) -> None:
    """Write the state as JSON and as a page, each file atomically."""
    for name, text in (("on_gpu.json", json.dumps(state, indent=1)), ("on_gpu.md", "\n".join(format_page(state, out)))):
        unfinished = out / f"{name}.part"
        unfinished.write_text(text + "\n")
        unfinished.replace(out / name)


def format_page(state: Mapping[str, Any], out: Path) -> Iterable[str]:
    """Yield the lines of the page."""
    parts: Mapping[str, Mapping[str, Any]] = state["parts"]
    results = {name: entry["result"] for name, entry in parts.items() if entry["status"] == "finished"}
    rehearsal = state["rehearsal"]
    yield from ("# On a GPU" + (": a rehearsal on a processor" if rehearsal else ""), "")
    if rehearsal:
        yield from (
            "Few images, small networks, one or two epochs: all figures are meaningless, and none is judged.",
            "",
        )
    yield from format_table(("line", "claim", "bar", "figure", "verdict", "part"), list_rows(results, rehearsal))
    heads = ("part", "status", "command", "machine and versions")
    described = [
        (name, describe_status(entry), f"`{entry['command']}`", entry["machine"]) for name, entry in parts.items()
    ]
    yield from ("", *format_table(heads, described), "")
    columns = ("test_accuracy", "best_accuracy", "passes", "protocol", "set", "f1", "auc", "verdict", "seconds")
    trained = {f"{name}: {result['name']}": result for name, result in results.items() if "passes" in result}
    cells = [(name, *(format_cell(result[column]) for column in columns)) for name, result in trained.items()]
    yield from format_table(("training", *(column.replace("_", " ") for column in columns)), cells)
    for name, entry in parts.items():
        log = out / f"{name}.log"
        if entry["status"] in ("failed", "stopped") and log.exists():
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            yield from ("", f"{name}:", "", *(f"    {line}" for line in lines))


def format_cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def probe_machine(out: Path) -> dict[str, Any]:
    """Return the device and the versions, determined in a separate process."""
    log = out / "probe.log"
    code = run_command([sys.executable, "-c", PROBE], log, 180, make_environment(out))
    if code != 0:
        raise SystemExit(f"torch does not start (exit code {code}):\n{log.read_text(errors='replace')[-2000:]}")
    machine: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return machine


def read_state(out: Path, rehearse: bool) -> dict[str, Any]:
    """Read the state of earlier calls."""
    file = out / "on_gpu.json"
    state: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"rehearsal": rehearse, "parts": {}}
    if state["rehearsal"] != rehearse:
        kind = "a rehearsal" if state["rehearsal"] else "no rehearsal"
        raise SystemExit(f"{out} holds {kind}; give another --out")
    return state


def main(argv: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="of cifar-10-batches-py and cifar-n-labels.npz")
    parser.add_argument("--out", type=Path, help="default: gpu or gpu-rehearsal in benchmarks/results")
    parser.add_argument("--minutes", type=float, default=25.0, help="time limit of this call")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so")
    parser.add_argument("--again", action="store_true", help="repeat finished parts")
    parser.add_argument("--rehearse", action="store_true", help="try all parts on the processor")
    arguments = parser.parse_args(argv)
    suffix = "-rehearsal" if arguments.rehearse else ""
    out: Path = (arguments.out or RESULTS / f"gpu{suffix}").resolve()
    parts = list_parts(arguments.data_dir.resolve(), out, arguments.rehearse)
    selected_parts = [part for part in parts if part.name.startswith(tuple(arguments.only or [""]))]
    if not selected_parts:
        parser.error(f"--only names no part; give some of {', '.join(part.name for part in parts)}")
    out.mkdir(parents=True, exist_ok=True)
    state, versions = read_state(out, arguments.rehearse), probe_machine(out)
    if versions["device"] is None and not arguments.rehearse:
        raise SystemExit("there is no CUDA device; --rehearse tries all parts on the processor")
    machine = ", ".join(f"{name} {value}" for name, value in versions.items())
    run_parts(selected_parts, state, out, began + 60 * arguments.minutes, machine, arguments.again)
    print((out / "on_gpu.md").read_text())
    return int(any(state["parts"].get(part.name, {}).get("status") != "finished" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
