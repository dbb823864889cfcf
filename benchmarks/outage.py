"""The cost of an outage: a service that is stopped for a whole training, and trainers that are killed.

First the same training (digits, 40% of the labels broken, two rounds) runs in turn with a running service, with a
stopped one, and without one; then the service is started again on the same store, and ``mild sync`` sends the spooled
records. Then ``mild train --deterministic`` is killed with signal 9 at random moments, with a service and offline,
continues with ``--resume``, and must end with the same sets and the same network, bit for bit.
"""

import base64
import logging
import random
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.claims import Benchmark, Report, claim_none, format_spread, format_table
from benchmarks.killing import TrainingResult, train_with_kills
from benchmarks.serving import start_service, start_store
from mild_client import BackgroundBackend, MildClient
from mild_client.backends.background import Mode
from mild_client.backends.sync import sync_spools
from mild_trainer.data import Dataset, load
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord
from mild_trainer.training.loop import run_rounds
from mild_trainer.training.progress import Reporter

WAYS = ("with a service", "service stopped", "no service wanted")


class Clock(Reporter):
    """Measures the seconds between the ends of two epochs of a round, all that an epoch takes, sending included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._marks: list[float] = []

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Forget the epochs of the last round."""
        self._marks = []

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Measure the seconds since the last epoch."""
        self._marks.append(time.perf_counter())
        self.seconds = [*self.seconds, *(b - a for a, b in pairwise(self._marks[-2:]))]


@dataclass(frozen=True, slots=True)
class Outage:
    """Seconds of an epoch by repeat in each of `WAYS`, the records sent afterwards, and a line for each error."""

    seconds: Sequence[Sequence[float]]
    n_sent: int
    wrong: Sequence[str]


def measure_outage(settings: TrainSettings, n_repeats: int, folder: Path) -> Outage:
    """Train with and without the service in turn, then start it again."""
    digits = load("digits")
    sets: dict[str, list[bytes]] = {}
    seconds = []
    with start_store() as server:
        for repeat in range(n_repeats):
            row = []
            with start_service(server.url) as service:
                row.append(_train(settings, digits, service.url, "online", f"there-{repeat}", folder, sets))
            row.append(_train(settings, digits, service.url, "online", f"away-{repeat}", folder, sets))
            row.append(_train(settings, digits, None, "disabled", f"local-{repeat}", folder, sets))
            seconds.append(row)
        with start_service(server.url) as service:
            uploads = list(sync_spools(folder, service.url))
            wrong = [f"{each.folder}: {each}" for each in uploads if not each.is_done]
            first = sets["there-0"]
            wrong += [f"{name} ended with other sets" for name, sets_of_run in sets.items() if sets_of_run != first]
            with MildClient(service.url) as client:
                for name in sets:
                    if not name.startswith("local") and _read_sets(client, name, settings.rounds) != first:
                        wrong.append(f"the service has other sets of {name}")
    return Outage(seconds, sum(each.n_sent for each in uploads), wrong)


def kill_trainings(settings: Sequence[str], n_kills: int, folder: Path) -> tuple[int, int, list[str]]:
    """Train with `n_kills` kills; return the number of trainings, of records sent, and a line for each error."""
    draws = random.Random(0)
    n_left = n_kills
    results: dict[str, TrainingResult] = {}
    with start_store() as server, start_service(server.url) as service:
        started = time.perf_counter()
        arguments = [*settings, "--url", service.url, "--run-id", "whole"]
        whole = train_with_kills(arguments, folder / "whole", lambda _, ends_within: wait_for_end(ends_within))
        longest = time.perf_counter() - started

        def kill_somewhere(_: Path, ends_within: Callable[[float], bool]) -> None:
            nonlocal n_left
            if not n_left:
                wait_for_end(ends_within)
            elif not ends_within(draws.uniform(0, longest)):
                n_left -= 1

        while n_left > 0:
            name = f"killed-{len(results)}"
            way = ["--url", service.url] if len(results) % 2 else ["--mode", "offline"]
            results[name] = train_with_kills([*settings, *way, "--run-id", name], folder / name, kill_somewhere)
        uploads = list(sync_spools(folder, service.url))
        wrong = [f"{each.folder}: {each}" for each in uploads if not each.is_done]
        for name, end in results.items():
            if (end.sets, end.model) != (whole.sets, whole.model):
                wrong.append(f"{name} ended otherwise after {end.n_kills} kills")
        with MildClient(service.url) as client:
            for name in results:
                stored_sets = _read_sets(client, name, len(whole.sets))
                if [base64.b64encode(each).decode() for each in stored_sets] != whole.sets:
                    wrong.append(f"the service has other sets of {name}")
    return len(results), sum(each.n_sent for each in uploads), wrong


def wait_for_end(ends_within: Callable[[float], bool]) -> None:
    """Wait for the end of a training."""
    while not ends_within(60.0):
        pass


def _train(
    settings: TrainSettings,
    data: Dataset,
    url: str | None,
    mode: Mode,
    name: str,
    folder: Path,
    sets: dict[str, list[bytes]],
) -> float:
    clock = Clock()
    with BackgroundBackend(url, folder, mode) as backend:
        history = run_rounds(settings, backend, data, clock, name)
    sets[name] = [record.selected.tobytes() for record in history.rounds]
    return statistics.median(clock.seconds)


def _read_sets(client: MildClient, run_id: str, n_rounds: int) -> list[bytes]:
    n_samples = client.get_run(run_id)["num_samples"]
    return [client.selected(run_id, n_samples, number).tobytes() for number in range(n_rounds)]


def measure(options: Namespace) -> Report:
    logging.disable(logging.WARNING)  # warnings of outages are expected
    noise = "symmetric:0.4"
    settings = TrainSettings.for_dataset(
        "digits", noise=noise, limit=options.limit, epochs=options.epochs, rounds=2, agree=1.0, deterministic=True,
        device="cpu",
    )  # fmt: skip
    flags = ["--noise", noise, "--limit", str(options.limit // 2), "--epochs", str(options.epochs // 2)]
    flags += ["--rounds", "3", "--agree", "1", "--deterministic", "--device", "cpu"]
    with TemporaryDirectory(prefix="mild-benchmark-") as folder:
        outage = measure_outage(settings, options.repeats, Path(folder) / "outage")
        n_trainings, n_sent, wrong = kill_trainings(flags, options.kills, Path(folder) / "kills")
    claims = [
        claim_none("sets that an outage changes, or that `mild sync` does not deliver", outage.wrong),
        claim_none("sets or networks that `kill -9` and `--resume` change, in any bit", wrong),
    ]
    about = (
        f"ResNet-8 on digits, 40% of the labels broken. The same training of two rounds of {options.epochs} epochs, "
        f"{options.repeats} times in turn: seconds from the end of one epoch to the end of the next, median of each "
        "training; then the median, least and most over the repeats; ratios are taken within a repeat. `mild sync` "
        f"sent {outage.n_sent} records after the outages. Then {options.kills} times `kill -9` at random moments of "
        f"{n_trainings} trainings, offline and with a service in turn; `mild sync` sent {n_sent} records after them."
    )
    rows = []
    for way, title in enumerate(WAYS):
        times, ratios = ([1000 * row[way] for row in outage.seconds], [row[way] / row[0] for row in outage.seconds])
        rows.append((title, format_spread(times, 0), format_spread(ratios, 2)))
    text = format_table(("training", "milliseconds an epoch", "ratio to the service being there"), rows)
    title = "A service that is stopped, and trainers that are killed"
    return Report(title, claims, about, text, [*outage.wrong, *wrong])


BENCHMARK = Benchmark(
    "outage",
    "docs/client.md#when-the-service-is-away",
    measure,
    options={"repeats": 5, "kills": 20, "epochs": 8, "limit": 800},
    short={"repeats": 1, "kills": 4},
    packages=("torch", "httpx"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
