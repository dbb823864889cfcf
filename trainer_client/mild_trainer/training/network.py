"""The networks of a training by name: residual networks for images, and heads for features."""

from mild_trainer.settings import HEADS, ModelName
from mild_trainer.training.heads import FeatureHead, Network
from mild_trainer.training.resnet import build_resnet

N_HIDDEN = 256
"""Number of hidden units of the network ``mlp``."""


def build_network(name: ModelName, n_inputs: int, n_classes: int) -> Network:
    """Create the network `name`, with weights drawn from torch's global random generator.

    Parameters
    ----------
    name
        Name of the network.
    n_inputs
        Number of channels of the images, or of features.
    n_classes
        Number of classes.
    """
    if name in HEADS:
        return FeatureHead(n_inputs, N_HIDDEN if name == "mlp" else 0, n_classes)
    return build_resnet(name, n_inputs, n_classes)
