"""Networks that end in a linear layer, and those that are hardly more: heads for features of other networks."""

from torch import Tensor, nn


class Network(nn.Module):
    """A network whose last layer maps values of its own to logits.

    Attributes
    ----------
    head
        The last layer.
    """

    head: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Map samples (n_batch, …) to logits (n_batch, n_classes)."""
        logits: Tensor = self.head(self.compute_features(x))
        return logits

    def compute_features(self, x: Tensor) -> Tensor:
        """Map samples (n_batch, …) to the last layer's input (n_batch, n_inputs)."""
        raise NotImplementedError


class FeatureHead(Network):
    """A linear layer on features, or on one layer of hidden units.

    Parameters
    ----------
    n_features
        Number of features.
    n_hidden
        Number of hidden units; 0 for none.
    n_classes
        Number of classes.
    """

    def __init__(self, n_features: int, n_hidden: int, n_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_features, n_hidden), nn.ReLU()) if n_hidden else nn.Identity()
        self.head = nn.Linear(n_hidden or n_features, n_classes)

    def compute_features(self, x: Tensor) -> Tensor:
        """Map features (n_batch, n_features) to the last layer's input."""
        hidden: Tensor = self.body(x)
        return hidden
