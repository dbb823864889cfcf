"""A training as the command line runs it: options are checked, a service stands by, and the outcome is told.

Whether ``torchrun`` has started this process: told without torch, which takes seconds to load.
"""

import os
import re
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mild_client import BackgroundBackend, HttpBackend, LocalSelector, MildClient, RunExists, SelectionBackend
from mild_client.backends.background import Mode
from mild_core.errors import ParameterError
from mild_trainer.embedded import EmbeddedService
from mild_trainer.errors import CheckpointError, TrainerError
from mild_trainer.settings import TrainSettings


def is_rank() -> bool:
    """Whether this process is one of several that train together (torch's own ``is_torchelastic_launched``)."""
    return "TORCHELASTIC_RUN_ID" in os.environ


if TYPE_CHECKING:
    from mild_trainer.report.sample_sections import Samples
    from mild_trainer.training.history import History

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a training's bits go, and where its sets are made.

    Attributes
    ----------
    url
        The service; None: an embedded one, unless it is `local` or `offline`.
    local
        Whether to select in this process, and keep the bits to itself.
    offline
        Whether to select in this process, and record all for the service to be sent to it later.
    api_key
        Key for the service at `url`; None takes the one in ``MILD_API_KEY``, if there is one.
    spool_bytes
        Most bytes to keep for a service that is away; None takes the default.
    """

    url: str | None = None
    local: bool = False
    offline: bool = False
    api_key: str | None = field(default=None, repr=False)
    spool_bytes: int | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether a service is to be started for the training."""
        return self.url is None and not self.local and not self.offline

    def backend(self, out: Path) -> LocalSelector | BackgroundBackend:
        """What takes the bits of a training in `out`, unless a service is started for it."""
        if self.local:
            return LocalSelector(out / "bits")
        mode: Mode = "offline" if self.offline else "online"
        return BackgroundBackend(self.url, out / "spool", mode, self.api_key, self.spool_bytes)


