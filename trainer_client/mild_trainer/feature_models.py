"""Networks that turn images into features: torch modules and files, ONNX files and folders of transformers.

All take RGB images as float32 of shape (n_images, 3, side, side), standardised by means and standard deviations of the
values 0..1. They are read from this machine; nothing is downloaded.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mild_trainer.errors import DataError, TrainerError
from mild_trainer.settings import MODEL_FORMS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the values 0..1 of red, green and blue in ImageNet, by which most public networks standardise images."""
_TORCH_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")


@dataclass(frozen=True, slots=True)
class FeatureModel:
    """A network, and what it says of the images that it takes.

    Attributes
    ----------
    compute
        Maps images on the device, shape (n_images, 3, side, side), to features of any shape (n_images, …).
    side
        Height and width of the images; None if it does not say.
    batch_size
        Number of images at a time; None if it takes any.
    mean, std
        Of red, green and blue, by which images are standardised.
    """

    compute: Callable[[Tensor], Any]
    side: int | None = None
    batch_size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def load_model(model: str, device: torch.device) -> FeatureModel:
    """Load a network by its name.

    Parameters
    ----------
    model
        One of `MODEL_FORMS`.
    device
        Where to compute; ONNX files choose for themselves.
    """
    path = Path(model)
    if path.is_dir():
        return _load_transformers(path, device)
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix == ".onnx":
            return _load_onnx(path)
        if suffix == ".pt2":
            return _load_exported(path, device)
        if suffix in _TORCH_SUFFIXES:
            return FeatureModel(_to_device(_call_loader(path, lambda: _load_torchscript(path)), device))
    elif ":" in model:
        return FeatureModel(_to_device(_call_function(model), device))
    raise DataError(f"--model {model} is {'no model file' if path.exists() else 'not there'}; give {MODEL_FORMS}")


def pool_features(outputs: Any) -> Tensor:
    """Return the output of a network as features, shape (n_images, n_features), float32.

    Of several outputs the first is taken. Maps (n_images, n_features, height, width) and tokens (n_images, n_tokens,
    n_features) become their means over positions.
    """
    while isinstance(outputs, Mapping | tuple | list):
        outputs = next(iter(outputs.values() if isinstance(outputs, Mapping) else outputs), None)
    if isinstance(outputs, Tensor) and not outputs.is_complex():
        outputs = outputs.float()
        if outputs.ndim == 4:
            outputs = outputs.mean(dim=(2, 3))
        elif outputs.ndim == 3:
            outputs = outputs.mean(dim=1)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.shape[1] or outputs.is_complex():
        is_tensor = isinstance(outputs, Tensor)
        there = f"{outputs.dtype} of shape {tuple(outputs.shape)}" if is_tensor else type(outputs).__name__
        raise DataError(f"--model gives {there}; make it return real features of shape (n_images, n_features)")
    return outputs


def require_library(name: str, model: object, remedy: str) -> Any:
    """Import a library that a network needs; raise TrainerError if it is not installed."""
    if find_spec(name) is None:
        raise TrainerError(f"--model {model} needs {name}, which is not installed; {remedy}")
    return importlib.import_module(name)


def _call_loader(model: object, load: Callable[[], Any]) -> Any:
    """Return what `load` returns; raise DataError if it fails in any way, as libraries and own functions do."""
    try:
        return load()
    except Exception as error:
        raise DataError(f"--model {model} cannot be loaded ({describe_failure(error)}); give {MODEL_FORMS}") from error


