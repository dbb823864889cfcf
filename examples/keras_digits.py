"""Keras 3: find the wrong labels among handwritten digits; two rounds, the second trained on the first one's set.

Needs ``pip install "mild-selection[keras]" scikit-learn`` and a backend of Keras; here it is torch. `LocalSelector`
selects in the process; with a service, use ``BackgroundBackend("http://localhost:8000")`` in its place.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # noqa: TID251 (Keras reads nothing else)

import keras
import numpy as np
from sklearn.datasets import load_digits

from mild_client import LocalSelector, RunSpec
from mild_client.callbacks.keras import MildCallback
from mild_core import bitmap

N_EPOCHS = 15


def network() -> keras.Model:
    """A fresh small network."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def main() -> None:
    """Train on labels of which a third is wrong, and print how good the clean set is."""
    keras.utils.set_random_seed(0)
    pixels, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(truth.size) < 0.33, rng.integers(10, size=truth.size), truth)
    images = (pixels / 16).astype(np.float32)

    backend = LocalSelector()
    backend.open(RunSpec("digits", num_samples=labels.size, forward_pass="eval"))
    callback = MildCallback(backend, images, labels)
    members = np.ones(labels.size, dtype=bool)
    for _ in range(2):
        network().fit(images[members], labels[members], epochs=N_EPOCHS, batch_size=64, verbose=0, callbacks=[callback])
        assert callback.result is not None, "a fit finishes its round"
        members = bitmap.unpack(callback.result.selected, labels.size)

    right = labels == truth
    print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {callback.result.summary['verdict']}")
    print(f"kept {members.sum()}, of which {(members & right).sum()} are right")


if __name__ == "__main__":
    main()
