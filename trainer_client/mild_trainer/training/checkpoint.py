"""Checkpoints, from which an interrupted training resumes.

The order of the samples, the crops and a round's initial weights are drawn from seeds that are functions of (seed,
round, epoch), and the learning rate is a function of the step: the position determines them, and no scheduler state is
stored. Torch's random state is stored for models that draw from it, such as those with dropout. So a training resumes
bit for bit, on the CPU and, with ``deterministic``, on a GPU.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mild_client import Position
from mild_client.atomic_write import replace_atomically, write_atomically
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
_CHANGEABLE_SETTINGS = frozenset(
    {
        "rounds",
        "finish",
        "finish_epochs",
        "ema",
        "oracle",
        "agree",
        "patience",
        "device",
        "compile",
        "threads",
        "data_on",
        "checkpoint_every",
        "download",
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """State of a training before the epoch at `position`.

    Attributes
    ----------
    run_id
        The run's id at the backend.
    is_local
        Whether the backend selects in the training process, rather than a service.
    position
        The next epoch; after the last epoch of a round, the selection of its clean set is next.
    rounds
        Records of the finished rounds.
    epochs
        Records of the open round's finished epochs.
    held_out_agreement
        The agreement of the given labels with held-out predictions; None if it was not measured.
    model_state, optimiser_state
        State dictionaries of the network and of the optimiser.
    weights
        Shape (n_samples,), weights of the samples' losses in the open round; None where all weights are equal.
    planted_labels
        The labels of round 0; None if none was broken on purpose.
    class_bias
        Shape (n_classes,), the bias of each class in the recorded bits; None if no class prior is declared.
    data
        What `describe_data` says of the training's data.
    random_state
        State of torch's random generators, by device type.
    """

    run_id: str
    is_local: bool
    position: Position
    rounds: tuple[RoundRecord, ...]
    epochs: tuple[EpochRecord, ...]
    held_out_agreement: HeldOutAgreement | None
    model_state: dict[str, Any]
    optimiser_state: dict[str, Any]
    weights: NDArray[np.float32] | None = None
    planted_labels: PlantedLabels | None = None
    class_bias: NDArray[np.float32] | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    random_state: dict[str, Tensor] = field(default_factory=lambda: get_random_state())


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


def set_random_state(state: dict[str, Tensor]) -> None:
    """Set torch's random generators to a `state` that `get_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save_checkpoint(folder: Path, settings: TrainSettings, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` and the settings to ``checkpoint.pt`` in `folder`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(
        {
            "settings": json.dumps(settings.as_json()),
            "run_id": checkpoint.run_id,
            "local": checkpoint.is_local,
            "position": dataclasses.asdict(checkpoint.position),
            "rounds": json.dumps([record.to_json() for record in checkpoint.rounds]),
            "epochs": json.dumps([dataclasses.asdict(record) for record in checkpoint.epochs]),
            "verified": None
            if checkpoint.held_out_agreement is None
            else dataclasses.asdict(checkpoint.held_out_agreement),
            "model": checkpoint.model_state,
            "optimiser": checkpoint.optimiser_state,
            "weights": None if checkpoint.weights is None else torch.from_numpy(checkpoint.weights),
            "class_bias": None if checkpoint.class_bias is None else torch.from_numpy(checkpoint.class_bias),
            "planting": _to_tensors(checkpoint.planted_labels),
            "data": dict(checkpoint.data),
            "random": checkpoint.random_state,
        },
        content,
    )
    write_atomically(folder / _FILE_NAME, content.getvalue())


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the weights of a network to ``model.safetensors`` in `folder`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    part.unlink(missing_ok=True)
    part.touch()
    default_mode = part.stat().st_mode
    safetensors.torch.save_model(model, str(part))
    part.chmod(default_mode)  # safetensors writes a file that only its owner can read
    replace_atomically(part, folder / "model.safetensors")


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
    stored_settings = TrainSettings.for_dataset(settings.dataset).as_json() | json.loads(stored["settings"])
    changeable = _CHANGEABLE_SETTINGS - _HARDWARE_SETTINGS if settings.deterministic else _CHANGEABLE_SETTINGS
    for name in sorted(set(current_settings) - changeable):
        if stored_settings[name] != current_settings[name]:
            raise CheckpointError(
                f"{path} was written with {name} {stored_settings[name]}, got {current_settings[name]}; "
                "resume with the same settings"
            )
    return Checkpoint(
        run_id=stored["run_id"],
        is_local=stored["local"],
        position=Position(**stored["position"]),
        rounds=tuple(RoundRecord.from_json(record) for record in json.loads(stored["rounds"])),
        epochs=tuple(EpochRecord(**record) for record in json.loads(stored["epochs"])),
        held_out_agreement=None if stored["verified"] is None else HeldOutAgreement(**stored["verified"]),
        model_state=stored["model"],
        optimiser_state=stored["optimiser"],
        weights=None if stored["weights"] is None else stored["weights"].numpy(),
        planted_labels=None
        if stored["planting"] is None
        else PlantedLabels(*(part.numpy() for part in stored["planting"])),
        class_bias=None if stored["class_bias"] is None else stored["class_bias"].numpy(),
        data=stored["data"],
        random_state=stored["random"],
    )


def _to_tensors(planted_labels: PlantedLabels | None) -> list[Tensor] | None:
    """Convert the labels and the bitmap of planted samples to tensors, which torch stores without pickling."""
    if planted_labels is None:
        return None
    return [torch.tensor(planted_labels.labels), torch.tensor(planted_labels.planted)]
