"""The networks of a training by name: residual networks for images, and heads for features of other networks.

Residual networks (He et al. 2015) are for images of 8x8 to 224x224 with any number of channels. `resnet8`, `resnet20`:
the CIFAR family, three stages of 16, 32 and 64 channels. `resnet18`, `resnet34`, `resnet50`: the ImageNet family, four
stages of 64 to 512, with a 3x3 stem and no pooling before the stages, as usual for small images.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from mild_trainer.settings import HEADS, ModelName


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


def _make_conv(n_in: int, n_out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)


def _make_shortcut(n_in: int, n_out: int, stride: int) -> nn.Module:
    if n_in == n_out and stride == 1:
        return nn.Identity()
    return nn.Sequential(_make_conv(n_in, n_out, 1, stride), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions with a shortcut."""

    expansion: ClassVar[int] = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _make_conv(n_in, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _make_conv(width, width, 3), nn.BatchNorm2d(width)
        self.shortcut = _make_shortcut(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_batch, n_in, height, width) to (n_batch, width, height / stride, width / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3, and 1x1 convolutions with a shortcut; its output has four times the width."""

    expansion: ClassVar[int] = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _make_conv(n_in, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _make_conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = _make_conv(width, width * 4, 1), nn.BatchNorm2d(width * 4)
        self.shortcut = _make_shortcut(n_in, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n_batch, n_in, height, width) to (n_batch, 4 * width, height / stride, width / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return functional.relu(y + self.shortcut(x))


class ResNet(Network):
    """Residual network with global average pooling and a linear layer.

    Every stage after the first halves the image size and doubles the width.

    Parameters
    ----------
    block
        Class of the residual blocks.
    depths
        Number of blocks in each stage.
    width
        Width of the first stage.
    n_channels
        Number of channels of the images.
    n_classes
        Number of classes.
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: Sequence[int], width: int, n_channels: int, n_classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_make_conv(n_channels, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        blocks: list[nn.Module] = []
        n_in = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stage_width = width << stage
                blocks.append(block(n_in, stage_width, stride=2 if stage and not i else 1))
                n_in = stage_width * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(n_in, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def compute_features(self, x: Tensor) -> Tensor:
        """Map images (n_batch, n_channels, height, width) to the linear layer's input (n_batch, n_features)."""
        means: Tensor = self.blocks(self.stem(x)).mean((2, 3))
        return means


_ARCHITECTURES: dict[ModelName, tuple[type[BasicBlock | Bottleneck], tuple[int, ...], int]] = {
    "resnet8": (BasicBlock, (1, 1, 1), 16),
    "resnet20": (BasicBlock, (3, 3, 3), 16),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
}

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
    block, depths, width = _ARCHITECTURES[name]
    return ResNet(block, depths, width, n_inputs, n_classes)
