"""What a training costs in samples, whatever the machine: forward and backward passes."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Passes:
    """Samples sent through a network, and samples whose gradients came back; test samples are not counted.

    Attributes
    ----------
    forward
        Samples seen, in training and to record bits or guess labels.
    backward
        Samples learnt from.
    """

    forward: int = 0
    backward: int = 0

    @classmethod
    def learnt(cls, n_samples: int) -> Self:
        """One forward and one backward pass each."""
        return cls(n_samples, n_samples)

    def __add__(self, other: "Passes") -> "Passes":
        return Passes(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> int:
        """Both together."""
        return self.forward + self.backward

    @property
    def told(self) -> str:
        """The counts, in words."""
        return f"{self.forward:,} forward and {self.backward:,} backward passes"
