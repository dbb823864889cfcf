"""Processor time of a request of each kind, and memory and disk of an epoch; a part of `benchmarks.load`."""

import json
from collections.abc import Callable

import numpy as np
from redis import Redis

from benchmarks.claims import format_table
from benchmarks.jobs import ARROW, OCTETS, Epochs
from benchmarks.proc import read_cpu_seconds
from benchmarks.serving import RunningService
from benchmarks.wire import Answer, Connection

N_EPOCHS = 50
"""Number of epochs of the round whose storage is measured."""
_RUNS = 20
"""Number of runs that are opened for that: a single one takes less than the server's own memory varies."""

Send = Callable[..., Answer]


def measure_costs(service: RunningService, key: str, n_samples: int, repeats: int, large: int = 1_000_000) -> list[str]:
    """Measure and format both tables; most requests are sent `repeats` times, and the service has no other load."""
    with Connection(service.url) as connection, Redis.from_url(service.store_url) as redis:

        def send(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
            all_headers = {"Authorization": f"Bearer {key}", **(headers or {})}
            answer = connection.send(method, target, all_headers.items(), body)
            assert answer.status in (200, 201, 304), (method, target, answer)
            return answer

        requests = _measure_requests(send, service.process.pid, n_samples, repeats)
        storage = [_measure_storage(send, redis, size) for size in (n_samples, large)]
    heads = (f"request, for {n_samples:,} samples", "ms of processor time", "a second and core")
    costs = [(kind, f"{1000 * seconds:.2f}", f"{1 / seconds:,.0f}") for kind, seconds in requests.items()]
    sizes = ("", *(f"{size:,} samples" for size in (n_samples, large)))
    return [
        "What a request costs the service, one after another with nothing else to do; what one core serves follows:",
        "",
        *format_table(heads, costs),
        "",
        f"What the store keeps, rounds of {N_EPOCHS} whole epochs of one bitmap (memory as the server counts it, and "
        "its append-only file before that is rewritten):",
        "",
        *format_table(sizes, [(name, *(_format_figure(each[name]) for each in storage)) for name in storage[0]]),
    ]


def _format_figure(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3f}"


def _measure_requests(send: Send, pid: int, n_samples: int, repeats: int) -> dict[str, float]:
    """Measure the seconds of processor time by kind of request."""
    epochs = Epochs(n_samples)
    for run in ("costs", "shards", "logs"):
        _open_run(send, run, n_samples)

    def measure(n: int, ask: Callable[[int], Answer]) -> float:
        began = read_cpu_seconds(pid)
        for number in range(n):
            ask(number)
        return max(read_cpu_seconds(pid) - began, 0.01) / n  # Linux counts hundredths of a second

    put = "/runs/costs/rounds/0/epochs"
    shard = "/runs/shards/rounds/0/epochs/{}/shards/{}?of=4"
    target, bits = "/selection/costs", {"Accept": OCTETS["Content-Type"]}
    seconds = {
        "PUT of an epoch": measure(
            repeats, lambda n: send("PUT", f"{put}/{n}", OCTETS, epochs.whole[min(n * 16 // repeats, 15)])
        ),
        "PUT of a shard, one of 4": measure(
            repeats, lambda n: send("PUT", shard.format(n // 4, n % 4), OCTETS, epochs.shards[n // 4 % 16][n % 4])
        ),
        "POST of an epoch's log, Arrow": measure(
            repeats // 5, lambda n: send("POST", "/runs/logs/predictions?complete=true", ARROW, epochs.make_log(0, n))
        ),
        f"GET of a selection, computed over {repeats} epochs": measure(
            repeats // 5, lambda n: send("GET", f"{target}?min_keep={0.001 + n / 1000}", bits)
        ),
    }
    tag = send("GET", target).headers["etag"]
    return seconds | {
        "GET of a selection, known, as JSON": measure(repeats, lambda _: send("GET", target)),
        "GET of a selection, known, as bitmap": measure(repeats, lambda _: send("GET", target, bits)),
        "GET of a selection, not modified": measure(repeats, lambda _: send("GET", target, {"If-None-Match": tag})),
        "GET of a run": measure(repeats, lambda _: send("GET", "/runs/costs")),
    }


def _measure_storage(send: Send, redis: Redis, n_samples: int) -> dict[str, float]:
    """Measure the bytes by what they store."""
    rng = np.random.default_rng(0)
    n_bytes = -(-n_samples // 8)
    run = f"room-{n_samples}"
    redis.config_set("auto-aof-rewrite-percentage", 0)  # the file only grows meanwhile
    levels = [_read_levels(redis)]
    for number in range(_RUNS):
        _open_run(send, f"{run}-{number}", n_samples)
    levels.append(_read_levels(redis))
    run = f"{run}-0"
    body = np.packbits(rng.random((N_EPOCHS, n_bytes * 8)) < 0.7, axis=1)
    if n_samples % 8:
        body[:, -1] &= 0xFF << (8 - n_samples % 8) & 0xFF
    for epoch in range(N_EPOCHS):
        send("PUT", f"/runs/{run}/rounds/0/epochs/{epoch}", OCTETS, body[epoch].tobytes())
    levels.append(_read_levels(redis))
    send("POST", f"/runs/{run}/rounds/0/finish")
    levels.append(_read_levels(redis))
    memory, file = (np.diff([level[which] for level in levels]) for which in (0, 1))
    return {
        "memory of a run without epochs, bytes": float(memory[0] / _RUNS),
        "memory of an epoch, bytes": float(memory[1] / N_EPOCHS),
        "memory of an epoch, bytes a sample": float(memory[1] / N_EPOCHS / n_samples),
        "memory of a finished round's set, bytes": float(memory[2]),
        "append-only file, an epoch, bytes": float(file[1] / N_EPOCHS),
        "append-only file, a finished round's set, bytes": float(file[2]),
    }


def _open_run(send: Send, run: str, n_samples: int) -> None:
    opening = json.dumps({"num_samples": n_samples}).encode()
    send("PUT", f"/runs/{run}", {"Content-Type": "application/json"}, opening)


def _read_levels(redis: Redis) -> tuple[int, int]:
    """Read the bytes of the store's memory and of its append-only file."""
    return int(redis.info("memory")["used_memory"]), int(redis.info("persistence")["aof_current_size"])
