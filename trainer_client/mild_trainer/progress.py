"""Who is told how a training goes."""

from typing import Protocol

from mild_trainer.history import EpochRecord, RoundRecord


class Reporter(Protocol):
    """Is told of every step of a training."""

    def round_started(self, title: str, n_members: int, n_epochs: int) -> None:
        """`n_epochs` epochs on `n_members` samples begin, in a round or for a comparison."""

    def epoch_done(self, record: EpochRecord) -> None:
        """An epoch is over."""

    def round_done(self, record: RoundRecord) -> None:
        """A round has its clean set."""


class Silent:
    """Says nothing."""

    def round_started(self, title: str, n_members: int, n_epochs: int) -> None:
        """Say nothing."""

    def epoch_done(self, record: EpochRecord) -> None:
        """Say nothing."""

    def round_done(self, record: RoundRecord) -> None:
        """Say nothing."""
