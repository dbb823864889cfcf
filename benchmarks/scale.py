"""How time and memory grow with the samples of a run, over a real service and a real store on loopback.

``--part growth`` puts runs with complete and with observed bits, reads a set that is not cached, and finishes the
round; the set is compared with that of all bits in one piece, for more than 10^7 samples with that of the first 2^23,
which they repeat. ``--part engines`` computes one run with threads, with processes, and with Dask of one and two
workers. Each part adds its measurements to ``scale.json``, from which the page is made; ``--part table`` measures
nothing.
"""

import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import Benchmark, Claim, Report, claim_none, format_table
from benchmarks.proc import ALLOCATOR, read_cpu_seconds, read_peak_kib
from benchmarks.serving import RunningService, start_service, start_store
from mild_core import bitmap
from mild_core.selection import select
from mild_core.types import RoundBits

BLOCK = 2**20
"""Number of samples that are drawn; larger runs repeat 8 times as many."""
TILE = 8 * BLOCK
SMALL = 2**26
"""Number of samples of the smaller run of the engines; with 8 epochs, four parts."""
BITMAP = {"Accept": "application/octet-stream"}
OCTETS = {"Content-Type": "application/octet-stream"}
LIMITS = {"MILD_MAX_SAMPLES": str(2**31), "MILD_MAX_BODY_BYTES": str(2**30), "MILD_REQUEST_SECONDS": "3600"}
BASE_MIB, BYTES_A_SAMPLE, MAX_GROWTH = 1024, 3, 2.0


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


def put_run(client: httpx.Client, run: str, n_samples: int, n_epochs: int, has_gaps: bool) -> list[float]:
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


def select_whole(n_samples: int, n_epochs: int, has_gaps: bool) -> NDArray[np.uint8]:
    """Compute the set from all bits in one piece, shape (n_bytes,)."""
    n_computed = n_samples if n_samples <= 10**7 else TILE
    epochs = list(draw_epochs(n_computed, n_epochs, has_gaps))
    planes = [np.stack([repeat_bytes(p, n_computed) for p in column]) for column in zip(*epochs, strict=True)]
    correct, observed = (planes[0], planes[1] if has_gaps else None)
    return repeat_bytes(select([RoundBits(n_computed, correct, observed)]).bitmap, n_samples)


@contextmanager
def serve(
    executor: str, store_url: str, variables: Mapping[str, str] | None = None
) -> Iterator[tuple[RunningService, Any]]:
    """Context manager of a service whose limits admit all runs, and of a client."""
    environment = {**ALLOCATOR, **LIMITS, "MILD_EXECUTOR": executor, **(variables or {})}
    with start_service(store_url, environment) as service, httpx.Client(base_url=service.url, timeout=3600) as client:
        yield service, client


def measure_growth(n_samples: int, n_epochs: int, has_gaps: bool, executor: str) -> dict[str, Any]:
    """Put, read and finish one run; return the measurements."""
    with start_store() as server, serve(executor, server.url) as (service, client):
        put_run(client, "warm", 100_000, 8, has_gaps)
        client.get("/selection/warm", headers=BITMAP).raise_for_status()
        puts = put_run(client, "a", n_samples, n_epochs, has_gaps)
        after_put = read_peak_kib(service.process.pid) / 1024
        started, cpu = time.perf_counter(), read_cpu_seconds(service.process.pid)
        answer = client.get("/selection/a", headers=BITMAP).raise_for_status()
        read, cpu = time.perf_counter() - started, read_cpu_seconds(service.process.pid) - cpu
        started = time.perf_counter()
        client.post("/runs/a/rounds/0/finish", headers=BITMAP).raise_for_status()
        finish = time.perf_counter() - started
        peak = read_peak_kib(service.process.pid) / 1024
    expected = select_whole(n_samples, n_epochs, has_gaps)
    is_same = bool(np.array_equal(np.frombuffer(answer.content, dtype=np.uint8), expected))
    return {
        "samples": n_samples, "epochs": n_epochs, "observed": has_gaps, "executor": executor,
        "put_ms": statistics.median(puts) * 1e3, "get_s": read, "get_cpu_s": cpu, "finish_s": finish,
        "put_peak_mib": after_put, "peak_mib": peak, "same": is_same,
    }  # fmt: skip


@contextmanager
def start_dask_cluster(n_workers: int) -> Iterator[str]:
    """Context manager of a Dask cluster of processes on loopback; yields its address for the service."""
    from distributed import LocalCluster

    options = {"n_workers": n_workers, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with LocalCluster(host="127.0.0.1", **options) as cluster:  # type: ignore[no-untyped-call]
        yield cluster.scheduler_address.replace("tcp://", "dask://")


def measure_engines(n_samples: int, n_epochs: int) -> list[dict[str, Any]]:
    """Compute the same run by every engine; return the seconds of each."""
    rows: list[dict[str, Any]] = []
    with start_store() as server:
        with serve("threads", server.url) as (_, client):
            put_run(client, "a", n_samples, n_epochs, False)
            put_run(client, "small", SMALL, n_epochs, False)
        engines = [("threads", 1), ("threads", 2), ("processes", 1), ("processes", 2), ("dask", 1), ("dask", 2)]
        sets = set()
        for kind, n_workers in engines:
            with ExitStack() as stack:
                executor = stack.enter_context(start_dask_cluster(n_workers)) if kind == "dask" else kind
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
                {"engine": kind, "workers": n_workers, "samples": n_samples, "small_samples": SMALL, "epochs": n_epochs}
                | {"seconds": statistics.median(times["a"]), "small_seconds": statistics.median(times["small"])}
            )
    assert len(sets) == 2, "every engine gives the same set"
    return rows


