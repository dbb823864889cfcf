"""Accelerate: the tracker in a loop that runs on any number of devices; no callback is needed.

Needs ``pip install "mild-selection[transformers]" scikit-learn``; ``accelerate launch examples/accelerate_digits.py``.
Samples that Accelerate repeats to fill the last batch count once: the bits are merged, not added up.
"""

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mild_client import CorrectnessTracker, LocalSelector, RunSpec
from mild_core import bitmap

N_EPOCHS = 25


def main() -> None:
    """Train on labels of which a third is wrong, and print how good the clean set is."""
    torch.manual_seed(0)
    pixels, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(truth.size) < 0.33, rng.integers(10, size=truth.size), truth)
    images = torch.tensor(pixels / 16, dtype=torch.float32)
    data = TensorDataset(torch.arange(labels.size), images, torch.from_numpy(labels))

    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model, optimiser, loader = accelerator.prepare(model, optimiser, loader)

    backend = LocalSelector()
    backend.open(RunSpec("digits", num_samples=labels.size, forward_pass="train"))
    # One process puts the bits; with several, the tracker merges theirs first.
    tracker = CorrectnessTracker(labels.size, accelerator.device, run=backend if accelerator.is_main_process else None)
    for _ in range(N_EPOCHS):
        for indices, x, y in loader:
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimiser.zero_grad()
            accelerator.backward(loss)
            optimiser.step()
            tracker.update(indices, logits, y)
        tracker.end_epoch()

    if accelerator.is_main_process:
        result = backend.finish(0)
        kept, right = bitmap.unpack(result.selected, labels.size), labels == truth
        print(f"{(~right).sum()} of {labels.size} labels are wrong; verdict: {result.summary['verdict']}")
        print(f"kept {kept.sum()}, of which {(kept & right).sum()} are right")


if __name__ == "__main__":
    main()