@dataclass(frozen=True, slots=True)
class Job:
    """One call of ``mild train``.

    Attributes
    ----------
    settings
        What to train.
    out
        Folder for everything that is written.
    place
        Where the bits go.
    run_id
        The run's name; None makes one up.
    resume
        Go on from the checkpoint in `out`.
    """

    settings: TrainSettings
    out: Path
    place: Place
    run_id: str | None
    resume: bool

    def run(self, console: Console) -> None:
        """Train, write the summary and the report, and print what came out.

        Raises
        ------
        ParameterError
            If options contradict each other or cannot be used.
        CheckpointError
            If there is nothing to resume, or it is the checkpoint of something else.
        TrainerError
            If the run exists already and is not to be resumed.
        """
        if not is_rank():
            self._lead(console)
            return
        from mild_trainer.training import distributed

        with distributed.joined(self.settings.device) as mine:
            if mine.is_first:
                self._lead(console)
            else:
                self._follow()

    def _follow(self) -> None:
        """Train as one of several ranks, but for the first, which alone speaks to a service and writes."""
        from mild_trainer.training import loop, prepare

        loop.run_rounds(
            self.settings,
            data=prepare.read(self.settings),
            out=self.out,
            resume=self.resume,
        )

    def _lead(self, console: Console) -> None:
        """Train alone, or as the first rank."""
        self._check()
        with ExitStack() as stack:
            service, client = None, None
            if self.place.is_embedded:
                service = stack.enter_context(EmbeddedService(self.out / "service"))

            # All that takes long to load is loaded while the service comes up.
            from mild_trainer.report import model_card, report, summary
            from mild_trainer.training import loop, prepare, progress

            reporter: progress.Reporter = progress.Lines(console)
            read = prepare.read(self.settings)
            backend: SelectionBackend
            if service is not None:
                client = stack.enter_context(MildClient(service.url))
                backend = HttpBackend(client)
            else:
                backend = self.place.backend(self.out)
                if isinstance(backend, BackgroundBackend):
                    stack.enter_context(backend)
            name = self.run_id or f"{self.settings.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
            with ExitStack() as drawn:
                if console.is_terminal:
                    reporter = drawn.enter_context(progress.Bars(console))
                try:
                    history = loop.run_rounds(
                        self.settings, backend, read, reporter, run_id=name, out=self.out, resume=self.resume
                    )
                except RunExists as error:
                    raise TrainerError(
                        f"{error.existing_run}; choose another --run-id, or go on with --resume"
                    ) from None
            numbers = summary.summarise(history)
            written = summary.write(numbers, self.out)
            clean_set = summary.write_clean_set(history, self.out)
            samples = self._samples(history, client)
            if service is not None:
                service.release()  # it ends while the report is drawn
            if history.rounds:
                model_card.write(numbers, self.out)
            page = report.write(self.out / "report.html", numbers, samples)
            _tell(console, history, numbers, (written, page), clean_set)

    def _samples(self, history: "History", client: MildClient | None) -> "Samples | None":
        """What the report is to tell of single samples; None where ``mild report`` is to ask for it later.

        That is where a service elsewhere, which may be away, or other ranks would have to be waited for.
        """
        if is_rank() or not history.rounds or not (self.place.local or client is not None):
            return None
        from mild_trainer.report import sample_sections
        from mild_trainer.review.review_runs import LocalRun, ServiceRun, Training

        training = Training.read(self.out)
        run = LocalRun(training) if client is None else ServiceRun(client, training.named(), training)
        return sample_sections.gather(run, training, history.data)

    def _check(self) -> None:
        """Refuse what cannot go well before anything is started or written."""
        if self.place.local and self.place.url is not None:
            raise ParameterError("--local and --url exclude each other; give one")
        if self.run_id is not None and not _RUN_ID.fullmatch(self.run_id):
            raise ParameterError(
                f"--run-id is {self.run_id!r}; give 1 to 64 letters, digits, '.', '_' or '-', a letter or digit first"
            )
        if self.out.exists() and not self.out.is_dir():
            raise ParameterError(f"--out {self.out} is a file; give a folder")
        if self.resume:
            self._check_checkpoint()

    def _check_checkpoint(self) -> None:
        from mild_trainer.training import checkpoint

        stored = checkpoint.load(self.out, self.settings)
        if self.run_id not in (None, stored.run_id):
            raise CheckpointError(
                f"{self.out} holds the checkpoint of run {stored.run_id!r}, --run-id is {self.run_id!r}; "
                "leave --run-id out to go on with it, or give the other run's --out"
            )
        if self.place.local and not stored.local:
            raise CheckpointError(
                f"{self.out} holds the checkpoint of run {stored.run_id!r}, which a service selects for; "
                "leave --local out to go on with it"
            )
        if not self.place.local and stored.local:
            raise CheckpointError(
                f"{self.out} holds the checkpoint of run {stored.run_id!r}, which selects in its own process; "
                "go on with it with --local"
            )


def _tell(
    console: Console,
    history: "History",
    numbers: dict[str, Any],
    written: tuple[Path, Path],
    clean_set: Path | None,
) -> None:
    from mild_trainer.report import summary

    console.print(summary.table(numbers))
    if history.verified is not None:
        console.print(
            f"{history.verified.summary_text}.",
            highlight=False,
            style=None if history.verified.carries_signal else "bold red",
        )
    if planting := summary.planting(numbers):
        console.print(planting, highlight=False, soft_wrap=True)
    if validation := summary.validation(numbers):
        console.print(validation, highlight=False, soft_wrap=True)
    console.print(f"Rounds and finish took {history.passes.told}.", highlight=False, soft_wrap=True)
    for alarm in summary.alarming(numbers):
        console.print(alarm, highlight=False, style="yellow")
    console.print(f"No further round: {history.ended}.", highlight=False, soft_wrap=True)
    console.print(f"Written: {written[0]} and {written[1]}", highlight=False, soft_wrap=True)
    if clean_set is not None:
        n_selected, n_samples = history.rounds[-1].n_selected, history.data.n_samples
        console.print(
            f"The clean set: {clean_set}, the indices of {n_selected:,} of {n_samples:,} samples",
            highlight=False,
            soft_wrap=True,
        )
