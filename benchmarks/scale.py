"""How time and memory grow with the samples of a run, over a real service and a real store on loopback.

usage: python -m benchmarks.scale growth [--samples 1e5,1e6,1e7,1e8] [--epochs 20,8] [--executor processes]
       python -m benchmarks.scale engines [--samples 2**28] [--epochs 8]
       python -m benchmarks.scale small [--repeats 15] --before DIR
       python -m benchmarks.scale table

``growth`` puts runs with complete and with observed bits, reads a set that nobody has computed, and finishes the round.
``engines`` computes one run with threads, with processes, and with Dask of one and two workers. ``small`` asks this
service and that of another checkout in alternation. ``--before DIR`` names such a checkout, whose whole-array path also
says which set ``growth`` has to give; runs of more than 10^7 samples repeat the set of their first 2^23 samples. Each
part adds its measurements to ``results/scale.json``; each, and ``table``, writes ``results/scale.md`` and exits with
1 if a bar is missed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.proc import ALLOCATOR, cpu_seconds, peak_kib
from benchmarks.serving import Served, service, store
from benchmarks.timing import machine, seconds
from mild_core import bitmap

RESULTS = Path(__file__).parent / "results"
BLOCK = 2**20
"""Samples that are drawn; larger runs repeat them in 8 variants."""
TILE = 8 * BLOCK
FEW = 2**26
"""Samples of the smaller of two runs of the engines; with 8 epochs, four parts."""
BITMAP = {"Accept": "application/octet-stream"}
OCTETS = {"Content-Type": "application/octet-stream"}
LIMITS = {"MILD_MAX_SAMPLES": str(2**31), "MILD_MAX_BODY_BYTES": str(2**30), "MILD_REQUEST_SECONDS": "3600"}
BASE_MIB, BYTES_A_SAMPLE, MAX_GROWTH, MIN_SPEEDUP, MAX_SLOWDOWN = 1024, 3, 2.0, 1.8, 1.1

_REFERENCE = """
import sys, numpy as np
from mild_core.selection import select
from mild_core.types import RoundBits
np.save(sys.argv[2], select([RoundBits(int(sys.argv[3]), *np.load(sys.argv[1]))]).bitmap)
"""


def draw_epochs(n_samples: int, n_epochs: int, has_gaps: bool) -> Iterator[tuple[NDArray[np.uint8], ...]]:
    """Draw the planes of each epoch of at most `TILE` samples: correct, and observed where there are gaps."""
    n_drawn = min(n_samples, TILE)
    rng = np.random.default_rng(0)
    noisy = rng.random(n_drawn, dtype=np.float32) < 0.3
    for epoch in range(n_epochs):
        p_correct = np.where(noisy, np.float32(0.1), np.float32(min(0.98, 0.3 + 0.1 * epoch)))
        correct = bitmap.pack(rng.random(n_drawn, dtype=np.float32) < p_correct)
        if has_gaps:
            observed = bitmap.pack(rng.random(n_drawn, dtype=np.float32) < 0.8)
            yield correct & observed, observed
        else:
            yield (correct,)


def repeat_bytes(plane: NDArray[np.uint8], n_samples: int) -> NDArray[np.uint8]:
    """Repeat a plane over the bytes of `n_samples`, without bits behind the last one."""
    repeated = np.resize(plane, bitmap.n_bytes(n_samples))
    if n_samples % 8:
        repeated[-1] &= 0xFF00 >> (n_samples % 8) & 0xFF
    return repeated


def record(client: httpx.Client, run: str, n_samples: int, n_epochs: int, has_gaps: bool) -> list[float]:
    """Put a run; return the seconds of each epoch's PUT."""
    client.put(f"/runs/{run}", json={"num_samples": n_samples}).raise_for_status()
    times = []
    for epoch, planes in enumerate(draw_epochs(n_samples, n_epochs, has_gaps)):
        body = b"".join(repeat_bytes(plane, n_samples).tobytes() for plane in planes[::-1])
        put = partial(client.put, f"/runs/{run}/rounds/0/epochs/{epoch}", content=body, headers=OCTETS)
        started = time.perf_counter()
        put().raise_for_status()
        times.append(time.perf_counter() - started)
    return times


