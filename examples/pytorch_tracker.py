"""The tracker in a plain PyTorch loop: find the wrong labels among handwritten digits, with no server.

Run it with ``python examples/pytorch_tracker.py``. To use a running service instead, leave `run` out of the tracker,
train within ``with MildClient("http://localhost:8000") as client, client.run("digits", num_samples=…) as run:``, send
each epoch with ``run.put_epoch(tracker.end_epoch())``, and end with ``run.finish()``.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mild_client import CorrectnessTracker, LocalSelector, RunSpec
from mild_core import bitmap

N_EPOCHS = 30


def main() -> None:
    """Train on labels of which about 30% are wrong, and print how good the clean set is."""
    torch.manual_seed(0)
    pixels, truth = load_digits(return_X_y=True)
    images, true_labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(truth)
    labels = torch.where(torch.rand(len(truth)) < 0.33, torch.randint(10, (len(truth),)), true_labels)
    loader = DataLoader(TensorDataset(torch.arange(len(labels)), images, labels), batch_size=64, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    run = LocalSelector()
    run.open(RunSpec("digits", num_samples=len(labels), forward_pass="train"))
    tracker = CorrectnessTracker(len(labels), run=run)  # 1: once

    for _ in range(N_EPOCHS):
        for indices, x, y in loader:
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tracker.update(indices, logits, y)  # 2: every batch
        tracker.end_epoch()  # 3: every epoch

    result = run.finish(0)
    kept = torch.from_numpy(bitmap.unpack(result.selected, len(labels)))
    clean = labels == true_labels
    print(f"{int((~clean).sum())} of {len(labels)} labels are wrong; verdict: {result.summary['verdict']}")
    print(f"kept {int(kept.sum())}, of which {int((kept & clean).sum())} are right")


if __name__ == "__main__":
    main()
