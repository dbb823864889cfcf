"""Extraction of features: runs the images of a data set through a network, batch by batch, into a file."""

import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from mild_client.atomic_write import open_atomically
from mild_client.commands import format_command
from mild_trainer.data import ClassFilter, Dataset, feature_arrays, open_images
from mild_trainer.errors import DataError
from mild_trainer.feature_models import FeatureModel, describe_failure, is_out_of_memory, load_model, pool_features
from mild_trainer.settings import TrainSettings
from mild_trainer.training.engine import choose_device

Channels: TypeAlias = tuple[float, ...]
"""A number for each of red, green and blue."""
DEFAULT_SIDE = 224
"""Height and width of images for networks that say none: what most public ones were trained on."""


def extract_features(
    settings: TrainSettings,
    model_name: str,
    out: Path,
    console: Console,
    batch_size: int = 32,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> None:
    """Write the features of a data set's images, and print what was read and written.

    Images are read, and features written, in batches, so that only published data sets and ``.npz`` files are in memory
    as a whole.

    Parameters
    ----------
    settings
        Data set, classes, limit and seed, as those of a training, device and threads; and the height and width that
        images are brought to, 0 for what the network says, else 224.
    model_name
        The network, as `load_model` takes it.
    out
        The ``.npz`` file to write.
    console
        Where to print.
    batch_size
        Number of images at a time, unless the network says it.
    mean, std
        What images are standardised by, as three numbers of the values 0..1; None for what the network says.

    Raises
    ------
    DataError
        If the data set or the network cannot be read, the network does not take the images, or what it gives are no
        features.
    TrainerError
        If a library that the network needs is not installed.
    ParameterError
        If the device is not available.
    """
    check_feature_path(out)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = torch.device(choose_device(settings.device))
    model = load_model(model_name, device)
    side = settings.image_size or model.side or DEFAULT_SIDE
    source = open_images(settings.dataset, settings.data_dir, ClassFilter(settings.classes, side)).take(
        settings.limit, settings.seed
    )
    data, show = source.data, partial(console.print, highlight=False, soft_wrap=True)
    for note in data.notes:
        show(note)
    preparation = ImagePreparation(
        side, _to_channels(mean or model.mean, device), _to_channels(std or model.std, device)
    )
    n_images = data.n_samples + len(data.y_test)
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=n_images)

        def iter_blocks() -> Iterator[tuple[str, NDArray[np.float32]]]:
            for name, images in source.iter_batches(model.batch_size or batch_size):
                yield name, compute_features(model, preparation, images, model_name)
                progress.advance(task, len(images))

        n_features = write_features(out, data, iter_blocks())
    for note in source.describe_conversions():
        show(note)
    test = f" and {len(data.y_test):,} test" if len(data.y_test) else ""
    command = format_command("mild", "train", "--data-dir", out)
    counts = f"{n_features:,} features of {data.n_samples:,} training{test} images of {side}x{side} pixels"
    show(f"{out}: {counts}. Next: {command}")


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """Brings images to the size that a network takes, and standardises them."""

    side: int
    mean: Tensor
    std: Tensor

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """Return images (n, height, width, 1 or 3) as floats (n, 3, side, side) on the device."""
        values = torch.from_numpy(images).to(self.mean.device).permute(0, 3, 1, 2).float() / 255
        if values.shape[1] not in (1, 3):
            raise DataError(f"images have {values.shape[1]} channels; save them as grey ones or as RGB")
        if values.shape[2:] != (self.side, self.side):
            values = torch.nn.functional.interpolate(values, self.side, mode="bicubic", antialias=True).clamp(0, 1)
        return (values.expand(-1, 3, -1, -1) - self.mean) / self.std