def select_before(before: Path, n_samples: int, n_epochs: int, has_gaps: bool) -> NDArray[np.uint8]:
    """Compute the set by the whole-array path of another checkout, shape (n_bytes,)."""
    n_computed = n_samples if n_samples <= 10**7 else TILE
    epochs = list(draw_epochs(n_computed, n_epochs, has_gaps))
    with TemporaryDirectory(prefix="mild-scale-") as name:
        folder = Path(name)
        planes = [np.stack([repeat_bytes(p, n_computed) for p in column]) for column in zip(*epochs, strict=True)]
        np.save(folder / "planes.npy", np.stack(planes))
        words = [sys.executable, "-c", _REFERENCE, str(folder / "planes.npy"), str(folder / "set.npy"), str(n_computed)]
        subprocess.run(["env", f"PYTHONPATH={before / 'service'}", *words], check=True)
        found: NDArray[np.uint8] = np.load(folder / "set.npy")
    return repeat_bytes(found, n_samples)


@contextmanager
def serve(executor: str, store_url: str, variables: Mapping[str, str] | None = None) -> Iterator[tuple[Served, Any]]:
    """A service with limits that admit all runs, and a client."""
    environment = {**ALLOCATOR, **LIMITS, "MILD_EXECUTOR": executor, **(variables or {})}
    with service(store_url, environment) as served, httpx.Client(base_url=served.url, timeout=3600) as client:
        yield served, client


def measure_growth(n_samples: int, n_epochs: int, has_gaps: bool, executor: str, before: Path | None) -> dict[str, Any]:
    """Put, read and finish one run; return the measurements."""
    with store() as server, serve(executor, server.url) as (served, client):
        record(client, "warm", 100_000, 8, has_gaps)
        client.get("/selection/warm", headers=BITMAP).raise_for_status()
        puts = record(client, "a", n_samples, n_epochs, has_gaps)
        after_put = peak_kib(served.process.pid) / 1024
        started, cpu = time.perf_counter(), cpu_seconds(served.process.pid)
        found = client.get("/selection/a", headers=BITMAP).raise_for_status()
        read, cpu = time.perf_counter() - started, cpu_seconds(served.process.pid) - cpu
        started = time.perf_counter()
        client.post("/runs/a/rounds/0/finish", headers=BITMAP).raise_for_status()
        finish = time.perf_counter() - started
        peak = peak_kib(served.process.pid) / 1024
    same = None
    if before is not None:
        expected = select_before(before, n_samples, n_epochs, has_gaps)
        same = bool(np.array_equal(np.frombuffer(found.content, dtype=np.uint8), expected))
    return {
        "samples": n_samples, "epochs": n_epochs, "observed": has_gaps, "executor": executor,
        "put_ms": statistics.median(puts) * 1e3, "get_s": read, "get_cpu_s": cpu, "finish_s": finish,
        "put_peak_mib": after_put, "peak_mib": peak, "same": same,
    }  # fmt: skip


@contextmanager
def dask_cluster(n_workers: int) -> Iterator[str]:
    """A Dask cluster of processes on loopback; its address for the service."""
    from distributed import LocalCluster

    options = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with LocalCluster(host="127.0.0.1", **options) as cluster:  # type: ignore[no-untyped-call]
        yield cluster.scheduler_address.replace("tcp://", "dask://")


