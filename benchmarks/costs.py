"""What the service spends on a request of each kind, and the store on a sample; a part of `benchmarks.load`."""

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
"""Epochs of a round, while its cost is measured."""
_RUNS = 20
"""Runs that are opened for that: a single one takes less than the server's own memory moves."""

Send = Callable[..., Answer]


def report(service: RunningService, key: str, n_samples: int, large: int = 1_000_000, repeated: int = 200) -> list[str]:
    """Both tables, of requests that are `repeated`, most of them; the service has nothing else to do meanwhile."""
    with Connection(service.url) as connection, Redis.from_url(service.store_url) as redis:

        def send(method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
            given = {"Authorization": f"Bearer {key}", **(headers or {})}
            answer = connection.send(method, target, given.items(), body)
            assert answer.status in (200, 201, 304), (method, target, answer)
            return answer

        requests = _requests(send, service.process.pid, n_samples, repeated)
        rooms = [_room(send, redis, size) for size in (n_samples, large)]
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
        *format_table(sizes, [(name, *(_shown(room[name]) for room in rooms)) for name in rooms[0]]),
    ]


def _shown(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3f}"


def _requests(send: Send, pid: int, n_samples: int, repeated: int) -> dict[str, float]:
    """Seconds of processor time by kind of request."""
    epochs = Epochs(n_samples)
    for run in ("costs", "shards", "logs"):
        _open(send, run, n_samples)

    def cost(n: int, ask: Callable[[int], Answer]) -> float:
        began = read_cpu_seconds(pid)
        for number in range(n):
            ask(number)
        return max(read_cpu_seconds(pid) - began, 0.01) / n  # Linux counts hundredths

    put = "/runs/costs/rounds/0/epochs"
    shard = "/runs/shards/rounds/0/epochs/{}/shards/{}?of=4"
    target, bits = "/selection/costs", {"Accept": OCTETS["Content-Type"]}
    found = {
        "PUT of an epoch": cost(
            repeated, lambda n: send("PUT", f"{put}/{n}", OCTETS, epochs.whole[min(n * 16 // repeated, 15)])
        ),
        "PUT of a shard, one of 4": cost(
            repeated, lambda n: send("PUT", shard.format(n // 4, n % 4), OCTETS, epochs.shards[n // 4 % 16][n % 4])
        ),
        "POST of an epoch's log, Arrow": cost(
            repeated // 5, lambda n: send("POST", "/runs/logs/predictions?complete=true", ARROW, epochs.log(0, n))
        ),
        f"GET of a selection, computed over {repeated} epochs": cost(
            repeated // 5, lambda n: send("GET", f"{target}?min_keep={0.001 + n / 1000}", bits)
        ),
    }
    tag = send("GET", target).headers["etag"]
    return found | {
        "GET of a selection, known, as JSON": cost(repeated, lambda _: send("GET", target)),
        "GET of a selection, known, as bitmap": cost(repeated, lambda _: send("GET", target, bits)),
        "GET of a selection, not modified": cost(repeated, lambda _: send("GET", target, {"If-None-Match": tag})),
        "GET of a run": cost(repeated, lambda _: send("GET", "/runs/costs")),
    }


def _room(send: Send, redis: Redis, n_samples: int) -> dict[str, float]:
    """Bytes by what takes them."""
    rng = np.random.default_rng(0)
    n_bytes = -(-n_samples // 8)
    run = f"room-{n_samples}"
    redis.config_set("auto-aof-rewrite-percentage", 0)  # the file grows, and is not made shorter in between
    levels = [_level(redis)]
    for number in range(_RUNS):
        _open(send, f"{run}-{number}", n_samples)
    levels.append(_level(redis))
    run = f"{run}-0"
    body = np.packbits(rng.random((N_EPOCHS, n_bytes * 8)) < 0.7, axis=1)
    if n_samples % 8:
        body[:, -1] &= 0xFF << (8 - n_samples % 8) & 0xFF
    for epoch in range(N_EPOCHS):
        send("PUT", f"/runs/{run}/rounds/0/epochs/{epoch}", OCTETS, body[epoch].tobytes())
    levels.append(_level(redis))
    send("POST", f"/runs/{run}/rounds/0/finish")
    levels.append(_level(redis))
    memory, file = (np.diff([level[which] for level in levels]) for which in (0, 1))
    return {
        "memory of a run without epochs, bytes": float(memory[0] / _RUNS),
        "memory of an epoch, bytes": float(memory[1] / N_EPOCHS),
        "memory of an epoch, bytes a sample": float(memory[1] / N_EPOCHS / n_samples),
        "memory of a finished round's set, bytes": float(memory[2]),
        "append-only file, an epoch, bytes": float(file[1] / N_EPOCHS),
        "append-only file, a finished round's set, bytes": float(file[2]),
    }


def _open(send: Send, run: str, n_samples: int) -> None:
    opening = json.dumps({"num_samples": n_samples}).encode()
    send("PUT", f"/runs/{run}", {"Content-Type": "application/json"}, opening)


def _level(redis: Redis) -> tuple[int, int]:
    """Bytes of the store's memory and of its append-only file."""
    return int(redis.info("memory")["used_memory"]), int(redis.info("persistence")["aof_current_size"])
