"""The cost of a training in forward and backward passes, which does not depend on the hardware."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class ComputeCost:
    """Numbers of samples that passed forward and backward through a network; test samples are not counted.

    Attributes
    ----------
    forward
        Samples in forward passes, to train, to record bits, and to guess labels.
    backward
        Samples in backward passes.
    """

    forward: int = 0
    backward: int = 0

    @classmethod
    def of_training(cls, n_samples: int) -> Self:
        """Return the cost of training once on `n_samples` samples: one forward and one backward pass for each."""
        return cls(n_samples, n_samples)

    def __add__(self, other: "ComputeCost") -> "ComputeCost":
        return ComputeCost(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> int:
        """Sum of forward and backward passes."""
        return self.forward + self.backward

    def describe(self) -> str:
        """Return the counts as text, such as ``1,200 forward and 800 backward passes``."""
        return f"{self.forward:,} forward and {self.backward:,} backward passes"
