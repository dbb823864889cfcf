"""Reporters of a training's progress: plain lines, or progress bars in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mild_core.agreement import HeldOutAgreement
from mild_trainer.training.finetune import FinishResult
from mild_trainer.training.history import EpochRecord, RoundRecord


class Reporter:
    """Receives the progress of a training, and writes a line of plain text for each step.

    Attributes
    ----------
    console
        Where the lines are written; None writes none.
    """

    console: Console | None = None

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def write_line(self, line: str) -> None:
        """Write a line of text."""
        if self.console is not None:
            self.console.print(line, highlight=False, soft_wrap=True)

    def on_start(self, lines: Sequence[str]) -> None:
        """Report the data, the network, the device and the expected time, in lines of text."""
        for line in lines:
            self.write_line(line)

    def on_labels_planted(self, n_planted: int, seconds: float) -> None:
        """Report that the labels of `n_planted` samples were broken on purpose for round 0, which took `seconds`."""
        samples = format_count(n_planted, "sample")
        self.write_line(f"round 0 trains {samples} on labels broken on purpose, drawn in {seconds:.1f} s")

    def on_agreement_measured(self, agreement: HeldOutAgreement) -> None:
        """Report the agreement of the given labels with held-out predictions."""
        self.write_line(agreement.summary_text)

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Report that a round or a comparison begins: `n_epochs` epochs on `n_members` samples."""
        self.write_line(f"{title}: {format_count(n_epochs, 'epoch')} on {format_count(n_members, 'sample')}")

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Report the metrics of an epoch that has ended."""
        self.write_line(f"round {record.round} epoch {record.epoch}: {_describe_epoch(record)}, {record.seconds:.1f} s")

    def on_round_end(self, record: RoundRecord) -> None:
        """Report the clean set of a round that has ended."""
        metrics = ""
        if record.agreement is not None:
            metrics = f", precision {record.agreement.precision:.3f}, recall {record.agreement.recall:.3f}"
        verdict = record.summary["verdict"]
        advice = " (train longer)" if verdict == "learning" else ""
        kept = format_count(record.n_selected, "sample")
        self.write_line(f"round {record.round}: kept {kept}, {verdict}{advice}{metrics}")

    def on_comparison_end(self, title: str, test_accuracy: float | None, seconds: float) -> None:
        """Report the test accuracy of a network that was trained for comparison, in `seconds`."""
        self.write_line(f"{title}: {_describe_test(test_accuracy)}{seconds:.1f} s")

    def on_finish_end(self, finish_result: FinishResult) -> None:
        """Report the result of the training after the last round."""
        scores = f"{_describe_test(finish_result.test_accuracy)}{finish_result.seconds:.1f} s"
        self.write_line(f"finish, {finish_result.method}: {scores}, {finish_result.passes.describe()}")


class ProgressBarReporter(Reporter):
    """Draws a progress bar for each round in a terminal, inside a ``with`` block, and other lines above the bars."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
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

    def on_round_start(self, title: str, n_members: int, n_epochs: int) -> None:
        """Add a bar for the round or the comparison."""
        self._n_epochs = n_epochs
        self._task = self._progress.add_task(f"{title}, {format_count(n_members, 'sample')}", total=n_epochs, scores="")

    def on_epoch_end(self, record: EpochRecord) -> None:
        """Advance the bar by one epoch, and show the epoch's metrics."""
        self._progress.update(self._task, completed=record.epoch + 1, scores=_describe_epoch(record))

    def on_comparison_end(self, title: str, test_accuracy: float | None, seconds: float) -> None:
        """Complete the bar, and show the test accuracy."""
        scores = _describe_test(test_accuracy).removesuffix(", ")
        self._progress.update(self._task, completed=self._n_epochs, scores=scores)


def format_count(n: int, noun: str) -> str:
    """Return the number `n` with its noun in the singular or plural, such as ``1 epoch`` or ``2 epochs``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def format_duration(seconds: float) -> str:
    """Return a duration in words, such as ``40 s``, ``3 min`` or ``2 h``."""
    if seconds < 55:
        return f"{max(5, round(seconds / 5) * 5)} s"
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{round(seconds / 3600):,} h"


def _describe_epoch(record: EpochRecord) -> str:
    accuracy = record.validation_accuracy
    validation = "" if accuracy is None else f", validation {accuracy:.3f}"
    test = _describe_test(record.test_accuracy).removesuffix(", ")
    scores = f"loss {record.train_loss:.3f}, train {record.train_accuracy:.3f}{test and f', {test}'}"
    return scores + validation


def _describe_test(test_accuracy: float | None) -> str:
    """Return the test accuracy and a comma; an empty text without a test set."""
    return "" if test_accuracy is None else f"test {test_accuracy:.3f}, "