def measure_engines(n_samples: int, n_epochs: int) -> list[dict[str, Any]]:
    """Compute the same run by every engine; return the seconds of each."""
    rows: list[dict[str, Any]] = []
    with store() as server:
        with serve("threads", server.url) as (_, client):
            record(client, "a", n_samples, n_epochs, False)
            record(client, "small", FEW, n_epochs, False)
        engines = [("threads", 1), ("threads", 2), ("processes", 1), ("processes", 2), ("dask", 1), ("dask", 2)]
        sets = set()
        for kind, n_workers in engines:
            with ExitStack() as stack:
                executor = stack.enter_context(dask_cluster(n_workers)) if kind == "dask" else kind
                variables = {"MILD_COMPUTE_WORKERS": str(n_workers)}
                _, client = stack.enter_context(serve(executor, server.url, variables))
                client.get("/selection/small", headers=BITMAP).raise_for_status()
                times: dict[str, list[float]] = {"small": [], "a": []}
                for repeat in range(3):
                    for run, measured in times.items():
                        params = {"min_keep": (1 + repeat + 10 * len(rows)) / 10**6}  # the same set, not cached
                        started = time.perf_counter()
                        answer = client.get(f"/selection/{run}", params=params, headers=BITMAP).raise_for_status()
                        measured.append(time.perf_counter() - started)
                        sets.add((run, hash(answer.content)))
            rows.append(
                {"engine": kind, "workers": n_workers, "samples": n_samples, "small_samples": FEW, "epochs": n_epochs}
                | {"seconds": statistics.median(times["a"]), "small_seconds": statistics.median(times["small"])}
            )
    assert len(sets) == 2, "every engine gives the same set"
    return rows


def alternate(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run works in turn; return the seconds of each, without the first two of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 2):
        for name, work in works.items():
            taken = seconds(work)
            if repeat > 1:
                times[name].append(taken)
    return times


