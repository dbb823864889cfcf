"""All that waits for a GPU, within 25 minutes of one: the claims of tracker, throughput, selection and human labels.

usage: python -m benchmarks.on_gpu --data-dir DIR [--out DIR] [--minutes 25] [--only PART ...] [--again]
       python -m benchmarks.on_gpu --data-dir DIR --rehearse

Each part is a process of its own with a limit of its own, so that none that fails or hangs stops the others; what it
prints goes to ``OUT/PART.log``. After each part ``OUT/on_gpu.json`` and ``OUT/on_gpu.md`` are replaced. What is
finished is not done again, so several calls complete it; a part that would not fit into the minutes that are left is
left for the next one. ``--only sequence`` runs all parts whose names begin so. ``DIR`` holds ``cifar-10-batches-py``
and ``cifar-n-labels.npz``. Neither is the checkout to be installed, nor fastapi or redis. ``--rehearse`` runs all parts
on the processor, on few images with a small network, and judges nothing. Exits with 1 unless all parts are finished.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.claims import HEADS, RESULTS, format_table

ROOT = Path(__file__).parent.parent
MARGIN = 5.0
"""Seconds that are kept for the report when a part is stopped."""
REHEARSED = 10.0
"""Seconds that a part of a rehearsal takes at least."""
LOG_LINES = 15
"""Of a part that has failed, in the report."""
PROBE = """
import json, os, platform, numpy, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "device": torch.cuda.get_device_name() if cuda else None, "cores": os.cpu_count(),
    "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
    "cudnn": torch.backends.cudnn.version(), "numpy": numpy.__version__,
}))
"""

LINES = ("overhead", "throughput", "sequences", "headline", "human labels")
"""Groups of claims, in the order of the report."""

Result = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One process of the whole.

    Attributes
    ----------
    name
        Of the part and its log.
    command
        Words behind ``python -m``.
    file, read
        The file that the process leaves when it is finished, and what returns the result from it.
    seconds
        Time that it is expected to take: with less left it is not begun.
    limit
        Seconds after which it is stopped.
    """

    name: str
    command: Sequence[str]
    file: Path
    read: Callable[[Path], Result]
    seconds: float
    limit: float


@dataclass(frozen=True, slots=True)
class PartClaim:
    """What a part shows beside a bar, or without one.

    Attributes
    ----------
    line
        Group of claims.
    text, bar
        What is claimed, and the bar in words; a dash where a figure alone is asked for.
    part
        Whose result it needs.
    judge
        Returns the figure in words, and whether it reaches the bar; None where there is none. It is given the results
        of all finished parts, by name.
    """

    line: str
    text: str
    bar: str
    part: str
    judge: Callable[[Mapping[str, Result]], tuple[str, bool | None]]


def list_parts(data_dir: Path, out: Path, rehearse: bool) -> list[Part]:
    """List the parts in order, at full size for CUDA, or small ones for a processor."""
    device = ["--device", "cpu" if rehearse else "cuda"]
    data = ["--data-dir", str(data_dir), *device]
    tracker = ["--repeats", "1", "--samples", "128"] if rehearse else []
    network = ["--model", "resnet8"] if rehearse else []
    throughput = ["--samples", "256", "--epochs", "1", "--batch-size", "64", "--workers", "1", "--matrix", "256"]
    throughput = [*network, *throughput] if rehearse else []
    recorded = [*network, "--limit", "300", "--epochs", "2"] if rehearse else []
    few = [*network, "--limit", "400", "--n-test", "200", "--pixels", "16", "--share", "0.1"] if rehearse else []
    published = ["--seconds", "3" if rehearse else "200"]
    epochs = 2 if rehearse else 30

    def record(name: str, noise: str) -> Part:
        file = out / "sequences" / f"cifar10_{noise}_e{epochs}_plant-confused_s1.npz"
        words = ["benchmarks.record", "--full", "--only", noise, "--out", str(file.parent), *data, *recorded]
        return Part(f"sequence-{name}", words, file, lambda file: {"file": f"sequences/{file.name}"}, 150, 330)

    def train(name: str, way: str, seconds: float, *words: str) -> Part:
        file = out / f"{name}.json"
        words = ("studies.headline", "--only", way, "--row", str(file), *data, *few, *words)
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
        train("headline-published", "published", 240, *published),
        train("human-ours", "ours", 120, *human),
        train("human-class-prior", "ours", 120, *human, "--class-prior", "balanced"),
        train("human-cross-entropy", "cross-entropy", 110, *human),
        measure_throughput("throughput-compiled", "--compile"),
    ]
    # To compile takes a compiler, which not every processor's machine has.
    return [replace(part, seconds=REHEARSED) for part in parts[:-1]] if rehearse else parts


