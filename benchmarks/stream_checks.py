"""Checks of `benchmarks.streams`: readers that compare answers meanwhile, and a comparison of all stored bits."""

import random
import threading

import httpx
import numpy as np

from benchmarks.streams import N_EPOCHS, AcknowledgedRun, Ledger, compute_set, draw_correct, get_kind, get_n_samples
from mild_core import bitmap
from mild_service.config import Settings
from mild_service.errors import RunNotFound
from mild_service.models import Round, Run
from mild_service.store import Store


class Reader(threading.Thread):
    """Requests runs at random, and compares every answer with the bits that were sent."""

    def __init__(self, url: str, ledger: Ledger, seed: int) -> None:
        super().__init__(daemon=True)
        self._url, self._ledger = url, ledger
        self._rng = random.Random(f"reader {seed}")
        self._stopping = threading.Event()
        self.n_answers = 0
        """Number of answers that were compared."""

    def stop(self) -> None:
        """Stop after the current request."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Compare answers until stopped."""
        looks = (self._look_at_counts, self._look_at_a_sample, self._look_at_the_set)
        with httpx.Client(
            base_url=self._url, verify=False, timeout=10, event_hooks={"response": [self._ledger.judge]}
        ) as http:
            while not self._stopping.wait(0.01):
                runs = self._ledger.copy_runs()
                if not runs:
                    continue
                run_id = self._rng.choice(list(runs))
                try:
                    self._rng.choice(looks)(http, run_id, runs[run_id])
                except httpx.TransportError:
                    continue

    def _get(self, http: httpx.Client, run_id: str, path: str) -> httpx.Response | None:
        """Return an answer to compare; None where the run is deleted, has no epochs yet, or is unavailable."""
        response = http.get(path)
        if response.is_success:
            self.n_answers += 1
            return response
        nothing = response.status_code == 409 and response.json()["type"] == "/problems/no-epochs"
        gone = response.status_code == 404 and run_id not in self._ledger.copy_runs()
        if not (nothing or gone or response.status_code == 503):
            self._ledger.complain(f"GET {path}: {response.status_code} {response.text[:200]}")
        return None

    def _look_at_counts(self, http: httpx.Client, run_id: str, record: AcknowledgedRun) -> None:
        response = self._get(http, run_id, f"/runs/{run_id}/rounds/0")
        if response is None:
            return
        states = {epoch["epoch"]: epoch for epoch in response.json()["epochs"]}
        self._check_epochs(run_id, record, sum(epoch["state"] == "committed" for epoch in states.values()))
        for epoch, state in states.items():
            if state["state"] == "committed" and state["num_correct"] != np.count_nonzero(draw_correct(run_id, epoch)):
                self._ledger.complain(f"{run_id}, epoch {epoch}: {state['num_correct']} samples are said to be correct")

    def _look_at_a_sample(self, http: httpx.Client, run_id: str, record: AcknowledgedRun) -> None:
        index = self._rng.randrange(get_n_samples(run_id))
        if get_kind(run_id) == "large":
            return  # a selection from a million samples would keep the processor busy for seconds
        response = self._get(http, run_id, f"/runs/{run_id}/samples/{index}?round=0")
        if response is None:
            return
        history = response.json()["rounds"][0]["history"]
        self._check_epochs(run_id, record, len(history))
        if history != "".join("01"[int(draw_correct(run_id, epoch)[index])] for epoch in range(len(history))):
            self._ledger.complain(f"{run_id}, sample {index}: its history is said to be {history}")

    def _look_at_the_set(self, http: httpx.Client, run_id: str, record: AcknowledgedRun) -> None:
        if get_kind(run_id) == "large":
            return
        response = self._get(http, run_id, f"/selection/{run_id}?round=0")
        if response is None:
            return
        selection = response.json()
        self._check_epochs(run_id, record, selection["epochs"])
        if record.finished and (selection["provisional"] or selection["epochs"] != N_EPOCHS):
            self._ledger.complain(f"{run_id} was finished, and its set is provisional")
        expected = bitmap.to_indices(compute_set(run_id, selection["epochs"]), get_n_samples(run_id))
        if selection["indices"] != expected.tolist():
            self._ledger.complain(f"{run_id}: the set of {selection['epochs']} epochs is another one")

    def _check_epochs(self, run_id: str, record: AcknowledgedRun, n_epochs: int) -> None:
        """Check that the answer has the epochs that were acknowledged before the request."""
        if n_epochs < record.epochs:
            self._ledger.complain(f"{run_id}: {record.epochs} epochs are acknowledged, {n_epochs} were shown")


async def check_store(url: str, ledger: Ledger) -> int:
    """Compare all stored bits with those that were sent; return the number of epochs."""
    store, n_epochs = Store(Settings(), url), 0
    try:
        for run_id, record in ledger.copy_runs().items():
            try:
                run = await store.runs.get(run_id)
                (round_,) = await store.rounds.get(run, range(1))
                n_epochs += await _compare_run(store, run, round_, record, ledger)
            except RunNotFound:
                if run_id in ledger.copy_runs() and (record.attempt or record.epochs):
                    ledger.complain(f"{run_id} is gone")
    finally:
        await store.aclose()
    return n_epochs


async def _compare_run(store: Store, run: Run, round_: Round, record: AcknowledgedRun, ledger: Ledger) -> int:
    n_samples, run_id = run.spec.num_samples, run.run_id
    epochs = list(round_.epochs.values())
    if set(range(record.epochs)) - set(round_.epochs):
        ledger.complain(
            f"{run_id}: epochs 0 to {record.epochs - 1} are acknowledged, there are {sorted(round_.epochs)}"
        )
    if record.attempt > run.attempt:
        ledger.complain(f"{run_id}: attempt {record.attempt} is acknowledged, it is at {run.attempt}")
    correct, observed = await store.bitmaps.read_epochs(run, 0, epochs)
    for epoch, bits, row in zip(epochs, correct, observed, strict=True):
        if not np.array_equal(bits, bitmap.pack(draw_correct(run_id, epoch.number))):
            ledger.complain(f"{run_id}, epoch {epoch.number}: other bits are stored")
        if not np.array_equal(row, bitmap.full(n_samples)):
            ledger.complain(f"{run_id}, epoch {epoch.number}: not everyone was observed")
    if record.finished:
        if round_.selected is None:
            ledger.complain(f"{run_id}: round 0 is acknowledged as finished, and is open")
        elif not np.array_equal(await store.bitmaps.read_set(run, round_.selected), compute_set(run_id, N_EPOCHS)):
            ledger.complain(f"{run_id}: another set is stored")
    return len(epochs)
