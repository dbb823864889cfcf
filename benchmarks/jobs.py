"""Training jobs that run at the same time, each with a fixed period; a part of `benchmarks.load`.

A job writes an epoch in every period and reads in between. The time of a request counts from when it was due, not from
when it was sent: if the service delays a job, all its late requests count as slow, as they are for a training that
waits. Otherwise a slow service would get fewer requests, and look faster.
"""

import asyncio
import io
import time
from collections import defaultdict
from dataclasses import dataclass, field

import httpx
import numpy as np
import pyarrow
from numpy.typing import NDArray

from mild_core import bitmap
from mild_core.types import EpochBits

OCTETS = {"Content-Type": "application/octet-stream"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
N_SHARDS = 4
N_PATTERNS = 16
"""Number of epochs that are drawn once, and sent by every job in turn."""


@dataclass(frozen=True, slots=True)
class Load:
    """Load on the service.

    Attributes
    ----------
    n_jobs, n_samples
        Number of jobs, and of the samples of each.
    seconds, period
        Duration, and the period in which a job writes an epoch.
    round_epochs
        Number of epochs after which a round is finished.
    n_watched
        Number of jobs whose events are followed.
    """

    n_jobs: int
    n_samples: int
    seconds: float
    period: float
    round_epochs: int = 15
    n_watched: int = 20


@dataclass
class RequestLog:
    """Seconds by kind of request, a line for each error, and the number of events."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[str] = field(default_factory=list)
    n_events: int = 0


class Epochs:
    """Bodies of epochs in all forms that a job may send: clean samples are learned early, the others late."""

    def __init__(self, n_samples: int) -> None:
        rng = np.random.default_rng(0)
        noisy = rng.random(n_samples) < 0.3
        ranks = np.arange(n_samples) % N_SHARDS
        self.whole: list[bytes] = []
        self.shards: list[list[bytes]] = []
        self._samples = np.arange(n_samples, dtype=np.int32)
        self._correct: list[NDArray[np.bool_]] = []
        for epoch in range(N_PATTERNS):
            late = epoch / N_PATTERNS
            correct = rng.random(n_samples) < np.where(noisy, 0.3 * late, min(0.95, 0.5 + late))
            self.whole.append(bitmap.pack(correct).tobytes())
            bits = [
                EpochBits(n_samples, bitmap.pack(correct & (ranks == r)), bitmap.pack(ranks == r))
                for r in range(N_SHARDS)
            ]
            self.shards.append([each.to_body() for each in bits])
            self._correct.append(correct)
        self.make_log(0, 0)  # pyarrow loads parts of itself with its first table, which delayed all jobs

    def make_log(self, round_: int, epoch: int) -> bytes:
        """Make a log of an epoch, as an Arrow stream."""
        position = np.full_like(self._samples, round_), np.full_like(self._samples, epoch)
        names = ["round", "epoch", "sample", "correct"]
        table = pyarrow.table([*position, self._samples, self._correct[epoch % N_PATTERNS]], names=names)
        stream = io.BytesIO()
        with pyarrow.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        return stream.getvalue()


class Job:
    """One training: most send whole epochs, some shards, some logs; all read their sets, fits and run."""

    def __init__(self, http: httpx.AsyncClient, load: Load, epochs: Epochs, log: RequestLog, number: int) -> None:
        self._http = http
        self._load = load
        self._epochs = epochs
        self._log = log
        self._number = number
        self.run_id = f"job-{number}"
        self._kind = {7: "shards", 8: "shards", 9: "log"}.get(number % 10, "whole")
        # Jobs are at different epochs of their rounds, since they do not all start at once. At least half of the epochs
        # are to come, so that there is a set at the round's end.
        self._round, self._epoch, self._n_written = 0, 7 * number % (load.round_epochs // 2 + 1), 0

    async def run(self, began: float) -> None:
        """Open the run, then write and read until the time is over."""
        load = self._load
        due = began + load.period * self._number / load.n_jobs  # spread over the period
        await self._wait_until(due)
        await self._ask("open", due, "PUT", f"/runs/{self.run_id}", json={"num_samples": load.n_samples})
        while (due := due + load.period) < began + load.seconds:
            await self._wait_until(due)
            await self._write(due)
            await self._wait_until(due + load.period / 2)
            await self._read(due + load.period / 2)

    async def check(self) -> None:
        """Check that everything that was acknowledged is stored."""
        answer = await self._ask("run", time.perf_counter(), "GET", f"/runs/{self.run_id}")
        if answer is not None:
            rounds = answer.json()["rounds"]
            n_stored = sum(round_["num_epochs"] + len(round_["partial"]) for round_ in rounds)
            if n_stored != self._n_written:
                self._log.wrong.append(f"{self.run_id} has {n_stored} epochs, {self._n_written} were acknowledged")

    async def watch(self) -> None:
        """Follow the run's events until cancelled, and check that they come in order, without gaps."""
        last = 0
        while last == 0:
            await asyncio.sleep(self._load.period)
            async with self._http.stream("GET", f"/runs/{self.run_id}/events", timeout=None) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("id:"):
                        number = int(line.rpartition("-")[2])
                        if number != last + 1:
                            self._log.wrong.append(f"event {number} of {self.run_id} came behind {last}")
                        last = number
                        self._log.n_events += 1

    async def _write(self, due: float) -> None:
        path = f"/runs/{self.run_id}/rounds/{self._round}/epochs/{self._epoch}"
        pattern = self._epoch % N_PATTERNS
        match self._kind:
            case "shards":
                parts = enumerate(self._epochs.shards[pattern])
                puts = [
                    self._ask("PUT of a shard", due, "PUT", f"{path}/shards/{rank}?of={N_SHARDS}", OCTETS, body)
                    for rank, body in parts
                ]
                is_written = None not in await asyncio.gather(*puts)
            case "log":
                body = self._epochs.make_log(self._round, self._epoch)
                target = f"/runs/{self.run_id}/predictions?complete=true"
                is_written = await self._ask("POST of a log", due, "POST", target, ARROW, body) is not None
            case _:
                body = self._epochs.whole[pattern]
                is_written = await self._ask("PUT of an epoch", due, "PUT", path, OCTETS, body) is not None
        self._n_written += is_written
        self._epoch += 1

    async def _read(self, due: float) -> None:
        run = f"/runs/{self.run_id}"
        if self._epoch == self._load.round_epochs:
            await self._ask("finish", due, "POST", f"{run}/rounds/{self._round}/finish?allow_gaps=true")
            self._round, self._epoch = self._round + 1, 0
        elif self._epoch % 5 == 2:
            form = "application/json" if self._number % 2 else "application/octet-stream"
            answer = await self._ask("selection", due, "GET", f"/selection/{self.run_id}", {"Accept": form})
            if answer is not None:
                cached = {"Accept": form, "If-None-Match": answer.headers["ETag"]}
                await self._ask("selection, 304", time.perf_counter(), "GET", f"/selection/{self.run_id}", cached)
        elif self._epoch % 10 == 4:
            await self._ask("fit", due, "GET", f"{run}/rounds/{self._round}/fit")
            await self._ask("run", time.perf_counter(), "GET", run)
            await self._ask("page", time.perf_counter(), "GET", f"/ui{run}")

    async def _ask(
        self,
        kind: str,
        due: float,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        json: object = None,
    ) -> httpx.Response | None:
        """Send a request that was due at `due`; return its answer, or record an error and return None."""
        try:
            answer = await self._http.request(method, target, headers=headers, content=content, json=json)
        except httpx.HTTPError as error:
            self._log.wrong.append(f"{kind}: {error!r}")
            return None
        self._log.seconds[kind].append(time.perf_counter() - due)
        if not answer.is_success and answer.status_code != 304:
            self._log.wrong.append(f"{kind}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer

    async def _wait_until(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
