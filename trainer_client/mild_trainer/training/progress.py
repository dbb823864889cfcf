"""Who is told how a training goes: nobody, a log of plain lines, or a terminal with bars."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mild_core.agreement import HeldOutAgreement
from mild_trainer.training.finetune import Finished
from mild_trainer.training.history import EpochRecord, RoundRecord


class Reporter:
    """Is told of every step of a training, and passes over those that it does not care for: this one over all."""

    def planted(self, n_planted: int, seconds: float) -> None:
        """Labels have been broken on purpose for round 0, in so many seconds."""

    def verified(self, found: HeldOutAgreement) -> None:
        """It is known whether the labels carry signal."""

    def round_started(self, title: str, n_members: int, n_epochs: int) -> None:
        """`n_epochs` epochs on `n_members` samples begin, in a round or for a comparison."""

    def epoch_done(self, record: EpochRecord) -> None:
        """An epoch is over."""

    def round_done(self, record: RoundRecord) -> None:
        """A round has its clean set."""

    def comparison_done(self, title: str, test_accuracy: float, seconds: float) -> None:
        """A comparison has been trained, in so many seconds."""

    def finished(self, finished: Finished) -> None:
        """A fresh network has been trained after the last round."""


class Lines(Reporter):
    """Writes a line a step, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def planted(self, n_planted: int, seconds: float) -> None:
        """Write how many."""
        self._write(_planting(n_planted, seconds))

    def verified(self, found: HeldOutAgreement) -> None:
        """Write what was found."""
        self._write(found.summary_text)

    def round_started(self, title: str, n_members: int, n_epochs: int) -> None:
        """Write what begins."""
        self._write(f"{title}: {counted(n_epochs, 'epoch')} on {counted(n_members, 'sample')}")

    def epoch_done(self, record: EpochRecord) -> None:
        """Write the scalars."""
        self._write(f"round {record.round} epoch {record.epoch}: {_scores(record)}, {record.seconds:.1f} s")

    def round_done(self, record: RoundRecord) -> None:
        """Write what was selected."""
        self._write(_outcome(record))

    def comparison_done(self, title: str, test_accuracy: float, seconds: float) -> None:
        """Write how it went."""
        self._write(f"{title}: test {test_accuracy:.3f}, {seconds:.1f} s")

    def finished(self, finished: Finished) -> None:
        """Write how it went."""
        self._write(_finish(finished))

    def _write(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class Bars(Reporter):
    """Draws one bar a round. A context manager: the bars stand still afterwards."""

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

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def planted(self, n_planted: int, seconds: float) -> None:
        """Write how many."""
        self._progress.print(_planting(n_planted, seconds), highlight=False)

    def verified(self, found: HeldOutAgreement) -> None:
        """Write what was found above the bars that follow."""
        self._progress.print(found.summary_text, highlight=False)

    def round_started(self, title: str, n_members: int, n_epochs: int) -> None:
        """Begin a bar."""
        self._n_epochs = n_epochs
        self._task = self._progress.add_task(f"{title}, {counted(n_members, 'sample')}", total=n_epochs, scores="")

    def epoch_done(self, record: EpochRecord) -> None:
        """Move the bar on."""
        self._progress.update(self._task, completed=record.epoch + 1, scores=_scores(record))

    def round_done(self, record: RoundRecord) -> None:
        """Write what was selected above the bars that follow."""
        self._progress.print(_outcome(record), highlight=False)

    def comparison_done(self, title: str, test_accuracy: float, seconds: float) -> None:
        """Move the bar to its end."""
        self._progress.update(self._task, completed=self._n_epochs, scores=f"test {test_accuracy:.3f}")

    def finished(self, finished: Finished) -> None:
        """Write how it went."""
        self._progress.print(_finish(finished), highlight=False)


def counted(n: int, thing: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"


def _planting(n_planted: int, seconds: float) -> str:
    return f"round 0 trains {counted(n_planted, 'sample')} on labels broken on purpose, drawn in {seconds:.1f} s"


def _finish(finished: Finished) -> str:
    scores = f"test {finished.test_accuracy:.3f}, {finished.seconds:.1f} s"
    return f"finish, {finished.method}: {scores}, {finished.passes.told}"


def _scores(record: EpochRecord) -> str:
    held = record.validation_accuracy
    validated = "" if held is None else f", validation {held:.3f}"
    scores = f"loss {record.train_loss:.3f}, train {record.train_accuracy:.3f}, test {record.test_accuracy:.3f}"
    return scores + validated


def _outcome(record: RoundRecord) -> str:
    truth = ""
    if record.agreement is not None:
        truth = f", precision {record.agreement.precision:.3f}, recall {record.agreement.recall:.3f}"
    return f"round {record.round}: kept {counted(record.n_selected, 'sample')}, {record.summary['verdict']}{truth}"
