"""Hugging Face's Trainer: a small vision transformer on handwritten digits, a third of whose labels is wrong.

Needs ``pip install "mild-selection[transformers]" scikit-learn``; the network is made here, nothing is downloaded.
`LocalSelector` selects in the process; with a service, use ``BackgroundBackend("http://localhost:8000")`` in its place.
"""

import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed
from transformers.utils import logging

from mild_client import LocalSelector, RunSpec
from mild_client.callbacks.transformers import attach
from mild_core import bitmap

N_EPOCHS = 25


def main() -> None:
    """Train on labels of which a third is wrong, and print how good the clean set is."""
    logging.set_verbosity_error()
    set_seed(0)
    pixels, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(truth.size) < 0.33, rng.integers(10, size=truth.size), truth)
    images = torch.tensor(pixels / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8)
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]

    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_labels=10,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=N_EPOCHS,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=512,
            learning_rate=3e-3,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        backend = LocalSelector()
        backend.open(RunSpec("digits", num_samples=labels.size, forward_pass="eval"))
        callback = attach(trainer, backend)
        trainer.train()

    assert callback.result is not None, "a training finishes its round"
    kept, right = bitmap.unpack(callback.result.selected, labels.size), labels == truth
    print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {callback.result.summary['verdict']}")
    print(f"kept {kept.sum()}, of which {(kept & right).sum()} are right")


if __name__ == "__main__":
    main()
