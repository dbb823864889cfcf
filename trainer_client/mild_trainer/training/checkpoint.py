"""Checkpoints, from which an interrupted training resumes.

The order of the samples, the crops and a round's initial weights are drawn from seeds that are functions of (seed,
round, epoch), and the learning rate is a function of the step: the position determines them, and no scheduler state is
stored. Torch's random state is stored for models that draw from it, such as those with dropout. So a training resumes
bit for bit, on the CPU and, with ``deterministic``, on a GPU.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mild_client import Position
from mild_client.atomic_write import open_atomically, write_atomically
from mild_core.agreement import HeldOutAgreement
from mild_trainer.data import Dataset
from mild_trainer.errors import CheckpointError
from mild_trainer.planting import PlantedLabels
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord, RoundRecord

_FILE_NAME = "checkpoint.pt"

# Settings that change the last bits: they may change on resuming only without `deterministic`.
_HARDWARE_SETTINGS = frozenset({"device", "compile", "threads"})
# Settings that do not change the result of the rounds up to the checkpoint: they may change on resuming.
_CHANGEABLE_SETTINGS = frozenset(each.name for each in fields(TrainSettings) if each.metadata.get("changeable"))


@dataclass(slots=True, eq=False)
class Checkpoint:
    """State of a training before the epoch at `position`, which the training changes in place.

    Attributes
    ----------
    run_id
        The run's id at the backend.
    is_local
        Whether the backend selects in the training process, rather than a service.
    data
        What `describe_data` says of the training's data.
    rounds
        Records of the finished rounds.
    epochs
        Records of the open round's finished epochs.
    held_out_agreement
        The agreement of the given labels with held-out predictions; None if it was not measured.
    weights
        Shape (n_samples,), weights of the samples' losses in the open round; None where all weights are equal.
    planted_labels
        The labels of round 0; None if none was broken on purpose.
    model_state, optimiser_state
        State dictionaries of the network and of the optimiser; empty unless in a file, as are the following two.
    class_bias
        Shape (n_classes,), the bias of each class in the recorded bits; None if no class prior is declared.
    random_state
        State of torch's random generators, by device type.
    """

    run_id: str
    is_local: bool
    data: Mapping[str, str]
    rounds: list[RoundRecord] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    held_out_agreement: HeldOutAgreement | None = None
    weights: NDArray[np.float32] | None = None
    planted_labels: PlantedLabels | None = None
    model_state: Mapping[str, Any] = field(default_factory=dict)
    optimiser_state: Mapping[str, Any] = field(default_factory=dict)
    class_bias: NDArray[np.float32] | None = None
    random_state: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        """The next epoch; after the last epoch of a round, the selection of its clean set is next."""
        return Position(len(self.rounds), len(self.epochs))


def describe_data(data: Dataset) -> dict[str, str]:
    """Return the number of training samples, and digests of what must not change between them and the labels."""
    ids = data.sample_ids
    return {
        "number of training samples": str(data.n_samples),
        "names of samples": "none" if ids is None else _digest("\n".join(ids.tolist()).encode()),
        "names of classes": _digest("\n".join(data.class_names).encode()) if data.class_names else "none",
        "given labels": _digest(data.y_train.astype("<i8").tobytes()),
        "true labels": "none" if data.y_train_clean is None else _digest(data.y_train_clean.astype("<i8").tobytes()),
    }


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def check_data(checkpoint: Checkpoint, data: Dataset, folder: Path) -> None:
    """Raise CheckpointError if the data are not those with which the checkpoint in `folder` was written."""
    current = describe_data(data)
    for name, stored in checkpoint.data.items():
        if current.get(name) != stored:
            raise CheckpointError(
                f"{folder / _FILE_NAME} was written with {name} {stored}, and {data.name} now has {current.get(name)}; "
                "resume with the data and the file of labels as they were, or give another --out to start anew"
            )


def get_random_state() -> dict[str, Tensor]:
    """Return the state of torch's random generators on the CPU and, if available, on the current GPU."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Set torch's random generators to a `state` that `get_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_checkpoint(folder: Path, settings: TrainSettings, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` and the settings to ``checkpoint.pt`` in `folder`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    agreement, planted = checkpoint.held_out_agreement, checkpoint.planted_labels
    content = {
        **{each.name: getattr(checkpoint, each.name) for each in fields(checkpoint)},
        "settings": settings.as_json(),
        "rounds": [record.to_json() for record in checkpoint.rounds],
        "epochs": list(map(asdict, checkpoint.epochs)),
        "held_out_agreement": agreement and asdict(agreement),
        "planted_labels": planted and [_to_tensor(planted.labels), _to_tensor(planted.planted)],
        "weights": _to_tensor(checkpoint.weights),
        "class_bias": _to_tensor(checkpoint.class_bias),
    }
    with open_atomically(folder / _FILE_NAME) as file:
        torch.save(content, file)


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the weights of a network to ``model.safetensors`` in `folder`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(folder / "model.safetensors", safetensors.torch.save(weights))


def load_checkpoint(folder: Path, settings: TrainSettings) -> Checkpoint:
    """Return the checkpoint in `folder`, with its tensors on the CPU.

    Parameters
    ----------
    folder
        The folder that was passed to `save_checkpoint`.
    settings
        Settings of the training that resumes.
    """
    path = folder / _FILE_NAME
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; leave out --resume to start anew")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise CheckpointError(f"{path} is damaged ({error}); leave out --resume to start anew") from error
    current_settings = settings.as_json()
    # A setting that came after the checkpoint was written had its default then.
    stored_settings = TrainSettings.for_dataset(settings.dataset).as_json() | stored.pop("settings")
    changeable = _CHANGEABLE_SETTINGS - _HARDWARE_SETTINGS if settings.deterministic else _CHANGEABLE_SETTINGS
    for name in sorted(set(current_settings) - changeable):
        if stored_settings[name] != current_settings[name]:
            raise CheckpointError(
                f"{path} was written with {name} {stored_settings[name]}, got {current_settings[name]}; "
                "resume with the same settings"
            )
    agreement, planted = stored["held_out_agreement"], stored["planted_labels"]
    values = {
        "rounds": list(map(RoundRecord.from_json, stored["rounds"])),
        "epochs": [EpochRecord(**record) for record in stored["epochs"]],
        "held_out_agreement": agreement and HeldOutAgreement(**agreement),
        "planted_labels": planted and PlantedLabels(*map(_to_array, planted)),
        "weights": _to_array(stored["weights"]),
        "class_bias": _to_array(stored["class_bias"]),
    }
    return Checkpoint(**{**stored, **values})


def _to_tensor(array: NDArray[Any] | None) -> Tensor | None:
    """Convert an array to a tensor, which torch stores without pickling."""
    return None if array is None else torch.tensor(array)


def _to_array(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.numpy()
