"""`Job`, a training from the command line: it checks options, creates the backend, trains, and writes the report."""

import itertools
import os
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mild_client import BackgroundBackend, HttpBackend, LocalSelector, MildClient, RunExists, SelectionBackend
from mild_client.backends.background import Mode
from mild_client.commands import format_command
from mild_core.errors import ParameterError
from mild_core.types import validate_run_id
from mild_trainer.embedded import EmbeddedService
from mild_trainer.errors import CheckpointError, TrainerError
from mild_trainer.settings import TrainSettings

if TYPE_CHECKING:
    from mild_trainer.data import Dataset
    from mild_trainer.review.review_runs import ReviewedRun, TrainingFolder
    from mild_trainer.training.history import History


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Options that choose the selection backend of a training.

    Attributes
    ----------
    url
        Address of the service; None starts an embedded one, if the mode is ``online``.
    mode
        ``online``: a service selects. ``offline``: this process selects, and stores records that ``mild sync`` sends to
        a service later. ``disabled``: this process selects, without a service.
    api_key
        API key for the service at `url`. None takes the key in ``MILD_API_KEY``, if that is set.
    spool_bytes
        Largest number of unsent bytes in the spool; None takes the default.
    """

    url: str | None = None
    mode: Mode = "online"
    api_key: str | None = field(default=None, repr=False)
    spool_bytes: int | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether the training runs an embedded service."""
        return self.url is None and self.mode == "online"

    def create_backend(self, out: Path) -> LocalSelector | BackgroundBackend:
        """Create the backend of a training without an embedded service; its files are below the folder `out`."""
        if self.mode == "disabled":
            return LocalSelector(out / "bits")
        return BackgroundBackend(self.url, out / "spool", self.mode, self.api_key, self.spool_bytes)