def measure_small(before: Path, repeats: int) -> list[dict[str, Any]]:
    """Ask this service and that of another checkout in alternation; return milliseconds and ratios."""
    rows: list[dict[str, Any]] = []
    paths = {"before": ":".join(str(before / name) for name in ("service", "trainer_client"))}
    with ExitStack() as stack:
        clients = {}
        for name in ("before", "now"):
            variables = {"PYTHONPATH": paths[name]} if name in paths else {}
            server = stack.enter_context(store())
            variables["MILD_RATE_PER_KEY"] = "0"
            _, clients[name] = stack.enter_context(serve("processes", server.url, variables))
        for run, n_samples, times in (("small", 50_000, repeats), ("imagenet", 1_281_167, max(repeats // 2, 3))):
            for client in clients.values():
                record(client, run, n_samples, 200, False)
            counter = iter(range(10**6))

            def ask(client: httpx.Client, run: str = run, counter: Iterator[int] = counter) -> None:
                params = {"cost_ratio": 1 + next(counter) / 1e5}
                client.get(f"/selection/{run}", params=params, headers=BITMAP).raise_for_status()

            def ask_unchanged(client: httpx.Client, tag: str, run: str = run) -> None:
                assert client.get(f"/selection/{run}", headers={**BITMAP, "If-None-Match": tag}).status_code == 304

            def ask_at_once(client: httpx.Client, ask: Callable[[httpx.Client], None] = ask) -> None:
                with ThreadPoolExecutor(4) as pool:
                    list(pool.map(lambda _: ask(client), range(16)))

            tags = {name: c.get(f"/selection/{run}", headers=BITMAP).headers["ETag"] for name, c in clients.items()}
            body = next(draw_epochs(n_samples, 1, False))[0].tobytes()

            def put(client: httpx.Client, number: Iterator[int], run: str = run, body: bytes = body) -> None:
                path = f"/runs/{run}/rounds/0/epochs/{next(number)}"
                client.put(path, content=body, headers=OCTETS).raise_for_status()

            measured: dict[str, tuple[Mapping[str, Callable[[], object]], int]] = {
                "cold selection": ({name: partial(ask, client) for name, client in clients.items()}, times),
                "304": ({name: partial(ask_unchanged, c, tags[name]) for name, c in clients.items()}, 20 * times),
            }
            if run == "small":
                measured["16 cold selections of 4 clients"] = (
                    {name: partial(ask_at_once, client) for name, client in clients.items()}, times,
                )  # fmt: skip
            measured["PUT"] = (
                {name: partial(put, client, iter(range(1000, 4000))) for name, client in clients.items()},
                4 * times,
            )
            for what, (works, n_times) in measured.items():
                taken = alternate(works, n_times)
                ratios = [b / n for b, n in zip(taken["before"], taken["now"], strict=True)]
                rows.append(
                    {"what": what, "samples": n_samples, "speedup": statistics.median(ratios)}
                    | {f"{name}_ms": statistics.median(column) * 1e3 for name, column in taken.items()}
                )
    return rows


def check_growth(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what misses a bar."""
    missed = []
    for row in rows:
        where = describe_run(row)
        allowed = BASE_MIB + BYTES_A_SAMPLE * row["samples"] / 2**20
        if row["peak_mib"] > allowed:
            missed.append(f"{where}: {row['peak_mib']:.0f} MiB, at most {allowed:.0f}")
        if row["same"] is False:
            missed.append(f"{where}: another set than the reference")
    for key in {(row["epochs"], row["observed"], row["executor"]) for row in rows}:
        alike = [r for r in rows if (r["epochs"], r["observed"], r["executor"]) == key and r["samples"] >= 10**6]
        for name in ("put_ms", "get_s", "finish_s"):
            each = [row[name] / row["samples"] for row in sorted(alike, key=lambda row: row["samples"])]
            if each and max(each) > MAX_GROWTH * each[0]:
                missed.append(f"{name} of {key}: a sample takes {max(each) / each[0]:.1f} times as long as of 10^6")
    return missed


def check_small(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name what misses a bar."""
    return [
        f"{row['what']} of {row['samples']:,}: {row['speedup']:.2f} times as fast as before, at least {bar:.2f}"
        for row in rows
        if row["speedup"] < (bar := MIN_SPEEDUP if "clients" in row["what"] else 1 / MAX_SLOWDOWN)
    ]


def describe_run(row: Mapping[str, Any]) -> str:
    """Name a run."""
    return f"{row['samples']:,} x {row['epochs']}, {'observed' if row['observed'] else 'complete'}, {row['executor']}"


def fit_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Fit ``seconds = fixed + per_sample * samples`` of every engine through its two runs."""
    found = {}
    for row in rows:
        slope = (row["seconds"] - row["small_seconds"]) / (row["samples"] - row["small_samples"])
        found[f"{row['engine']} x {row['workers']}"] = (row["small_seconds"] - slope * row["small_samples"], slope)
    return found


def write_table(kept: Mapping[str, Any]) -> list[str]:
    """Write the tables; return what misses a bar."""
    load = ", ".join(f"{number} of `{part}`" for part, number in kept.get("load", {}).items())
    lines = ["# Growth", "", f"{kept['about']} Load averages at the end: {load or 'not kept'}.", ""]
    growth = sorted(kept["growth"].values(), key=lambda r: (r["executor"], r["observed"], r["epochs"], r["samples"]))
    missed = check_growth(growth) + check_small(kept["small"])
    if growth:
        lines += [
            "| samples | epochs | bits | engine | PUT, ms | ns a sample | GET, s | ns a sample | its processor, ns "
            "| finish, s | ns a sample | peak, MiB | allowed | as the reference |",
            "|---" * 14 + "|",
        ]
        for row in growth:
            n, cpu = row["samples"], row.get("get_cpu_s")
            same = {True: "same", False: "other", None: "not compared"}[row["same"]]
            cells = [
                *(f"{n:,}", str(row["epochs"]), "observed" if row["observed"] else "complete", row["executor"]),
                *(f"{row['put_ms']:.1f}", f"{row['put_ms'] / n * 1e6:.2f}"),
                *(
                    f"{row['get_s']:.2f}",
                    f"{row['get_s'] / n * 1e9:.1f}",
                    "" if cpu is None else f"{cpu / n * 1e9:.1f}",
                ),
                *(f"{row['finish_s']:.2f}", f"{row['finish_s'] / n * 1e9:.1f}"),
                *(f"{row['peak_mib']:.0f}", f"{BASE_MIB + BYTES_A_SAMPLE * n / 2**20:.0f}", same),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if kept["engines"]:
        lines += ["", "## Engines", "", "| engine | workers | samples | s | samples | s | fixed, s | ns a sample |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        model = fit_model(kept["engines"])
        for row in kept["engines"]:
            fixed, slope = model[f"{row['engine']} x {row['workers']}"]
            lines.append(
                f"| {row['engine']} | {row['workers']} | {row['small_samples']:,} | {row['small_seconds']:.3f} "
                f"| {row['samples']:,} | {row['seconds']:.2f} | {fixed:.3f} | {slope * 1e9:.2f} |"
            )
        lines += ["", *describe_model(model)]
    if kept["small"]:
        lines += ["", "## Small runs, of 200 epochs", "", "| what | samples | before, ms | now, ms | times as fast |"]
        lines += ["|---|---|---|---|---|"]
        for row in kept["small"]:
            lines.append(
                f"| {row['what']} | {row['samples']:,} | {row['before_ms']:.1f} | {row['now_ms']:.1f} "
                f"| {row['speedup']:.2f} |"
            )
    lines += ["", "Missed: " + "; ".join(missed) + "." if missed else "No bar is missed.", ""]
    (RESULTS / "scale.md").write_text("\n".join(lines))
    return missed


def describe_model(model: Mapping[str, tuple[float, float]]) -> list[str]:
    """Say from how many samples on Dask pays."""
    fixed = [each for each, _ in model.values()]
    if min(fixed) < 0:
        return [
            f"The fixed times lie in {min(fixed):.1f} to {max(fixed):.1f} s, so they are noise: from how many samples "
            "on Dask pays cannot be said."
        ]
    fixed_two, slope_two = model["processes x 2"]
    fixed_dask, slope_one = model["dask x 1"][0], model["dask x 1"][1]
    lines = [
        "A line through both runs: seconds = fixed + samples x time a sample; that of W workers of Dask on machines of "
        "their own is taken to be that of one, divided by W.",
        "",
    ]
    for n_workers in (4, 8, 16):
        gain = slope_two - slope_one / n_workers
        if gain <= 0:
            lines.append(f"- {n_workers} workers: never faster than two processes of the service.")
        else:
            pays = max(fixed_dask - fixed_two, 0) / gain
            lines.append(
                f"- {n_workers} workers: faster than two processes of the service from {pays:.1e} samples on, and "
                f"{slope_two * n_workers / slope_one:.1f} times as fast in the limit."
            )
    return lines


def parse_number(text: str) -> int:
    """Parse 1e6, 2**28 or 1000000."""
    base, _, power = text.partition("**")
    return int(base) ** int(power) if power else int(float(text))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["growth", "engines", "small", "table"])
    parser.add_argument("--samples", default="1e5,1e6,1e7,1e8")
    parser.add_argument("--epochs", default="20,8")
    parser.add_argument("--bits", default="complete,observed")
    parser.add_argument("--executor", default="processes")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--before", type=Path)
    arguments = parser.parse_args(argv)
    path = RESULTS / "scale.json"
    empty: dict[str, Any] = {"growth": {}, "engines": [], "small": []}
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else empty
    cores = len(os.sched_getaffinity(0))
    kept["about"] = (
        f"`python -m benchmarks.scale growth`, `engines` and `small`, each run once or more; {cores} shared cores, "
        f"{machine('numpy', 'fastapi', 'redis', 'distributed')}; a service and an embedded store (fsynced always) in "
        "processes of their own, on loopback. Memory is the sum of the peaks (VmHWM) of the service and its workers."
    )
    sizes = [parse_number(text) for text in arguments.samples.split(",")]
    epochs = [int(text) for text in arguments.epochs.split(",")]
    if arguments.part == "growth":
        for n_epochs in epochs:
            for bits in arguments.bits.split(","):
                for n_samples in sizes:
                    row = measure_growth(n_samples, n_epochs, bits == "observed", arguments.executor, arguments.before)
                    print(json.dumps(row), flush=True)
                    kept["growth"][describe_run(row)] = row
                    path.write_text(json.dumps(kept, indent=1) + "\n")
    elif arguments.part == "engines":
        kept["engines"] = measure_engines(sizes[-1], epochs[-1])
    elif arguments.part == "small":
        assert arguments.before is not None, "small runs are compared with --before"
        kept["small"] = measure_small(arguments.before, arguments.repeats)
    if arguments.part != "table":
        kept["load"] = {**kept.get("load", {}), arguments.part: round(os.getloadavg()[1])}
    path.write_text(json.dumps(kept, indent=1) + "\n")
    missed = write_table(kept)
    print("\n".join(missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
