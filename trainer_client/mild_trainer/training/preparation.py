"""Preparation of the training data: reads the data set, takes a subset, and applies label noise."""

from mild_trainer import data as datasets
from mild_trainer.data import ClassFilter, Dataset, download, imbalance, label_files
from mild_trainer.settings import TrainSettings


def read_dataset(settings: TrainSettings) -> Dataset:
    """Read the data set that the settings name; with `settings.download`, download it first."""
    if settings.download:
        download.download_dataset(settings.dataset, settings.data_dir)
    return datasets.load(settings.dataset, settings.data_dir, ClassFilter(settings.classes, settings.image_size))


def prepare_dataset(settings: TrainSettings, data: Dataset) -> Dataset:
    """Return the data set that a training uses: with human labels, a subset, and label noise, as the settings say."""
    if settings.labels is not None:
        data = label_files.replace_labels(data, str(settings.labels), is_noise=False)
    if (path := label_files.find_noisy_labels(settings.noise, settings.data_dir)) is not None:
        data = label_files.replace_labels(data, path, is_noise=True)
    if settings.limit:
        data = data.take_balanced(settings.limit, settings.seed)
    data = imbalance.make_imbalanced(data, settings.imbalance, settings.seed)
    return data.with_noise(settings.noise, settings.seed)