def describe_failure(error: Exception) -> str:
    """Return the first line of an error of a library or of somebody's own function."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason is given"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory is short, of the machine or of a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _call_function(model: str) -> Any:
    """Return the network that MODULE:FUNCTION returns; modules are looked for in the current folder, too."""
    module_name, _, function_name = model.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    function = getattr(_call_loader(model, lambda: importlib.import_module(module_name)), function_name, None)
    if function is None:
        raise DataError(f"--model {model}: {module_name} has no function {function_name!r}; give {MODEL_FORMS}")
    if isinstance(function, nn.Module) or not callable(function):
        kind = type(function).__name__
        raise DataError(f"--model {model} is no function but {kind}; name a function that returns a torch module")
    network = _call_loader(model, function)
    if isinstance(network, type) or not callable(network):
        kind = f"the class {network.__name__}" if isinstance(network, type) else type(network).__name__
        raise DataError(f"--model {model} returns {kind}; make it return a torch module")
    return network


def _load_torchscript(path: Path) -> Any:
    """Load a file of TorchScript, which torch has deprecated and still reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(path, "cpu")  # type: ignore[no-untyped-call]  # torch


def _to_device(network: Any, device: torch.device) -> Any:
    """Return the network on the device, for inference; what is no torch module is returned as it is."""
    return network.eval().to(device) if isinstance(network, nn.Module) else network


def _load_exported(path: Path, device: torch.device) -> FeatureModel:
    """Load a file of ``torch.export.save``."""
    from torch.export import load, passes

    program = passes.move_to_device_pass(_call_loader(path, lambda: load(path)), device)
    shape = next(
        (node.meta["val"].shape for node in program.graph.nodes if node.name in program.graph_signature.user_inputs), ()
    )
    return FeatureModel(program.module(), *_get_fixed_sizes(shape))


def _load_onnx(path: Path) -> FeatureModel:
    """Load an ONNX file, of which the first output is taken."""
    runtime = require_library("onnxruntime", path, "pip install 'mild-selection[onnx]'")
    session = _call_loader(
        path, lambda: runtime.InferenceSession(str(path), providers=runtime.get_available_providers())
    )
    entry, *others = session.get_inputs()
    if others:
        raise DataError(f"--model {path} takes {1 + len(others)} inputs; give a network that takes images alone")
    dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
    is_channels_last = len(entry.shape) == 4 and entry.shape[3] == 3
    shape = [entry.shape[axis] for axis in (0, 3, 1, 2)] if is_channels_last else entry.shape

    def compute(images: Tensor) -> Tensor:
        values: NDArray[Any] = images.cpu().numpy().astype(dtype)
        values = np.ascontiguousarray(values.transpose(0, 2, 3, 1)) if is_channels_last else values
        return torch.from_numpy(session.run(None, {entry.name: values})[0])

    return FeatureModel(compute, *_get_fixed_sizes(shape))


def _get_fixed_sizes(shape: Any) -> tuple[int | None, int | None]:
    """Return side and number of the images that a network of input (n_images, 3, side, side) takes; None for any."""
    n_images, side = (shape[0], shape[2]) if len(shape) == 4 else (None, None)
    return side if type(side) is int else None, n_images if type(n_images) is int else None


def _load_transformers(folder: Path, device: torch.device) -> FeatureModel:
    """Load a folder that ``save_pretrained`` of transformers wrote, with the image processor's settings beside it."""
    remedy = "pip install 'mild-selection[transformers]'"
    transformers = require_library("transformers", folder, remedy)
    network = _call_loader(folder, lambda: transformers.AutoModel.from_pretrained(folder, local_files_only=True))
    network = _to_device(network, device)

    def compute(images: Tensor) -> Any:
        if hasattr(network, "get_image_features"):
            outputs = network.get_image_features(pixel_values=images)
            return getattr(outputs, "pooler_output", outputs)
        return network(pixel_values=images).last_hidden_state

    path = folder / "preprocessor_config.json"
    settings = _call_loader(path, lambda: json.loads(path.read_text())) if path.exists() else {}
    size = settings.get("crop_size" if settings.get("do_center_crop") else "size")
    if isinstance(size, Mapping):
        size = size.get("height", size.get("shortest_edge"))
    return FeatureModel(
        compute,
        size if type(size) is int else None,
        mean=tuple(settings.get("image_mean", IMAGENET_MEAN)),
        std=tuple(settings.get("image_std", IMAGENET_STD)),
    )
