"""Every setting of a training, and each data set's own defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeAlias

from mild_core.alarms import PATIENCE
from mild_core.errors import ParameterError
from mild_core.types import Observe, Pass, SelectionOptions
from mild_trainer import noise
from mild_trainer.data import imbalance

DatasetName: TypeAlias = Literal["digits", "cifar10", "cifar100", "mnist", "npz", "folder", "webvision"]
ModelName: TypeAlias = Literal["resnet8", "resnet20", "resnet18", "resnet34", "resnet50"]
Weights: TypeAlias = Literal["fresh", "carry"]
Use: TypeAlias = Literal["set", "weights"]
FinishName: TypeAlias = Literal["none", "supervised", "mixmatch", "contrastive"]
Schedule: TypeAlias = Literal["cosine", "one-cycle", "constant"]
PlantHow: TypeAlias = Literal["confused", "uniform"]
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
DataOn: TypeAlias = Literal["auto", "device", "host"]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What a training is, in full; `for_dataset` fills in the data set's own defaults.

    Attributes
    ----------
    dataset, data_dir, limit
        What to train on: its name, its folder or file, and at most how many training samples (0: all).
    classes, image_size, download
        Of folders of images: ``all`` classes, a number of them or a file that lists them, and the height and width that
        images are brought to (0: the loader's choice); whether to fetch a published data set that is not there.
    imbalance
        How unequal the classes are made, such as ``exp:0.01``.
    noise, seed
        What to break the labels with, and the seed of everything that is drawn.
    model, epochs, first_epochs, rounds
        The network, the epochs of a round, those of round 0 (0: as of any other) and the largest number of rounds.
    observe, weights
        Whose bits are recorded, and whether a round starts from fresh weights or carries the last ones on.
    plant, plant_how
        Share of the labels that are broken on purpose in round 0, and whether along the confusions of a barely trained
        network or uniformly.
    use
        Whether later rounds train on the clean set, or on everyone whose label may be right, weighted by how likely.
    batch_size, lr, momentum, weight_decay, label_smoothing, schedule
        Stochastic gradient descent with Nesterov momentum; the learning rate runs through its schedule once a round.
    pad, flip, cutout
        Augmentation: largest shift in pixels, whether to mirror, and the size of the square that is cut out (0: none).
    finish, finish_epochs, ema
        How a fresh network is trained after the last round; its budget, in epochs of all samples (0: those of a round);
        and the decay of the average of its weights that is tested and kept (0: the weights themselves).
    agree
        Jaccard similarity of two consecutive clean sets at which the rounds end early.
    validation, patience
        Share of the training samples that is held out of all training, and in how many rounds the accuracy on their
        given labels must have stopped rising for the rounds to end.
    oracle
        Whether to train on the true clean set as well, for comparison.
    verify
        Whether to test first, by held-out agreement, that the labels carry signal, and to stop where they do not.
    device, compile, threads
        Where to train; whether to compile the network; processor threads (0: torch's choice).
    data_on
        Where the images are kept; ``auto``: on the device if they fit.
    deterministic
        Whether the same settings give the same bits again, on the same machine and versions, at some cost on a GPU.
    checkpoint_every
        Epochs between two checkpoints; 0 writes none.
    selection
        How the clean set is chosen.
    """

    dataset: DatasetName = "digits"
    data_dir: Path | None = None
    limit: int = 0
    classes: str = "all"
    image_size: int = 0
    download: bool = False
    imbalance: str = "none"
    noise: str = "none"
    seed: int = 0
    model: ModelName = "resnet8"
    epochs: int = 25
    first_epochs: int = 0
    rounds: int = 4
    observe: Observe = "all"
    weights: Weights = "fresh"
    use: Use = "set"
    plant: float = 0.02
    plant_how: PlantHow = "confused"
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    schedule: Schedule = "cosine"
    pad: int = 1
    flip: bool = False
    cutout: int = 0
    finish: FinishName = "none"
    finish_epochs: int = 0
    ema: float = 0.0
    agree: float = 0.99
    validation: float = 0.0
    patience: int = PATIENCE
    oracle: bool = False
    verify: bool = False
    device: DeviceName = "auto"
    compile: bool = False
    threads: int = 0
    data_on: DataOn = "auto"
    deterministic: bool = False
    checkpoint_every: int = 1
    selection: SelectionOptions = field(default_factory=SelectionOptions)

    @classmethod
    def for_dataset(cls, dataset: DatasetName, **given: Any) -> Self:
        """Return the data set's defaults with `given` on top; what is None there counts as not given.

        Where only members are observed nothing is planted by default: planted samples could never return.

        Raises
        ------
        ParameterError
            If a setting is outside its range.
        """
        chosen = {name: value for name, value in given.items() if value is not None}
        if chosen.get("observe") == "members":
            chosen.setdefault("plant", 0.0)
        return cls(**{"dataset": dataset, **DEFAULTS[dataset], **chosen}).checked()

    def checked(self) -> Self:
        """Return self.

        Raises
        ------
        ParameterError
            If a setting is outside its range.
        """
        noise.parse(self.noise)
        imbalance.parse(self.imbalance)
        self.selection.checked()
        for name, (low, high) in _RANGES.items():
            number = getattr(self, name)
            if not low <= number <= high:
                raise ParameterError(f"{name} is {number}; give a number in {low}..{high}")
        if self.plant and self.observe == "members":
            raise ParameterError(
                f"plant is {self.plant} and observe is members: whoever is planted is never seen with an own label "
                "and could never return; plant 0, or observe all or mixed"
            )
        return self

    def epochs_of(self, round: int) -> int:
        """Epochs of a round."""
        return self.epochs if round else self.first_epochs or self.epochs

    @property
    def forward_pass(self) -> Pass:
        """The pass that makes the members' bits."""
        return "eval" if self.observe == "all" else "train"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Undo `as_json`."""
        folder = values["data_dir"]
        data_dir, selection = None if folder is None else Path(folder), SelectionOptions(**values["selection"])
        return cls(**{**values, "data_dir": data_dir, "selection": selection})

    def as_json(self) -> dict[str, Any]:
        """Every setting as a JSON value."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "selection"}
        chosen = {f.name: getattr(self.selection, f.name) for f in fields(self.selection)}
        return {**values, "data_dir": None if self.data_dir is None else str(self.data_dir), "selection": chosen}


