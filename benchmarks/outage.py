"""What an outage costs: a service that is stopped for a whole training, and trainers that are killed on their way.

First the same training (digits, 40% of the labels broken, two rounds) runs in turn with a service that is there, with
one that is stopped, and with none wanted; then the service is brought back, on the same store, and ``mild sync`` sends
what was kept. Then ``mild train --deterministic`` is killed with signal 9 at random moments, with a service and
offline, goes on with ``--resume``, and has to end with the same sets and the same network, bit for bit.
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

from benchmarks.claims import Benchmark, Report, claim_none, format_table
from benchmarks.killing import Ended, trained
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
    """Notes when epochs are done: what lies between two of one round is all that an epoch takes, sending included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._marks: list[float] = []

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Begin again: no epoch lies before a round's first."""
        self._marks = []

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Note when."""
        self._marks.append(time.perf_counter())
        self.seconds = [*self.seconds, *(b - a for a, b in pairwise(self._marks[-2:]))]


@dataclass(frozen=True, slots=True)
class Outage:
    """Seconds of an epoch in each of `WAYS`, by repeat; what was sent afterwards; a line for all that is wrong."""

    seconds: Sequence[Sequence[float]]
    n_sent: int
    wrong: Sequence[str]


def outage(settings: TrainSettings, n_repeats: int, folder: Path) -> Outage:
    """Train with and without the service, in turn, then bring it back."""
    digits = load("digits")
    sets: dict[str, list[bytes]] = {}
    seconds = []
    with start_store() as server:
        for repeat in range(n_repeats):
            row = []
            with start_service(server.url) as service:
                row.append(_trained(settings, digits, service.url, "online", f"there-{repeat}", folder, sets))
            row.append(_trained(settings, digits, service.url, "online", f"away-{repeat}", folder, sets))
            row.append(_trained(settings, digits, None, "disabled", f"local-{repeat}", folder, sets))
            seconds.append(row)
        with start_service(server.url) as service:
            found = list(sync_spools(folder, service.url))
            wrong = [f"{each.folder}: {each}" for each in found if not each.is_done]
            first = sets["there-0"]
            wrong += [f"{name} ended with other sets" for name, ended in sets.items() if ended != first]
            with MildClient(service.url) as client:
                for name in sets:
                    if not name.startswith("local") and _sets(client, name, settings.rounds) != first:
                        wrong.append(f"the service has other sets of {name}")
    return Outage(seconds, sum(each.n_sent for each in found), wrong)


def kills(settings: Sequence[str], n_kills: int, folder: Path) -> tuple[int, int, list[str]]:
    """Kill trainings until `n_kills` were killed; return how many there were, what was sent, and what is wrong."""
    draws = random.Random(0)
    left = n_kills
    ended: dict[str, Ended] = {}
    with start_store() as server, start_service(server.url) as service:
        started = time.perf_counter()
        alone = [*settings, "--url", service.url, "--run-id", "whole"]
        whole = trained(alone, folder / "whole", lambda _, ends_within: while_not(ends_within))
        longest = time.perf_counter() - started

        def kill_somewhere(_: Path, ends_within: Callable[[float], bool]) -> None:
            nonlocal left
            if not left:
                while_not(ends_within)
            elif not ends_within(draws.uniform(0, longest)):
                left -= 1

        while left > 0:
            name = f"killed-{len(ended)}"
            way = ["--url", service.url] if len(ended) % 2 else ["--mode", "offline"]
            ended[name] = trained([*settings, *way, "--run-id", name], folder / name, kill_somewhere)
        found = list(sync_spools(folder, service.url))
        wrong = [f"{each.folder}: {each}" for each in found if not each.is_done]
        for name, end in ended.items():
            if (end.sets, end.model) != (whole.sets, whole.model):
                wrong.append(f"{name} ended otherwise after {end.n_kills} kills")
        with MildClient(service.url) as client:
            for name in ended:
                held = [base64.b64encode(found).decode() for found in _sets(client, name, len(whole.sets))]
                if held != whole.sets:
                    wrong.append(f"the service has other sets of {name}")
    return len(ended), sum(each.n_sent for each in found), wrong


def while_not(ends_within: Callable[[float], bool]) -> None:
    """Wait until a training has ended."""
    while not ends_within(60.0):
        pass


def _trained(
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


def _sets(client: MildClient, run_id: str, n_rounds: int) -> list[bytes]:
    n_samples = client.get_run(run_id)["num_samples"]
    return [client.selected(run_id, n_samples, number).tobytes() for number in range(n_rounds)]


def measure(options: Namespace) -> Report:
    logging.disable(logging.WARNING)  # what is said of every outage is what this is about
    noise = "symmetric:0.4"
    settings = TrainSettings.for_dataset(
        "digits", noise=noise, limit=options.limit, epochs=options.epochs, rounds=2, agree=1.0, deterministic=True,
        device="cpu",
    )  # fmt: skip
    flags = ["--noise", noise, "--limit", str(options.limit // 2), "--epochs", str(options.epochs // 2)]
    flags += ["--rounds", "3", "--agree", "1", "--deterministic", "--device", "cpu"]
    with TemporaryDirectory(prefix="mild-benchmark-") as folder:
        found = outage(settings, options.repeats, Path(folder) / "outage")
        n_trainings, n_sent, wrong = kills(flags, options.kills, Path(folder) / "kills")
    claims = [
        claim_none("sets that an outage changes, or that `mild sync` does not deliver", found.wrong),
        claim_none("sets or networks that `kill -9` and `--resume` change, in any bit", wrong),
    ]
    about = (
        f"ResNet-8 on digits, 40% of the labels broken. The same training of two rounds of {options.epochs} epochs, "
        f"{options.repeats} times in turn: seconds from the end of one epoch to the end of the next, median of each "
        "training; then the median, least and most over the repeats; ratios are taken within a repeat. `mild sync` "
        f"sent {found.n_sent} records after the outages. Then {options.kills} times `kill -9` at random moments of "
        f"{n_trainings} trainings, offline and with a service in turn; `mild sync` sent {n_sent} records after them."
    )
    rows = []
    for way, title in enumerate(WAYS):
        times, ratios = ([1000 * row[way] for row in found.seconds], [row[way] / row[0] for row in found.seconds])
        rows.append((title, _spread(times, 0), _spread(ratios, 2)))
    text = format_table(("training", "milliseconds an epoch", "ratio to the service being there"), rows)
    title = "A service that is stopped, and trainers that are killed"
    return Report(title, claims, about, text, [*found.wrong, *wrong])


def _spread(numbers: Sequence[float], digits: int) -> str:
    middle, *ends = (f"{number:.{digits}f}" for number in (statistics.median(numbers), min(numbers), max(numbers)))
    return f"{middle} ({' to '.join(ends)})"


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