@torch.inference_mode()
def compute_features(
    model: FeatureModel, preparation: ImagePreparation, images: NDArray[np.uint8], name: str
) -> NDArray[np.float32]:
    """Return the features of images, shape (n_images, n_features).

    Networks that take one number of images only get copies of the last one; their features are left out.

    Raises
    ------
    DataError
        If the network does not take the images, or gives no features; `name` is its name in the message.
    """
    n_images = len(images)
    n_rows = max(n_images, model.batch_size or 0)
    shape = (n_rows, 3, preparation.side, preparation.side)
    try:
        prepared = preparation(images)
        if n_images < n_rows:
            prepared = torch.cat([prepared, prepared[-1:].expand(n_rows - n_images, -1, -1, -1)])
        outputs = model.compute(prepared)
    except DataError:
        raise
    except Exception as error:  # libraries and own networks raise anything
        if is_out_of_memory(error):
            problem, remedy = "has not enough memory for", "give a smaller --batch-size or --image-size"
        elif model.side == preparation.side:
            problem, remedy = "fails on", "that is the size that it names, so look for the cause in the network"
        else:
            problem, remedy = "does not take", "give the --image-size that it was made for"
        reason = describe_failure(error)
        raise DataError(f"--model {name} {problem} images of shape {shape} ({reason}); {remedy}") from error
    try:
        features: NDArray[np.float32] = pool_features(outputs).cpu().numpy()
    except DataError:
        raise
    except Exception as error:  # sparse, quantised and meta tensors each raise errors of their own
        raise DataError(
            f"--model {name} gives what is no dense array ({describe_failure(error)}); make it return a dense tensor"
        ) from error
    if len(features) != n_rows:
        raise DataError(f"--model {name} gives {len(features)} rows for {n_rows} images; make it return one for each")
    return features[:n_images]


def _to_channels(values: Channels, device: torch.device) -> Tensor:
    """Return a number for each channel as a tensor that broadcasts over images."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def parse_channels(option: str, text: str | None, low: float = -math.inf) -> Channels | None:
    """Return one number, or three with commas between them, all above `low`, as three; None for None.

    Raises
    ------
    DataError
        If the text is something else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3) or not all(low < value < math.inf for value in values):
        limit = "" if low == -math.inf else f" above {low:g}"
        raise DataError(
            f"{option} is {text!r}; give one number{limit}, or one for red, green and blue: 0.485,0.456,0.406"
        )
    return values * (3 // len(values))


def check_feature_path(path: Path) -> None:
    """Raise DataError if no file of features can be written at `path`."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"--out {path} ends in {path.suffix!r}; give a file that ends in .npz")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise DataError(f"--out {path} {problem}; give a file in a folder that exists")


def write_features(path: Path, data: Dataset, blocks: Iterable[tuple[str, NDArray[Any]]]) -> int:
    """Write an ``.npz`` file of features, which replaces that at `path` once it is complete.

    Parameters
    ----------
    path
        The file.
    data
        The data set, whose labels, names and ids are written; of its samples only the number counts.
    blocks
        Name of the array, ``x_train`` or ``x_test``, and features, shape (n_rows, n_features), for one block of rows
        after the other; those of an array follow each other.

    Returns
    -------
    n_features
        Number of features.
    """
    n_features = 0
    with open_atomically(path) as target, zipfile.ZipFile(target, "w") as archive:
        for name, group in groupby(blocks, key=itemgetter(0)):
            n_samples, n_written = len(getattr(data, name)), 0
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                for _, block in group:
                    rows = np.ascontiguousarray(block, dtype="<f4")
                    feature_arrays.check_finite(name, rows, n_written)
                    if n_features not in (0, rows.shape[1]):
                        raise DataError(
                            f"{name}[{n_written}] has {rows.shape[1]} features, and rows before it have {n_features}; "
                            "give all as many (--image-size, where a network takes any)"
                        )
                    n_features = rows.shape[1]
                    if not n_written:
                        header = {"descr": "<f4", "fortran_order": False, "shape": (n_samples, n_features)}
                        npy.write_array_header_1_0(file, header)
                    file.write(rows.data)
                    n_written += len(rows)
        for name, array in _list_labels(data).items():
            with archive.open(f"{name}.npy", "w") as file:
                npy.write_array(file, array, allow_pickle=False)
    return n_features


def _list_labels(data: Dataset) -> dict[str, NDArray[Any]]:
    """Return what is known of the samples and the classes, by the names of the arrays in the file."""
    arrays = {
        "y_train": data.y_train,
        "y_test": data.y_test if len(data.y_test) else None,
        "y_train_clean": data.y_train_clean,
        "ids": data.sample_ids,
        "class_names": np.array(data.class_names) if data.class_names else None,
    }
    return {name: array for name, array in arrays.items() if array is not None}
