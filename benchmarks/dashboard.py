"""How long the dashboard's pages of an ImageNet-sized run take, and how large they are.

usage: python -m benchmarks.dashboard [--samples 1281167] [--epochs 200] [--repeats 15]

A service and an embedded store in processes of their own, on loopback; every page once cold (the first that is asked
for after the round was finished reads all bits and makes the table of samples), then warm, in turn. Beside the median
stands the processor's time that the service took, which others on the machine do not lengthen. Writes
``results/dashboard.md``, exits with 1 if a bar is missed.
"""

import argparse
import io
import os
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from benchmarks.latency import RUN, recorded
from benchmarks.serving import service, store
from benchmarks.timing import machine, seconds

RESULTS = Path(__file__).parent / "results"
HERE = "/ui/runs/imagenet"
N_CLASSES = 1000
PAGES = {
    "runs": "/ui/",
    "run": HERE,
    "data map": f"{HERE}/map",
    "classes": f"{HERE}/classes",
    "samples": f"{HERE}/samples",
    "samples, filtered": f"{HERE}/samples?state=kept&label=7&sort=score",
    "samples, in the middle": f"{HERE}/samples?after={{middle}}",
    "samples of a cell": f"{HERE}/samples?misclassified=60-80&transitions=40-60",
    "one sample": f"{HERE}/samples/4711",
    "compare": f"{HERE}/compare?other=imagenet&other_round=0",
}
MAX_SECONDS = {"run": 0.3, "samples": 0.1, "samples, filtered": 0.1, "samples, in the middle": 0.1}
MAX_BYTES = {"run": 500_000}


def processor_seconds(pid: int) -> float:
    """Time that a process has run so far, in all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def labelled(client: httpx.Client, n_samples: int) -> None:
    """Put a label for every sample."""
    out = io.BytesIO()
    np.save(out, np.random.default_rng(1).integers(0, N_CLASSES, n_samples).astype(np.uint16))
    npy = {"Content-Type": "application/x-npy"}
    client.put(f"{RUN}/labels", content=out.getvalue(), headers=npy).raise_for_status()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(argv)
    pages = {name: path.format(middle=given.samples // 2) for name, path in PAGES.items()}
    with (
        store() as server,
        service(server.url) as served,
        httpx.Client(base_url=served.url, timeout=300) as client,
    ):
        recorded(client, given.samples, given.epochs)
        labelled(client, given.samples)
        client.post(f"{RUN}/rounds/0/finish").raise_for_status()

        def get(path: str) -> bytes:
            return client.get(path, headers={"Accept": "text/html"}).raise_for_status().content

        cold = {name: seconds(partial(get, path)) for name, path in pages.items()}
        warm: dict[str, list[float]] = {name: [] for name in pages}
        worked = dict.fromkeys(pages, 0.0)
        for _ in range(given.repeats):
            for name, path in pages.items():
                before = processor_seconds(served.process.pid)
                warm[name].append(seconds(partial(get, path)))
                worked[name] += processor_seconds(served.process.pid) - before
        sizes = {name: len(get(path)) for name, path in pages.items()}
    times = {name: statistics.median(values) for name, values in warm.items()}
    lines = [
        "# The dashboard's pages of an ImageNet-sized run",
        "",
        f"`python -m benchmarks.dashboard --samples {given.samples} --epochs {given.epochs} --repeats "
        f"{given.repeats}`, "
        f"{machine('fastapi', 'uvicorn', 'redis', 'numpy', 'jinja2')}; 2 shared cores with other work beside "
        f"(load {os.getloadavg()[0]:.0f}), service and embedded store in processes of their own, on loopback. Warm: "
        f"medians of {given.repeats} requests in turn, as the client sees them; processor: mean time that the "
        "service's process worked on one. Cold: the first request, in the order of the table; the data map's makes "
        f"the table of all samples. {N_CLASSES} classes, no logs.",
        "",
        "| page | warm, ms | processor, ms | cold, ms | kB | bar |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in pages:
        bars = [f"{MAX_SECONDS[name] * 1e3:.0f} ms"] if name in MAX_SECONDS else []
        bars += [f"{MAX_BYTES[name] / 1e3:.0f} kB"] if name in MAX_BYTES else []
        lines.append(
            f"| {name} | {times[name] * 1e3:.0f} | {worked[name] / given.repeats * 1e3:.0f} | {cold[name] * 1e3:.0f} | "
            f"{sizes[name] / 1e3:.0f} | {', '.join(bars)} |"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "dashboard.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))
    slow = [name for name, limit in MAX_SECONDS.items() if times[name] >= limit]
    large = [name for name, limit in MAX_BYTES.items() if sizes[name] >= limit]
    return 1 if slow or large else 0


if __name__ == "__main__":
    sys.exit(main())