_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "limit": (0, 10**9),
        "seed": (0, 2**63 - 1),
        "image_size": (0, 4096),
        "epochs": (1, 10_000),
        "first_epochs": (0, 10_000),
        "plant": (0, 0.5),
        "rounds": (1, 1000),
        "batch_size": (2, 1 << 20),
        "lr": (0, 100),
        "momentum": (0, 0.9999),
        "weight_decay": (0, 10),
        "label_smoothing": (0, 0.99),
        "pad": (0, 64),
        "cutout": (0, 4096),
        "finish_epochs": (0, 10_000),
        "ema": (0, 0.99999),
        "agree": (0, 1),
        "validation": (0, 0.5),
        "patience": (1, 1000),
        "threads": (0, 4096),
        "checkpoint_every": (0, 10_000),
    }
)

DEFAULTS: Mapping[DatasetName, Mapping[str, Any]] = MappingProxyType(
    {
        # One thread: on images of 8x8 pixels a second one costs more than it brings.
        # Label smoothing slows the memorising of wrong labels down: of learning rates, weight decays, epochs, MixUp and
        # smoothing, tried on seeds 100 to 105, it helped most, on pairflip and on symmetric 0.8 alike.
        "digits": {
            "model": "resnet8",
            "epochs": 20,
            "batch_size": 64,
            "lr": 0.1,
            "label_smoothing": 0.3,
            "pad": 1,
            "threads": 1,
        },
        "mnist": {"model": "resnet8", "epochs": 10, "batch_size": 128, "lr": 0.1, "pad": 2},
        "cifar10": {"model": "resnet18", "epochs": 30, "batch_size": 128, "lr": 0.1, "pad": 4, "flip": True},
        "cifar100": {"model": "resnet18", "epochs": 30, "batch_size": 128, "lr": 0.1, "pad": 4, "flip": True},
        "npz": {"model": "resnet18", "epochs": 30, "batch_size": 128, "lr": 0.1, "pad": 4, "flip": True},
        "webvision": {"model": "resnet50", "epochs": 30, "batch_size": 64, "lr": 0.05, "pad": 8, "flip": True},
        "folder": {"model": "resnet18", "epochs": 30, "batch_size": 128, "lr": 0.1, "pad": 4, "flip": True},
    }
)