def list_test_words(counts: Path) -> list[str]:
    """Words that run the tests marked gpu, without the service's fixtures, which need packages that are not here.

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
    """Read how many tests there were and what came of them."""
    suite = ElementTree.parse(file).getroot()[0]
    return {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}


def read_page(page: Path) -> Result:
    """Read the claims on the page of a benchmark: text, bar, figure and whether it is reached."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines()]
    claims = [row for row in rows if len(row) == len(HEADS) and row[-1] in ("reached", "**MISSED**")]
    return {"claims": [[text, bar, figure, verdict == "reached"] for text, _, bar, figure, verdict in claims]}


def list_claims() -> list[PartClaim]:
    """List what the parts show, beside the bars."""
    update = "`update`, of a step of ResNet-34 at batch 512"
    claims = [
        PartClaim("overhead", "tests marked gpu", "all pass", "tests", judge_tests),
        PartClaim("overhead", update, "at most 1%", "tracker", lambda results: judge_page(results, False)),
        PartClaim("overhead", "AUM's `update` over ours", "at least 50x", "tracker", lambda r: judge_page(r, True)),
        PartClaim("overhead", "waits of the host within `update`, which end the part", "none", "tracker", judge_waits),
    ]
    for part, words in (("throughput", ""), ("throughput-compiled", ", compiled")):
        ratio = f"images a second over the published loop's{words}"
        claims += [
            PartClaim("throughput", ratio, "at least 8x", part, lambda results, part=part: judge_ratio(results[part])),  # type: ignore[misc]  # bound now
            show("throughput", f"share of the measured bf16 peak{words}", part, "{peak_share:.1%}"),
        ]
    claims += [show("sequences", "recorded", f"sequence-{name}", "{file}") for name in ("worse", "symmetric")]
    accuracy = "accuracy by the selection alone"
    claims += [
        PartClaim("headline", accuracy, "above 0.791", "headline-ours", judge_accuracy),
        PartClaim("headline", "passes, of the published protocol's", "at most 0.2", "headline-ours", judge_passes),
        show("headline", "AUC of the scores and F1 of the set", "headline-ours", "{auc:.3f}, {f1:.3f}, {verdict}"),
        show("headline", "accuracy on the true clean set", "headline-true-set", "{test_accuracy:.3f}"),
        show("headline", "the published loop, shortened", "headline-published", "{test_accuracy:.3f}, {name}"),
    ]
    ways = (("human-ours", "ours"), ("human-class-prior", "ours, `--class-prior balanced`"))
    for part, text in ways:
        bar = "above cross entropy here, and 0.839 (tuned, in the literature)"
        claims += [
            show("human labels", f"{text}: AUC and F1", part, "{auc:.3f}, {f1:.3f}, {verdict}"),
            PartClaim("human labels", f"{text}: {accuracy}", bar, part, lambda r, part=part: judge_human(r, part)),  # type: ignore[misc]  # bound now
        ]
    plain = "cross entropy on all labels: accuracy after the last and in the best epoch"
    form = "{test_accuracy:.3f}, {best_accuracy:.3f}"
    lines = ("headline", "human labels")
    claims += [show(line, plain, f"{line.split()[0]}-cross-entropy", form) for line in lines]
    return sorted(claims, key=lambda claim: LINES.index(claim.line))


def show(line: str, text: str, part: str, form: str) -> PartClaim:
    """Make a claim of figures without a bar, given their format."""
    return PartClaim(line, text, "-", part, lambda results: (form.format(**results[part]), None))


def judge_tests(results: Mapping[str, Result]) -> tuple[str, bool | None]:
    counts = results["tests"]
    n_bad = counts["failures"] + counts["errors"]
    n_passed = counts["tests"] - n_bad - counts["skipped"]
    return f"{n_passed} passed, {n_bad} failed, {counts['skipped']} skipped", n_passed == counts["tests"] > 0


