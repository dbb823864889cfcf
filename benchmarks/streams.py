"""Trainings that stream epochs whose every bit can be computed again, and what the service has acknowledged of them.

A run's name says everything about it: how it is written, how many samples it has, and which bits each epoch carries.
"""

import contextlib
import functools
import random
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray

from mild_client import MildClient, Retry, Run
from mild_client.errors import ClientError, NotFound, ServiceUnreachable, Unavailable
from mild_core import bitmap
from mild_core.bitmap import Bitmap
from mild_core.selection import select
from mild_core.types import EpochBits, RoundBits

N_EPOCHS = 8
N_SHARDS = 3
KINDS = ("whole", "shards", "logs", "large")
_SAMPLES = {"whole": 3000, "shards": 3000, "logs": 1500, "large": 1_200_000}
_KEPT = 2
"""Runs that a training leaves behind it; older ones it deletes."""


@functools.lru_cache(maxsize=512)
def truth(run_id: str, epoch: int) -> NDArray[np.bool_]:
    """Who was correct, shape (n_samples,): clean samples are learned early, the others late."""
    n_samples = n_samples_of(run_id)
    noisy = np.random.default_rng(zlib.crc32(run_id.encode())).random(n_samples) < 0.4
    late = epoch / N_EPOCHS
    drawn = np.random.default_rng([zlib.crc32(run_id.encode()), epoch]).random(n_samples, dtype=np.float32)
    return drawn < np.where(noisy, 0.3 * late, min(0.95, 0.4 + late))


@functools.lru_cache(maxsize=256)
def expected_set(run_id: str, n_epochs: int) -> Bitmap:
    """The clean set after this many epochs."""
    correct = bitmap.pack(np.stack([truth(run_id, epoch) for epoch in range(n_epochs)]))
    return select([RoundBits(n_samples_of(run_id), correct)]).bitmap


def kind_of(run_id: str) -> str:
    """How a run is written."""
    return run_id.partition("-")[0]


def n_samples_of(run_id: str) -> int:
    """Samples of a run."""
    return _SAMPLES[kind_of(run_id)]


def share(run_id: str, epoch: int, shard: int) -> EpochBits:
    """What one rank has seen of an epoch: every third sample."""
    correct = truth(run_id, epoch)
    mine = np.arange(correct.size) % N_SHARDS == shard
    return EpochBits(correct.size, bitmap.pack(correct & mine), bitmap.pack(mine))


@dataclass
class AcknowledgedRun:
    """What the service has acknowledged of one run.

    Attributes
    ----------
    attempt
        Its own; the run's is never lower again.
    epochs
        Committed ones, 0 to `epochs` - 1.
    finished
        Round 0 is.
    """

    attempt: int = 0
    epochs: int = 0
    finished: bool = False


@dataclass
class Ledger:
    """Everything that was acknowledged, and everything that was not as it must be.

    Attributes
    ----------
    runs
        Those that must be there.
    n_acknowledged
        Acknowledged epochs, of deleted runs too.
    wrong
        A line for each thing that must not have happened.
    statuses
        Answers by status.
    """

    runs: dict[str, AcknowledgedRun] = field(default_factory=dict)
    n_acknowledged: int = 0
    n_finished: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def copy_runs(self) -> Mapping[str, AcknowledgedRun]:
        """Return a copy of the runs as they stand."""
        with self.lock:
            return {run_id: AcknowledgedRun(**vars(record)) for run_id, record in self.runs.items()}

    def note(self, run_id: str, **what: object) -> None:
        """Note what was acknowledged of a run."""
        with self.lock:
            record = self.runs.setdefault(run_id, AcknowledgedRun())
            self.n_acknowledged += "epochs" in what
            self.n_finished += "finished" in what
            for name, value in what.items():
                setattr(record, name, value)

    def forget(self, run_id: str) -> None:
        """Expect a run no longer: it is about to be deleted."""
        with self.lock:
            self.runs.pop(run_id, None)

    def complain(self, line: str) -> None:
        """Note what must not have happened."""
        with self.lock:
            self.wrong.append(line)

    def judge(self, response: httpx.Response) -> None:
        """Note an answer: only 503 says that something is broken, and that it will be mended."""
        with self.lock:
            self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        if response.status_code >= 500 and response.status_code != 503:
            response.read()
            self.complain(f"{response.request.method} {response.request.url.path}: {response.status_code}")


