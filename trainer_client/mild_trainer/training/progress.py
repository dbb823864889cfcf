"""Reporters of a training's progress: none, a log of plain lines, or progress bars in a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mild_core.agreement import HeldOutAgreement
from mild_trainer.training.finetune import FinishResult
from mild_trainer.training.history import EpochRecord, RoundRecord


class Reporter:
    """Receives the steps of a training, and ignores them; subclasses override some methods."""

    def on_planted(self, n_planted: int, seconds: float) -> None:
        """Labels were broken on purpose for round 0, in `seconds`."""

    def on_verified(self, agreement: HeldOutAgreement) -> None:
        """The held-out agreement was measured."""

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """`n_epochs` epochs on `n_members` samples begin, of a round or of a comparison."""

    def on_epoch_end(self, record: EpochRecord) -> None:
        """An epoch has ended."""

    def on_round_end(self, record: RoundRecord) -> None:
        """A round has ended with its clean set."""

    def on_comparison_end(self, title: str, test_accuracy: float, seconds: float) -> None:
        """A comparison was trained, in `seconds`."""

    def on_finish_end(self, finished: FinishResult) -> None:
        """A new network was trained after the last round."""


class LogReporter(Reporter):
    """Writes one line for each step, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_planted(self, n_planted: int, seconds: float) -> None:
        """Write the number of planted labels."""
        self._write(_describe_planting(n_planted, seconds))

    def on_verified(self, agreement: HeldOutAgreement) -> None:
        """Write the held-out agreement."""
        self._write(agreement.summary_text)

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Write the title and the size of the round."""
        self._write(f"{title}: {format_count(n_epochs, 'epoch')} on {format_count(n_members, 'sample')}")

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Write the epoch's scalars."""
        self._write(f"round {record.round} epoch {record.epoch}: {_describe_epoch(record)}, {record.seconds:.1f} s")

    def on_round_end(self, record: RoundRecord) -> None:
        """Write the result of the selection."""
        self._write(_describe_round(record))

    def on_comparison_end(self, title: str, test_accuracy: float, seconds: float) -> None:
        """Write the test accuracy."""
        self._write(f"{title}: test {test_accuracy:.3f}, {seconds:.1f} s")

    def on_finish_end(self, finished: FinishResult) -> None:
        """Write the test accuracy and the cost."""
        self._write(_describe_finish(finished))

    def _write(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class ProgressBarReporter(Reporter):
    """Draws a progress bar for each round; a context manager, after which the bars are no longer updated."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[scores]}"),
            console=console,
        )
        self._task, self._n_epochs = TaskID(0), 0

    def __enter__(self) -> "ProgressBarReporter":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_planted(self, n_planted: int, seconds: float) -> None:
        """Write the number of planted labels."""
        self._progress.print(_describe_planting(n_planted, seconds), highlight=False)

    def on_verified(self, agreement: HeldOutAgreement) -> None:
        """Write the held-out agreement above the following bars."""
        self._progress.print(agreement.summary_text, highlight=False)

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Add a bar."""
        self._n_epochs = n_epochs
        self._task = self._progress.add_task(f"{title}, {format_count(n_members, 'sample')}", total=n_epochs, scores="")

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Advance the bar."""
        self._progress.update(self._task, completed=record.epoch + 1, scores=_describe_epoch(record))

    def on_round_end(self, record: RoundRecord) -> None:
        """Write the result of the selection above the following bars."""
        self._progress.print(_describe_round(record), highlight=False)

    def on_comparison_end(self, title: str, test_accuracy: float, seconds: float) -> None:
        """Complete the bar."""
        self._progress.update(self._task, completed=self._n_epochs, scores=f"test {test_accuracy:.3f}")

    def on_finish_end(self, finished: FinishResult) -> None:
        """Write the test accuracy and the cost."""
        self._progress.print(_describe_finish(finished), highlight=False)


def format_count(n: int, noun: str) -> str:
    """Return the number and the noun, such as ``1 epoch`` or ``2 epochs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _describe_planting(n_planted: int, seconds: float) -> str:
    return f"round 0 trains {format_count(n_planted, 'sample')} on labels broken on purpose, drawn in {seconds:.1f} s"


def _describe_finish(finished: FinishResult) -> str:
    scores = f"test {finished.test_accuracy:.3f}, {finished.seconds:.1f} s"
    return f"finish, {finished.method}: {scores}, {finished.passes.describe()}"


def _describe_epoch(record: EpochRecord) -> str:
    accuracy = record.validation_accuracy
    validation = "" if accuracy is None else f", validation {accuracy:.3f}"
    scores = f"loss {record.train_loss:.3f}, train {record.train_accuracy:.3f}, test {record.test_accuracy:.3f}"
    return scores + validation


def _describe_round(record: RoundRecord) -> str:
    metrics = ""
    if record.agreement is not None:
        metrics = f", precision {record.agreement.precision:.3f}, recall {record.agreement.recall:.3f}"
    return (
        f"round {record.round}: kept {format_count(record.n_selected, 'sample')}, {record.summary['verdict']}{metrics}"
    )
