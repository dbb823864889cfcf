"""Trainings that stream epochs of known bits, and a ledger of what the service has acknowledged.

A run's name determines how it is written, how many samples it has, and the bits of each epoch.
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
_N_LEFT = 2
"""Runs that a training leaves in the service; it deletes older ones."""


@functools.lru_cache(maxsize=512)
def draw_correct(run_id: str, epoch: int) -> NDArray[np.bool_]:
    """Draw the samples predicted correctly, shape (n_samples,): clean ones are learned early, the others late."""
    n_samples = get_n_samples(run_id)
    noisy = np.random.default_rng(zlib.crc32(run_id.encode())).random(n_samples) < 0.4
    late = epoch / N_EPOCHS
    uniform = np.random.default_rng([zlib.crc32(run_id.encode()), epoch]).random(n_samples, dtype=np.float32)
    return uniform < np.where(noisy, 0.3 * late, min(0.95, 0.4 + late))


@functools.lru_cache(maxsize=256)
def compute_set(run_id: str, n_epochs: int) -> Bitmap:
    """Compute the clean set after so many epochs."""
    correct = bitmap.pack(np.stack([draw_correct(run_id, epoch) for epoch in range(n_epochs)]))
    return select([RoundBits(get_n_samples(run_id), correct)]).bitmap


def get_kind(run_id: str) -> str:
    """Return how a run is written."""
    return run_id.partition("-")[0]


def get_n_samples(run_id: str) -> int:
    """Return the number of samples of a run."""
    return _SAMPLES[get_kind(run_id)]


def make_shard(run_id: str, epoch: int, shard: int) -> EpochBits:
    """Make the shard of one rank of an epoch: every third sample."""
    correct = draw_correct(run_id, epoch)
    mine = np.arange(correct.size) % N_SHARDS == shard
    return EpochBits(correct.size, bitmap.pack(correct & mine), bitmap.pack(mine))


@dataclass
class AcknowledgedRun:
    """What the service has acknowledged of one run.

    Attributes
    ----------
    attempt
        Attempt; the run's is never lower again.
    epochs
        Number of committed epochs, 0 to `epochs` - 1.
    finished
        Whether round 0 is finished.
    """

    attempt: int = 0
    epochs: int = 0
    finished: bool = False


@dataclass
class Ledger:
    """What was acknowledged, and the errors that were found.

    Attributes
    ----------
    runs
        Runs that must exist, by id.
    n_acknowledged
        Acknowledged epochs, of deleted runs too.
    wrong
        A line for each error.
    statuses
        Number of answers by status.
    """

    runs: dict[str, AcknowledgedRun] = field(default_factory=dict)
    n_acknowledged: int = 0
    n_finished: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def copy_runs(self) -> Mapping[str, AcknowledgedRun]:
        """Return a copy of the runs."""
        with self.lock:
            return {run_id: AcknowledgedRun(**vars(record)) for run_id, record in self.runs.items()}

    def note(self, run_id: str, **what: object) -> None:
        """Record what was acknowledged of a run."""
        with self.lock:
            record = self.runs.setdefault(run_id, AcknowledgedRun())
            self.n_acknowledged += "epochs" in what
            self.n_finished += "finished" in what
            for name, value in what.items():
                setattr(record, name, value)

    def forget(self, run_id: str) -> None:
        """Forget a run that is about to be deleted."""
        with self.lock:
            self.runs.pop(run_id, None)

    def complain(self, line: str) -> None:
        """Record an error."""
        with self.lock:
            self.wrong.append(line)

    def judge(self, response: httpx.Response) -> None:
        """Count an answer; a server error is wrong, but for 503, which says that the fault is temporary."""
        with self.lock:
            self.statuses[response.status_code] = self.statuses.get(response.status_code, 0) + 1
        if response.status_code >= 500 and response.status_code != 503:
            response.read()
            self.complain(f"{response.request.method} {response.request.url.path}: {response.status_code}")


class Training(threading.Thread):
    """Writes one run after another as a trainer does, by the project's client with retries and `resume`."""

    def __init__(self, url: str, ledger: Ledger, kind: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._url, self._ledger = url, ledger
        self._prefix = f"{kind}-{number}"
        self._kind = kind
        self._rng = random.Random(f"{seed} {self._prefix}")
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Stop after the current request."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Write runs until stopped."""
        generation, old_runs = 0, list[str]()
        while not self._stopping.is_set():
            run_id = f"{self._prefix}-{generation}"
            try:
                with self._client() as client:
                    while old_runs:
                        self._remove(client, old_runs[0])
                        old_runs.pop(0)
                    if self._train(client, run_id):
                        generation += 1
                        old_runs += [f"{self._prefix}-{generation - _N_LEFT}"] * (generation >= _N_LEFT)
            except (ServiceUnreachable, Unavailable):
                continue  # as a trainer that is started again, which resumes the run
            except ClientError as error:
                self._ledger.complain(f"{run_id}: {type(error).__name__} {error}")
                generation += 1

    @contextlib.contextmanager
    def _client(self) -> Iterator[MildClient]:
        """Open the project's client, which waits for a fault to pass; without certificates, which take long to load."""
        hooks = {"response": [self._ledger.judge]}
        with httpx.Client(verify=False, timeout=10, event_hooks=hooks) as http:
            yield MildClient(self._url, http, Retry(deadline=6, first_deadline=6, first_pause=0.05, longest_pause=0.5))

    def _train(self, client: MildClient, run_id: str) -> bool:
        """Write to a run; return whether it is finished, else it was interrupted."""
        note = functools.partial(self._ledger.note, run_id)
        record = self._ledger.copy_runs().get(run_id, AcknowledgedRun())
        with client.run(run_id, get_n_samples(run_id), resume="allow") as run:
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
        """Write one epoch."""
        correct = draw_correct(run.run_id, epoch)
        if self._kind == "logs":
            samples, labels = np.arange(correct.size), np.zeros(correct.size, dtype=np.int64)
            for part in np.array_split(samples, 2):
                run.log_predictions(epoch, part, (~correct[part]).astype(np.int64), labels[part])
        elif self._kind == "shards":
            for shard in range(N_SHARDS):
                bits = make_shard(run.run_id, epoch, shard)
                answer = client.put_shard(run.run_id, 0, epoch, shard, N_SHARDS, bits, run.attempt)
            if answer["state"] != "committed":  # one that was acknowledged is lost
                self._ledger.complain(f"{run.run_id}, epoch {epoch}: all shards are in, and it is {answer['state']}")
        else:
            run.put_epoch(correct)

    def _remove(self, client: MildClient, run_id: str) -> None:
        """Delete a run, and check that it is gone."""
        self._ledger.forget(run_id)
        client.delete_run(run_id)
        try:
            client.get_run(run_id)
        except NotFound:
            return
        self._ledger.complain(f"{run_id} is there after it was deleted")
