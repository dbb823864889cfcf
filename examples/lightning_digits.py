"""Lightning: three lines find the wrong labels among handwritten digits, at no extra forward pass.

Needs ``pip install "mild-selection[lightning]" scikit-learn``. `LocalSelector` selects in the process; with a service,
use ``BackgroundBackend("http://localhost:8000")`` in its place.
"""

import logging
import warnings

import lightning
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from mild_client import LocalSelector, RunSpec
from mild_client.callbacks.lightning import MildCallback
from mild_core import bitmap

N_EPOCHS = 25


class Digits(lightning.LightningModule):
    """A small network whose training step returns its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Loss and, for the callback, logits."""
        _, images, labels = batch
        logits = self.model(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    """Train on labels of which a third is wrong, and print how good the clean set is."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*num_workers.*")  # the data is in memory
    lightning.seed_everything(0, verbose=False)
    pixels, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(truth.size) < 0.33, rng.integers(10, size=truth.size), truth)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    # Batches carry the samples' indices: (indices, images, labels).
    data = TensorDataset(torch.arange(labels.size), images, torch.from_numpy(labels))

    backend = LocalSelector()
    backend.open(RunSpec("digits", num_samples=labels.size, forward_pass="train"))
    callback = MildCallback(backend, n_samples=labels.size)
    trainer = lightning.Trainer(
        max_epochs=N_EPOCHS,
        callbacks=[callback],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True))

    assert callback.result is not None, "a fit finishes its round"
    kept, right = bitmap.unpack(callback.result.selected, labels.size), labels == truth
    print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {callback.result.summary['verdict']}")
    print(f"kept {kept.sum()}, of which {(kept & right).sum()} are right")


if __name__ == "__main__":
    main()