def list_claims(rows: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """List the claims, from the measurements of growth."""
    peak = max((row["peak_mib"] / allow_mib(row) for row in rows), default=np.nan)
    grown = {name: [0.0] for name in ("put_ms", "get_s", "finish_s")}
    for key in {(row["epochs"], row["observed"], row["executor"]) for row in rows}:
        alike = [r for r in rows if (r["epochs"], r["observed"], r["executor"]) == key and r["samples"] >= 10**6]
        for name, ratios in grown.items():
            each = [row[name] / row["samples"] for row in sorted(alike, key=lambda row: row["samples"])]
            ratios += [max(each) / each[0]] if each else []
    names = {"put_ms": "an epoch's PUT", "get_s": "a selection", "finish_s": "a round's end"}
    return [
        Claim(f"peak memory, of {BASE_MIB} MiB and {BYTES_A_SAMPLE} bytes a sample", peak, "at most", 1, "{:.2f} x"),
        *(
            Claim(
                f"time a sample of {names[name]}, over that in a run of 10^6",
                max(ratios),
                "at most",
                MAX_GROWTH,
                "{:.1f} x",
            )
            for name, ratios in grown.items()
        ),
        claim_none("sets that differ from that of all bits in one piece", [row for row in rows if not row["same"]]),
    ]


def allow_mib(row: Mapping[str, Any]) -> float:
    """Return the peak memory in MiB that a run may take."""
    return float(BASE_MIB + BYTES_A_SAMPLE * row["samples"] / 2**20)


def describe_run(row: Mapping[str, Any]) -> str:
    """Name a run."""
    return f"{row['samples']:,} x {row['epochs']}, {'observed' if row['observed'] else 'complete'}, {row['executor']}"


def fit_model(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Fit ``seconds = fixed + per_sample * samples`` of every engine through its two runs."""
    model = {}
    for row in rows:
        slope = (row["seconds"] - row["small_seconds"]) / (row["samples"] - row["small_samples"])
        model[f"{row['engine']} x {row['workers']}"] = (row["small_seconds"] - slope * row["small_samples"], slope)
    return model


def format_growth(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the table of growth."""
    lines = []
    for row in rows:
        n = row["samples"]
        cells: list[object] = [f"{n:,}", row["epochs"], "observed" if row["observed"] else "complete", row["executor"]]
        cells += [f"{row['put_ms']:.1f}", f"{row['put_ms'] / n * 1e6:.2f}"]
        cells += [f"{row['get_s']:.2f}", f"{row['get_s'] / n * 1e9:.1f}", f"{row['get_cpu_s'] / n * 1e9:.1f}"]
        cells += [f"{row['finish_s']:.2f}", f"{row['finish_s'] / n * 1e9:.1f}"]
        lines.append([*cells, f"{row['peak_mib']:.0f}", f"{allow_mib(row):.0f}"])
    heads = ("samples", "epochs", "bits", "engine", "PUT, ms", "ns a sample", "GET, s", "ns a sample")
    return format_table((*heads, "its processor, ns", "finish, s", "ns a sample", "peak, MiB", "allowed"), lines)


def format_engines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Format the table of the engines, with the number of samples from which Dask is faster."""
    model = fit_model(rows)
    lines = []
    for row in rows:
        fixed, slope = model[f"{row['engine']} x {row['workers']}"]
        sizes = (f"{row['small_samples']:,}", f"{row['small_seconds']:.3f}", f"{row['samples']:,}")
        seconds = (f"{row['seconds']:.2f}", f"{fixed:.3f}", f"{slope * 1e9:.2f}")
        lines.append((row["engine"], row["workers"], *sizes, *seconds))
    heads = ("engine", "workers", "samples", "s", "samples", "s", "fixed, s", "ns a sample")
    return [*format_table(heads, lines), "", *describe_model(model)]


def describe_model(model: Mapping[str, tuple[float, float]]) -> list[str]:
    """Describe from how many samples on Dask is faster."""
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


def measure(options: Namespace) -> Report:
    path = options.out / "scale.json"
    measured: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"growth": {}, "engines": []}
    sizes = [parse_number(text) for text in options.samples]
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part == "growth":
        for n_epochs, bits, n_samples in product(options.epochs, options.bits, sizes):
            row = measure_growth(n_samples, n_epochs, bits == "observed", options.executor)
            print(json.dumps(row), flush=True)
            measured["growth"][describe_run(row)] = row
            path.write_text(json.dumps(measured, indent=1) + "\n")
    elif options.part == "engines":
        measured["engines"] = measure_engines(sizes[-1], options.epochs[-1])
        path.write_text(json.dumps(measured, indent=1) + "\n")
    growth = sorted(
        measured["growth"].values(), key=lambda r: (r["executor"], r["observed"], r["epochs"], r["samples"])
    )
    about = (
        "Parts were run once or more, and not all at once. A service and an embedded store (fsynced always) in "
        "processes of their own, on loopback. Memory is the sum of the peaks (VmHWM) of the service and its workers."
    )
    engines = ["## Engines", "", *format_engines(measured["engines"])] if measured["engines"] else []
    return Report("Growth", list_claims(growth), about, [*format_growth(growth), "", *engines])


BENCHMARK = Benchmark(
    "scale",
    "docs/scale.md#growth",
    measure,
    options={
        "part": "growth",
        "samples": ("1e5", "1e6", "1e7", "1e8"),
        "epochs": (20, 8),
        "bits": ("complete", "observed"),
        "executor": "processes",
    },
    short={"samples": ("1e6", "1e7"), "epochs": (8,)},
    packages=("numpy", "fastapi", "redis", "distributed"),
    choices={"part": ("growth", "engines", "table"), "bits": ("complete", "observed")},
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
