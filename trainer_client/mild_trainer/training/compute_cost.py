"""The cost of a training in forward and backward passes, which does not depend on the hardware."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class ComputeCost:
    """Number of samples in forward and in backward passes; test samples are not counted.

    Attributes
    ----------
    forward
        Samples in forward passes: of training, of recording bits, and of guessing labels.
    backward
        Samples in backward passes.
    """

    forward: int = 0
    backward: int = 0

    @classmethod
    def of_training(cls, n_samples: int) -> Self:
        """Return the cost of training on `n_samples`: a forward and a backward pass each."""
        return cls(n_samples, n_samples)

    def __add__(self, other: "ComputeCost") -> "ComputeCost":
        return ComputeCost(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> int:
        """Sum of both."""
        return self.forward + self.backward

    def describe(self) -> str:
        """Return the counts in words."""
        return f"{self.forward:,} forward and {self.backward:,} backward passes"
