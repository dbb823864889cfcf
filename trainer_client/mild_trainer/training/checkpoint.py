"""Checkpoints: where an interrupted training goes on.

The order of the samples, the crops and a round's fresh weights are drawn from seeds that are functions of (seed, round,
epoch), and the learning rate is a function of the step: so the position stands for them, and there is no scheduler to
keep. Torch's own random state is kept for a model that draws from it, such as one with dropout. So a training goes on
bit for bit, on the CPU and, with ``deterministic``, on a GPU.
"""

import dataclasses
import io
import json
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
from mild_trainer.errors import CheckpointError
from mild_trainer.planting import Planting
from mild_trainer.settings import TrainSettings
from mild_trainer.training.history import EpochRecord, RoundRecord

_NAME = "checkpoint.pt"

# These change the last bits, so they are free only where nobody has asked for the same bits.
_MACHINE = frozenset({"device", "compile", "threads"})
# These do not change what is computed up to a given round, so a training may go on with other values.
_FREE = frozenset(
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
        The run's name at the backend.
    local
        Whether the backend selects in the training process, rather than a service.
    position
        The epoch to go on with; one past a round's last where only its selection is left to be made.
    rounds
        Finished rounds.
    epochs
        Epochs of the open round that are done.
    verified
        The held-out agreement, where it was asked for.
    model, optimiser
        Their state dictionaries.
    weights
        Shape (n_samples,), of the open round's loss; None where the clean set is trained on.
    planting
        The labels of round 0, where some were broken on purpose.
    random
        Torch's random state by device type.
    """

    run_id: str
    local: bool
    position: Position
    rounds: tuple[RoundRecord, ...]
    epochs: tuple[EpochRecord, ...]
    verified: HeldOutAgreement | None
    model: dict[str, Any]
    optimiser: dict[str, Any]
    weights: NDArray[np.float32] | None = None
    planting: Planting | None = None
    random: dict[str, Tensor] = field(default_factory=lambda: random_state())


def random_state() -> dict[str, Tensor]:
    """The state of torch's random generators, of the processor and of a GPU that is in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Undo `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def save(folder: Path, settings: TrainSettings, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` into `folder`, whole or not at all: the one before stands until this one is on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save(
        {
            "settings": json.dumps(settings.as_json()),
            "run_id": checkpoint.run_id,
            "local": checkpoint.local,
            "position": dataclasses.asdict(checkpoint.position),
            "rounds": json.dumps([record.to_json() for record in checkpoint.rounds]),
            "epochs": json.dumps([dataclasses.asdict(record) for record in checkpoint.epochs]),
            "verified": None if checkpoint.verified is None else dataclasses.asdict(checkpoint.verified),
            "model": checkpoint.model,
            "optimiser": checkpoint.optimiser,
            "weights": None if checkpoint.weights is None else torch.from_numpy(checkpoint.weights),
            "planting": _as_tensors(checkpoint.planting),
            "random": checkpoint.random,
        },
        content,
    )
    write_atomically(folder / _NAME, content.getvalue())


def save_model(folder: Path, model: nn.Module) -> None:
    """Write the weights of a trained network as ``model.safetensors``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    part.unlink(missing_ok=True)
    part.touch()
    usual = part.stat().st_mode
    safetensors.torch.save_model(model, str(part))
    part.chmod(usual)  # safetensors writes a file that only its owner may read
    replace_atomically(part, folder / "model.safetensors")


def load(folder: Path, settings: TrainSettings) -> Checkpoint:
    """Read the checkpoint in `folder`, onto the CPU.

    Raises
    ------
    CheckpointError
        If there is none, it is damaged, or it is that of a training with other settings.
    """
    path = folder / _NAME
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; leave out --resume to start anew")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise CheckpointError(f"{path} is damaged ({error}); leave out --resume to start anew") from error
    before, now = json.loads(stored["settings"]), settings.as_json()
    free = _FREE - _MACHINE if settings.deterministic else _FREE
    for name in sorted(set(now) - free):
        if before.get(name) != now[name]:
            raise CheckpointError(
                f"{path} was written with {name} {before.get(name)}, got {now[name]}; resume with the same settings"
            )
    return Checkpoint(
        run_id=stored["run_id"],
        local=stored["local"],
        position=Position(**stored["position"]),
        rounds=tuple(RoundRecord.from_json(record) for record in json.loads(stored["rounds"])),
        epochs=tuple(EpochRecord(**record) for record in json.loads(stored["epochs"])),
        verified=None if stored["verified"] is None else HeldOutAgreement(**stored["verified"]),
        model=stored["model"],
        optimiser=stored["optimiser"],
        weights=None if stored["weights"] is None else stored["weights"].numpy(),
        planting=None if stored["planting"] is None else Planting(*(part.numpy() for part in stored["planting"])),
        random=stored["random"],
    )


def _as_tensors(planting: Planting | None) -> list[Tensor] | None:
    """Labels and planted samples as what torch stores without pickling."""
    return None if planting is None else [torch.tensor(planting.labels), torch.tensor(planting.planted)]