@dataclass(frozen=True, slots=True)
class Job:
    """One training, as started by ``mild train``.

    Attributes
    ----------
    settings
        The settings of the training.
    out
        Folder for all files of the training.
    backend_options
        Options of the backend.
    run_id
        Id of the run; None derives one from the data set and the time.
    resume
        Whether to resume from the checkpoint in `out`.
    given
        Names of the settings that were given; the others may follow from the number and the size of the images.
    console
        Where progress and results are printed.
    """

    settings: TrainSettings
    out: Path
    backend_options: BackendOptions
    run_id: str | None
    resume: bool
    given: Collection[str] = ()
    console: Console = field(default_factory=lambda: Console(markup=False))  # paths may have brackets

    def run(self) -> None:
        """Train, write the summary and the report, and print the results.

        Raises
        ------
        ParameterError
            If options contradict each other or cannot be used.
        CheckpointError
            If `out` has no checkpoint to resume from, or the checkpoint has other settings.
        DataError
            If the data set is absent or cannot be read.
        TrainerError
            If the run exists already and `resume` is False.
        """
        if not is_distributed():
            self._run_first_rank()
            return
        from mild_trainer.training import distributed

        with distributed.join_process_group(self.settings.device) as rank:
            if rank.is_first:
                self._run_first_rank()
            else:
                self._run_other_rank()

    def _run_other_rank(self) -> None:
        """Train on a rank other than the first, which neither calls the backend nor writes files."""
        from mild_trainer.training import loop

        settings, dataset = self._read_dataset()
        loop.run_rounds(settings, data=dataset, out=self.out, resume=self.resume)

    def _read_dataset(self) -> "tuple[TrainSettings, Dataset]":
        """Return the settings with the defaults for the data set, and the data set."""
        from mild_trainer.training import preparation

        dataset = preparation.read_dataset(self.settings)
        side = max(dataset.x_train.shape[1:3])
        return self.settings.with_size_defaults(dataset.n_samples, side, self.given), dataset

    def _run_first_rank(self) -> None:
        """Train in a single process or on the first rank, write the results, and print them."""
        self._check_options()
        settings, dataset = self._read_dataset()
        if self.resume:
            self._check_checkpoint(settings)
        with ExitStack() as stack:
            service, client = None, None
            if self.backend_options.is_embedded:
                service = stack.enter_context(EmbeddedService(self.out / "service"))

            # Slow imports, while the service starts.
            from mild_trainer.training import loop, progress

            reporter = progress.Reporter(self.console)
            backend: SelectionBackend
            if service is not None:
                client = stack.enter_context(MildClient(service.url))
                backend = HttpBackend(client)
            else:
                backend = self.backend_options.create_backend(self.out)
                stack.enter_context(backend)
            name = self.run_id or f"{self.settings.dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
            with ExitStack() as display_stack:
                if self.console.is_terminal:
                    reporter = display_stack.enter_context(progress.ProgressBarReporter(self.console))
                try:
                    history = loop.run_rounds(
                        settings, backend, dataset, reporter, run_id=name, out=self.out, resume=self.resume
                    )
                except RunExists as error:
                    raise TrainerError(
                        f"{error.existing_run}; choose another --run-id, or go on with --resume"
                    ) from None
            self._write_results(history, service, client)

    def _write_results(self, history: "History", service: EmbeddedService | None, client: MildClient | None) -> None:
        """Write the summary, the clean set, the model card and the report, and print the results."""
        from mild_trainer.report import report, summary
        from mild_trainer.review.review_runs import TrainingFolder

        results = summary.summarise_training(history)
        summary.write_summary(results, self.out)
        run = scores = predicted = samples = None
        if history.rounds:
            training = TrainingFolder.read(self.out, history.data)
            run = self._open_run(training, history.run_id, client)
            scores = None if run is None else run.score_samples()
            if not is_distributed():  # other ranks would have to predict, too; ``mild report`` adds the samples
                predicted = training.predict_labels(history.data)
        clean_set_line = summary.write_clean_set(history, self.out, scores, predicted)
        if run is not None and scores is not None and predicted is not None:
            samples = report.gather_samples(run, scores, history.data, predicted)
        selection = run.read_selection() if run is not None and self.resume else None  # marks may be there already
        if service is not None:
            service.request_stop()  # it stops while the report is drawn
        if history.rounds:
            report.write_page(self.out / "README.md", report.render_model_card(results, selection))
        report.write_page(self.out / "report.html", report.render_report(results, samples, selection))
        self._print_results(history, results, selection, clean_set_line)

    def _print_results(
        self, history: "History", results: dict[str, Any], selection: Mapping[str, Any] | None, clean_set: str | None
    ) -> None:
        """Print what is known of the last set, the table of rounds, remarks on the training, and what was written.

        Parameters
        ----------
        history, results
            The training, and its summary.
        selection
            The set's selection as it is now, with what has been audited since; None for that of `results`.
        clean_set
            The line about the files of the set; None if there are none.
        """
        from mild_trainer.report import summary

        def show(*texts: str | None, style: str | None = None) -> None:
            for text in filter(None, texts):
                self.console.print(text, highlight=False, soft_wrap=True, style=style)

        agreement = history.held_out_agreement
        statements = summary.describe_last_set(results, selection)
        leading, fitted = (
            [each.text for each in statements if (each.basis == "fitted") == is_fitted] for is_fitted in (False, True)
        )
        url_option = () if self.backend_options.url is None else ("--url", self.backend_options.url)
        review_command = format_command("mild", "review", self.out, *url_option)
        next_step = summary.describe_next_step(statements, review_command, results)
        show(*leading, summary.describe_set_round(results), next_step)
        self.console.print(summary.build_terminal_table(results))
        show(summary.describe_last_verdict(results), *fitted, style="dim")
        if agreement is not None:
            show(f"{agreement.summary_text}.", style=None if agreement.carries_signal else "bold red")
        trained = "The rounds" if results["finish"] is None else "Rounds and finish"
        cost = f"{trained} took {history.compute_cost.describe()}."
        show(summary.describe_planting(results), summary.describe_validation(results), cost)
        show(*summary.describe_alarms(results), style="yellow")
        show(f"No further round: {history.stop_reason}.")
        show(f"Written: {self.out / 'summary.json'} and {self.out / 'report.html'}")
        show(clean_set and f"{clean_set}. Next: {review_command}")

    def _open_run(self, training: "TrainingFolder", run_id: str, client: MildClient | None) -> "ReviewedRun | None":
        """Return the run with all of its bits, from this machine alone; None where bits are missing.

        With a service elsewhere, which may be unreachable, the bits are those in the spool.
        """
        from mild_trainer.review.review_runs import LocalRun, ServiceRun

        if client is not None:
            return ServiceRun(client, training.require_run_id(), training)
        if self.backend_options.mode == "disabled":
            return LocalRun(training)
        run = LocalRun(training, self.out / "spool" / run_id)
        return run if run.is_complete() else None

    def _check_options(self) -> None:
        """Raise ParameterError or CheckpointError if options are invalid, before anything is started or written."""
        if self.backend_options.mode == "disabled" and self.backend_options.url is not None:
            raise ParameterError("--local and --url exclude each other; give one")
        if self.run_id is not None:
            validate_run_id(self.run_id, "--run-id")
        if self.out.exists() and not self.out.is_dir():
            raise ParameterError(f"--out {self.out} is a file; give a folder")
        if self.resume and not holds_training(self.out):
            self._check_checkpoint(self.settings)  # before the data are read

    def _check_checkpoint(self, settings: TrainSettings) -> None:
        """Raise CheckpointError if there is no checkpoint in `out`, or it does not match the options."""
        from mild_trainer.training import checkpoint

        stored = checkpoint.load_checkpoint(self.out, settings)
        if self.run_id not in (None, stored.run_id):
            raise CheckpointError(
                f"{self.out} holds the checkpoint of run {stored.run_id!r}, --run-id is {self.run_id!r}; "
                "leave --run-id out to go on with it, or give the other run's --out"
            )
        if stored.is_local != (self.backend_options.mode == "disabled"):
            kind, remedy = "a service selects for", "leave --local out to go on with it"
            if stored.is_local:
                kind, remedy = "selects in its own process", "go on with it with --local"
            raise CheckpointError(f"{self.out} holds the checkpoint of run {stored.run_id!r}, which {kind}; {remedy}")


def choose_out_folder(out: Path | None, default: Path, resume: bool) -> Path:
    """Return the folder of a training.

    Parameters
    ----------
    out
        The folder that was asked for; None takes `default`, or the first of ``default-2``, ``default-3``, … without a
        training, or when resuming the last one with a training.
    default
        Folder of the first training that names none.
    resume
        Whether a training in the folder is resumed.
    """
    if out is None:
        free = last = default
        for number in itertools.count(2):
            if not holds_training(free):
                break
            last, free = free, default.with_name(f"{default.name}-{number}")
        return last if resume else free
    if not resume and holds_training(out):
        state = "a finished training" if (out / "summary.json").exists() else "an unfinished training"
        raise TrainerError(
            f"--out {out} holds {state}; give another folder for a new training, or --resume to go on with this one"
        )
    return out


def holds_training(folder: Path) -> bool:
    """Return whether a training has written its checkpoint or its summary into a folder."""
    return any((folder / name).exists() for name in ("checkpoint.pt", "summary.json"))


def is_distributed() -> bool:
    """Return whether ``torchrun`` has started this process, without importing torch.

    The result is that of ``torch.distributed.is_torchelastic_launched``.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ
