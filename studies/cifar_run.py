"""A real CIFAR-10 training in a service, with its prediction logs: what the dashboard's pictures show.

usage: python -m studies.cifar_run --data-dir DIR --url http://localhost:8000 [--run-id cifar10] [--images FOLDER]
           [--clean FILE.npy]

Trains a ResNet-8 over rounds as `mild train` does, and posts what it predicts instead of bits, so that classes are
suggested. With ``--images`` every sample's picture is written to ``FOLDER/<id>.png``, with ``--clean`` the mask of the
right labels, with which `studies.screenshots` answers an audit.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import image

from mild_client import MildClient
from mild_core import bitmap
from mild_trainer import data as datasets
from mild_trainer.data import Dataset
from mild_trainer.settings import TrainSettings
from mild_trainer.training.trainer import Trainer

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def sample_ids(data: Dataset) -> list[str]:
    """A name for every sample, after its given label's folder."""
    return [f"{NAMES[label]}-{index:05d}" for index, label in enumerate(data.y_train)]


def record(client: MildClient, run_id: str, settings: TrainSettings, data: Dataset) -> None:
    """Train, post every epoch's predictions, and let the service decide whom the next round trains on."""
    trainer = Trainer(settings, data)
    everyone = np.arange(data.n_samples)
    tags = {"dataset": data.name, "model": settings.model, "noise": settings.noise}
    with client.run(
        run_id,
        num_samples=data.n_samples,
        num_classes=data.n_classes,
        expected_epochs=settings.epochs,
        expected_rounds=settings.rounds,
        tags=tags,
    ) as run:
        client.put_labels(run_id, data.y_train)
        client.put_sample_ids(run_id, sample_ids(data))
        planted = trainer.draw_planted_labels()
        assert planted is not None, "the settings plant some"
        run.put_planted(planted.planted)
        trainer.use_planted_labels(planted)
        members = bitmap.full(data.n_samples)
        for number in range(settings.rounds):
            trainer.initialise_round(number)
            labels = data.y_train if number else planted.labels
            for epoch in range(settings.epochs):
                told, _ = trainer.run_epoch(number, epoch, members)
                run.log_predictions(epoch, everyone, trainer.predict_labels(), labels, complete=True)
                run.put_metrics(epoch, told.to_metrics())
                print(f"round {number} epoch {epoch}: {told.train_accuracy:.3f} {told.test_accuracy:.3f}", flush=True)
            run.finish()
            members = bitmap.pack(run.selected(number))


def write_images(folder: Path, data: Dataset) -> None:
    """Every sample's picture, by its id."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(sample_ids(data), data.x_train, strict=True):
        image.imsave(folder / f"{name}.png", pixels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--run-id", default="cifar10")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--clean", type=Path)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--noise", default="symmetric:0.4")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    settings = TrainSettings.for_dataset(
        "cifar10", model="resnet8", noise=given.noise, epochs=given.epochs, rounds=given.rounds, seed=given.seed
    )
    data = (
        datasets.load("cifar10", given.data_dir)
        .take_balanced(given.limit, given.seed)
        .with_noise(given.noise, given.seed)
    )
    if given.images is not None:
        write_images(given.images, data)
    if given.clean is not None and data.clean is not None:
        np.save(given.clean, data.clean)
    with MildClient(given.url) as client:
        record(client, given.run_id, settings, data)


if __name__ == "__main__":
    main()
