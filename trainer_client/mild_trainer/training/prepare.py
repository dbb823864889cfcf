"""From settings to the data that is trained on: read, choose, and break labels."""

from mild_trainer import data as datasets
from mild_trainer.data import Dataset, Wanted, download, human_labels, imbalance
from mild_trainer.settings import TrainSettings


def read(settings: TrainSettings) -> Dataset:
    """Return the data set as it lies on the disk, downloaded first where the settings say so.

    Raises
    ------
    DataError
        If it is absent, damaged, or cannot be downloaded.
    """
    if settings.download:
        download.download(settings.dataset, settings.data_dir)
    return datasets.load(settings.dataset, settings.data_dir, Wanted(settings.classes, settings.image_size))


def prepare(settings: TrainSettings, data: Dataset) -> Dataset:
    """Return what is trained on of the data set as read: people's labels first, then a subset, then broken labels.

    Raises
    ------
    DataError
        If people's labels are missing or belong to other images, or the subset is too small.
    """
    if human_labels.is_human(settings.noise):
        data = human_labels.relabelled(data, settings.noise, settings.data_dir)
    if settings.limit:
        data = data.limited(settings.limit, settings.seed)
    data = imbalance.imbalanced(data, settings.imbalance, settings.seed)
    return data.with_noise(settings.noise, settings.seed)
