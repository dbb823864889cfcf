"""How long the dashboard's pages of an ImageNet-sized run take, and how large they are.

A service and an embedded store in separate processes, on loopback; every page once cold (the first request after the
round was finished reads all bits and makes the table of samples), then warm, in turn. The processor time of the service
is shown beside the median, since other load on the machine does not lengthen it.
"""

import io
import statistics
import sys
from argparse import Namespace
from functools import partial

import httpx
import numpy as np

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.latency import RUN, record_run
from benchmarks.proc import read_cpu_seconds
from benchmarks.serving import start_service, start_store
from benchmarks.timing import measure_seconds

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


def put_labels(client: httpx.Client, n_samples: int) -> None:
    """Put a label for every sample."""
    out = io.BytesIO()
    np.save(out, np.random.default_rng(1).integers(0, N_CLASSES, n_samples).astype(np.uint16))
    npy = {"Content-Type": "application/x-npy"}
    client.put(f"{RUN}/labels", content=out.getvalue(), headers=npy).raise_for_status()


def measure(options: Namespace) -> Report:
    pages = {name: path.format(middle=options.samples // 2) for name, path in PAGES.items()}
    with (
        start_store() as server,
        start_service(server.url) as service,
        httpx.Client(base_url=service.url, timeout=300) as client,
    ):
        record_run(client, options.samples, options.epochs)
        put_labels(client, options.samples)
        client.post(f"{RUN}/rounds/0/finish").raise_for_status()

        def get(path: str) -> bytes:
            return client.get(path, headers={"Accept": "text/html"}).raise_for_status().content

        cold = {name: measure_seconds(partial(get, path)) for name, path in pages.items()}
        warm: dict[str, list[float]] = {name: [] for name in pages}
        processor = dict.fromkeys(pages, 0.0)
        for _ in range(options.repeats):
            for name, path in pages.items():
                before = read_cpu_seconds(service.process.pid)
                warm[name].append(measure_seconds(partial(get, path)))
                processor[name] += (read_cpu_seconds(service.process.pid) - before) / options.repeats
        sizes = {name: len(get(path)) for name, path in pages.items()}
    times = {name: statistics.median(values) for name, values in warm.items()}
    claims = [
        Claim(f"page `{name}`, warm", times[name] * 1e3, "below", limit * 1e3, "{:.0f} ms")
        for name, limit in MAX_SECONDS.items()
    ]
    claims += [
        Claim(f"size of page `{name}`", sizes[name] / 1e3, "below", limit / 1e3, "{:.0f} kB")
        for name, limit in MAX_BYTES.items()
    ]
    rows = [
        (name, *(f"{seconds[name] * 1e3:.0f}" for seconds in (times, processor, cold)), f"{sizes[name] / 1e3:.0f}")
        for name in pages
    ]
    about = (
        f"Service and embedded store in processes of their own, on loopback. Warm: medians of {options.repeats} "
        "requests in turn, as the client sees them; processor: mean time that the service's processes worked on one. "
        "Cold: the first request, in the order of the table; the data map's makes the table of all samples. "
        f"{N_CLASSES} classes, no logs."
    )
    heads = ("page", "warm, ms", "processor, ms", "cold, ms", "kB")
    return Report("The dashboard's pages of an ImageNet-sized run", claims, about, format_table(heads, rows))


BENCHMARK = Benchmark(
    "dashboard",
    "docs/dashboard.md#how-the-pages-are-built",
    measure,
    options={"samples": 1_281_167, "epochs": 200, "repeats": 15},
    short={"epochs": 100, "repeats": 5},
    packages=("fastapi", "uvicorn", "redis", "numpy", "jinja2"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
