"""Exponential moving average of a network's weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017)."""

import torch
from torch import nn


class Average:
    """Follows a network's weights and running statistics.

    Parameters
    ----------
    model
        The network, which keeps its own weights until `adopt`.
    decay
        What is left of the old average after a step; in the first steps less, as the average starts from nothing:
        (1 + step) / (10 + step).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._step = decay, 0
        # State dictionaries share the network's memory, and steps change it in place.
        self._live = [value for value in model.state_dict().values() if value.is_floating_point()]
        self._averages = [value.clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self._step += 1
        decay = min(self._decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(self._averages, self._live, 1 - decay)

    @torch.no_grad()
    def adopt(self) -> None:
        """Give the network the averages as its weights."""
        torch._foreach_copy_(self._live, self._averages)