def judge_page(results: Mapping[str, Result], is_aum: bool) -> tuple[str, bool | None]:
    for claim, _, figure, reached in results["tracker"]["claims"]:
        if ("AUM" in claim) == is_aum:
            return figure, reached
    return "not measured: aum is not installed", None


def judge_waits(results: Mapping[str, Result]) -> tuple[str, bool | None]:
    return "none", True


def judge_ratio(result: Result) -> tuple[str, bool | None]:
    ours, published = result["ours"], result["published"]
    return f"{ours / published:.1f}x: {ours:,.0f} and {published:,.0f}", ours >= 8 * published


def judge_accuracy(results: Mapping[str, Result]) -> tuple[str, bool | None]:
    accuracy = results["headline-ours"]["test_accuracy"]
    return f"{accuracy:.3f}", accuracy > 0.791


def judge_passes(results: Mapping[str, Result]) -> tuple[str, bool | None]:
    ours = results["headline-ours"]
    share = ours["passes"] / ours["protocol"]
    return f"{share:.3f}: {ours['passes']:,} of {ours['protocol']:,}", share <= 0.2


def judge_human(results: Mapping[str, Result], part: str) -> tuple[str, bool | None]:
    accuracy, plain = results[part]["test_accuracy"], results.get("human-cross-entropy")
    return f"{accuracy:.3f}", None if plain is None else accuracy > max(0.839, plain["best_accuracy"])


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
    """Run what is not finished yet and fits in before `deadline`, and write the report after each part."""
    environment = make_environment(out)
    for part in parts:
        if state["parts"].get(part.name, {}).get("status") == "finished" and not again:
            continue
        left = deadline - time.monotonic() - MARGIN
        entry: dict[str, Any] = {"command": shorten_paths(part.command, out), "machine": machine}
        if left < part.seconds:
            reason = f"it takes about {part.seconds:.0f} s, and {max(left, 0):.0f} s were left"
            entry |= {"status": "skipped", "reason": reason}
        else:
            state["parts"][part.name] = {**entry, "status": "begun", "reason": "the whole was ended meanwhile"}
            write_report(state, out)
            entry |= run_part(part, out / f"{part.name}.log", min(part.limit, left), environment)
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
    """Write the state as JSON, and as a page, each at once."""
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
    rows = []
    for claim in list_claims():
        figure, verdict = "", "not measured"
        if claim.part in results:
            figure, reached = claim.judge(results)
            verdict = "-" if reached is None else "not judged" if rehearsal else "reached" if reached else "**MISSED**"
        rows.append((claim.line, claim.text, claim.bar, figure, verdict, claim.part))
    yield from format_table(("line", "claim", "bar", "figure", "verdict", "part"), rows)
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
    """Return the device and the versions, as a process of its own finds them."""
    log = out / "probe.log"
    code = run_command([sys.executable, "-c", PROBE], log, 180, make_environment(out))
    if code != 0:
        raise SystemExit(f"torch does not start (exit code {code}):\n{log.read_text(errors='replace')[-2000:]}")
    machine: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return machine


def read_state(out: Path, rehearse: bool) -> dict[str, Any]:
    """Return what earlier calls have left."""
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
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu, or gpu-rehearsal beside it")
    parser.add_argument("--minutes", type=float, default=25.0, help="what this call may take")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so")
    parser.add_argument("--again", action="store_true", help="do finished parts once more")
    parser.add_argument("--rehearse", action="store_true", help="try all parts on the processor")
    arguments = parser.parse_args(argv)
    suffix = "-rehearsal" if arguments.rehearse else ""
    out: Path = (arguments.out or RESULTS / f"gpu{suffix}").resolve()
    parts = list_parts(arguments.data_dir.resolve(), out, arguments.rehearse)
    chosen = [part for part in parts if part.name.startswith(tuple(arguments.only or [""]))]
    if not chosen:
        parser.error(f"--only names no part; give some of {', '.join(part.name for part in parts)}")
    out.mkdir(parents=True, exist_ok=True)
    state, found = read_state(out, arguments.rehearse), probe_machine(out)
    if found["device"] is None and not arguments.rehearse:
        raise SystemExit("there is no CUDA device; --rehearse tries all parts on the processor")
    machine = ", ".join(f"{name} {value}" for name, value in found.items())
    run_parts(chosen, state, out, began + 60 * arguments.minutes, machine, arguments.again)
    print((out / "on_gpu.md").read_text())
    return int(any(state["parts"].get(part.name, {}).get("status") != "finished" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
