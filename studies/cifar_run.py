"""Records a real CIFAR-10 training in a service, with its prediction logs, for the pictures of the dashboard.

usage: python -m studies.cifar_run --data-dir DIR --url http://localhost:8000 [--run-id cifar10] [--images FOLDER]
           [--clean FILE.npy]

Trains a ResNet-8 over rounds as `mild train` does, and posts predictions instead of bits, so that classes are
suggested. ``--images`` writes every sample's picture to ``FOLDER/<id>.png``, ``--clean`` the mask of the right labels,
by which `studies.screenshots` answers an audit.
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


def list_sample_ids(data: Dataset) -> list[str]:
    """List an id for each sample, with the name of its given label."""
    return [f"{NAMES[label]}-{index:05d}" for index, label in enumerate(data.y_train)]


def record_run(client: MildClient, run_id: str, settings: TrainSettings, data: Dataset) -> None:
    """Train, post the predictions of every epoch, and take the members of the next round from the service."""
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
        client.put_sample_ids(run_id, list_sample_ids(data))
        planted = trainer.draw_planted_labels()
        assert planted is not None, "the settings plant some"
        run.put_planted(planted.planted)
        trainer.use_planted_labels(planted)
        members = bitmap.full(data.n_samples)
        for number in range(settings.rounds):
            trainer.initialise_round(number)
            labels = data.y_train if number else planted.labels
            for epoch in range(settings.epochs):
                record, _ = trainer.run_epoch(number, epoch, members)
                run.log_predictions(epoch, everyone, trainer.predict_labels(), labels, complete=True)
                run.put_metrics(epoch, record.to_metrics())
                accuracies = f"{record.train_accuracy:.3f} {record.test_accuracy:.3f}"
                print(f"round {number} epoch {epoch}: {accuracies}", flush=True)
            run.finish()
            members = bitmap.pack(run.selected(number))


def write_images(folder: Path, data: Dataset) -> None:
    """Write every sample's picture, named by its id."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(list_sample_ids(data), data.x_train, strict=True):
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
    options = parser.parse_args(argv)
    settings = TrainSettings.for_dataset(
        "cifar10", model="resnet8", noise=options.noise, epochs=options.epochs, rounds=options.rounds, seed=options.seed
    )
    data = datasets.load("cifar10", options.data_dir).take_balanced(options.limit, options.seed)
    data = data.with_noise(options.noise, options.seed)
    if options.images is not None:
        write_images(options.images, data)
    if options.clean is not None and data.clean is not None:
        np.save(options.clean, data.clean)
    with MildClient(options.url) as client:
        record_run(client, options.run_id, settings, data)


if __name__ == "__main__":
    main()