class Training(threading.Thread):
    """Writes one run after another, as a trainer does: with the project's client, its retries, and `resume`."""

    def __init__(self, url: str, ledger: Ledger, kind: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._url, self._ledger = url, ledger
        self._prefix = f"{kind}-{number}"
        self._kind = kind
        self._rng = random.Random(f"{seed} {self._prefix}")
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End after the request that is under way."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Train."""
        generation, doomed = 0, list[str]()
        while not self._stopping.is_set():
            run_id = f"{self._prefix}-{generation}"
            try:
                with self._client() as client:
                    while doomed:
                        self._remove(client, doomed[0])
                        doomed.pop(0)
                    if self._trained(client, run_id):
                        generation += 1
                        doomed += [f"{self._prefix}-{generation - _KEPT}"] * (generation >= _KEPT)
            except (ServiceUnreachable, Unavailable):
                continue  # as a trainer that is started again: it goes on where the run is
            except ClientError as error:
                self._ledger.complain(f"{run_id}: {type(error).__name__} {error}")
                generation += 1

    @contextlib.contextmanager
    def _client(self) -> Iterator[MildClient]:
        """The project's client, with patience for a fault; without certificates, which would take long to load."""
        hooks = {"response": [self._ledger.judge]}
        with httpx.Client(verify=False, timeout=10, event_hooks=hooks) as http:
            yield MildClient(self._url, http, Retry(deadline=6, first_deadline=6, first_pause=0.05, longest_pause=0.5))

    def _trained(self, client: MildClient, run_id: str) -> bool:
        """Write to a run; return whether it is finished, else it was left in the middle."""
        note = functools.partial(self._ledger.note, run_id)
        record = self._ledger.copy_runs().get(run_id, AcknowledgedRun())
        with client.run(run_id, n_samples_of(run_id), resume="allow") as run:
            attempt = run.attempt or 0
            if attempt < record.attempt or (run.round == 0 and run.epoch < record.epochs):
                self._ledger.complain(f"{run_id} goes on at attempt {attempt}, epoch {run.epoch}; {record}")
            note(attempt=attempt)
            if run.round == 0:  # else the answer to its finish was lost
                for epoch in range(run.epoch, N_EPOCHS):
                    if self._stopping.is_set() or self._rng.random() < 0.04:  # preempted
                        return False
                    self._write(client, run, epoch)
                    note(epochs=epoch + 1)
                if self._kind == "large":
                    return True
                run.finish()
            note(finished=True)
        return True

    def _write(self, client: MildClient, run: Run, epoch: int) -> None:
        """Put one epoch."""
        correct = truth(run.run_id, epoch)
        if self._kind == "logs":
            samples, labels = np.arange(correct.size), np.zeros(correct.size, dtype=np.int64)
            for part in np.array_split(samples, 2):
                run.log_predictions(epoch, part, (~correct[part]).astype(np.int64), labels[part])
        elif self._kind == "shards":
            for shard in range(N_SHARDS):
                bits = share(run.run_id, epoch, shard)
                answer = client.put_shard(run.run_id, 0, epoch, shard, N_SHARDS, bits, run.attempt)
            if answer["state"] != "committed":  # one that was acknowledged is lost
                self._ledger.complain(f"{run.run_id}, epoch {epoch}: all shards are in, and it is {answer['state']}")
        else:
            run.put_epoch(correct)

    def _remove(self, client: MildClient, run_id: str) -> None:
        """Delete a run, after which it must not come back."""
        self._ledger.forget(run_id)
        client.delete_run(run_id)
        try:
            client.get_run(run_id)
        except NotFound:
            return
        self._ledger.complain(f"{run_id} is there after it was deleted")
