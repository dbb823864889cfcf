"""Preparation of the training data: reading, choosing a subset, and applying label noise."""

from mild_trainer import data as datasets
from mild_trainer.data import ClassFilter, Dataset, download, human_labels, imbalance
from mild_trainer.settings import TrainSettings


def read_dataset(settings: TrainSettings) -> Dataset:
    """Read the data set of the settings, after downloading it if they say so.

    Raises
    ------
    DataError
        If it is absent, damaged, or cannot be downloaded.
    """
    if settings.download:
        download.download(settings.dataset, settings.data_dir)
    return datasets.load(settings.dataset, settings.data_dir, ClassFilter(settings.classes, settings.image_size))


def prepare_dataset(settings: TrainSettings, data: Dataset) -> Dataset:
    """Apply human labels, choose the subset, and apply label noise, in this order.

    Raises
    ------
    DataError
        If human labels are missing or belong to other images, or the subset is too small.
    """
    if human_labels.is_human_noise(settings.noise):
        data = human_labels.apply_human_labels(data, settings.noise, settings.data_dir)
    if settings.limit:
        data = data.take_balanced(settings.limit, settings.seed)
    data = imbalance.make_imbalanced(data, settings.imbalance, settings.seed)
    return data.with_noise(settings.noise, settings.seed)
