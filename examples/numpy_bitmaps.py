"""NumPy, JAX or anything else with arrays: post one bitmap per epoch to a service, without torch.

usage: python examples/numpy_bitmaps.py http://localhost:8000

The loop is softmax regression on random features, in NumPy; with JAX, pass ``np.asarray(logits)`` in the same way.
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

from mild_client import EpochBits, MildClient
from mild_core import bitmap

N_EPOCHS = 30


def main(url: str) -> None:
    """Train on labels of which a third is wrong, and print how good the clean set is."""
    rng = np.random.default_rng(0)
    pixels, truth = load_digits(return_X_y=True)
    labels = np.where(rng.random(truth.size) < 0.33, rng.integers(10, size=truth.size), truth)
    images = np.maximum(pixels / 16 @ rng.normal(size=(64, 256)) / 4, 0)
    targets = np.eye(10)[labels]
    weights = np.zeros((256, 10))

    with MildClient(url) as client, client.run("numpy-digits", num_samples=labels.size, forward_pass="eval") as run:
        for _ in range(N_EPOCHS):
            for batch in np.array_split(rng.permutation(labels.size), 30):
                odds = np.exp(images[batch] @ weights)
                weights -= 0.02 * images[batch].T @ (odds / odds.sum(1, keepdims=True) - targets[batch])
            correct = (images @ weights).argmax(1) == labels
            run.put_epoch(EpochBits(labels.size, bitmap.pack(correct)))
        answer = run.finish()

    kept, right = np.isin(np.arange(labels.size), answer["indices"]), labels == truth
    print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {answer['verdict']}")
    print(f"kept {kept.sum()}, of which {(kept & right).sum()} are right")


if __name__ == "__main__":
    main(sys.argv[1])
