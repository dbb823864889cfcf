"""`TrainSettings`, all settings of a training, and their defaults for each data set."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from mild_core.alarms import PATIENCE
from mild_core.errors import ParameterError
from mild_core.fields import check_fields, declare_field
from mild_core.types import Observe, Pass, SelectionOptions
from mild_trainer import noise
from mild_trainer.data import imbalance

DatasetName: TypeAlias = Literal["digits", "cifar10", "cifar100", "mnist", "npz", "features", "folder", "webvision"]
ModelName: TypeAlias = Literal["resnet8", "resnet20", "resnet18", "resnet34", "resnet50", "linear", "mlp"]
Weights: TypeAlias = Literal["fresh", "carry"]
Use: TypeAlias = Literal["set", "weights"]
FinishName: TypeAlias = Literal["none", "supervised", "mixmatch", "contrastive"]
Schedule: TypeAlias = Literal["cosine", "one-cycle", "constant"]
PlantHow: TypeAlias = Literal["confused", "uniform"]
DeviceName: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
DataOn: TypeAlias = Literal["auto", "device", "host"]

HEADS: tuple[ModelName, ...] = ("linear", "mlp")
"""Networks for features; the others are for images."""

MODEL_FORMS = (
    "MODULE:FUNCTION that returns a torch module (MODULE.py in this folder, or installed), a file of TorchScript "
    "(.pt), torch.export (.pt2) or ONNX (.onnx), or a folder of transformers"
)
"""Networks that turn images into features."""

DATA = "Data"
"""Group of settings in the help of the command line."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """All settings of a training; `for_dataset` fills in the defaults of a data set.

    The settings are declared only here: the command line, the checks and the test of the documentation read the fields.
    """

    dataset: DatasetName = declare_field("digits", "Data set to train on.", group=DATA)
    data_dir: Path | None = declare_field(
        None, "Folder with the data set's files or with a folder of pictures per class, or an .npz file.", group=DATA
    )
    labels: Path | None = declare_field(
        None, "File of labels to train on in place of the data set's own: .csv, .json, .npy, .npz or .pt.", group=DATA
    )
    limit: int = declare_field(
        0, "Train on at most so many samples, evenly over the classes; 0: all.", 0, 10**9, group=DATA
    )
    classes: str = declare_field(
        "all",
        "all; present: those with samples; of a folder: so many from the first, or a file that lists them.",
        group=DATA,
    )
    image_size: int = declare_field(
        0, "Of a folder of images: bring them to this height and width; 0: theirs, up to 64.", 0, 4096, group=DATA
    )
    download: bool = declare_field(
        False, "Fetch cifar10, cifar100 or mnist into --data-dir if not there.", changeable=True, group=DATA
    )
    imbalance: str = declare_field(
        "none", "Make classes unequal: none, or exp (long-tailed) or step with :smallest share.", group=DATA
    )
    noise: str = declare_field(
        "none",
        f"Change labels: none, or {', '.join(noise.KINDS)} with :rate; or take the wrong labels of file:PATH, or those "
        f"that people gave: "
        f"{', '.join(f'{name}:{label}' for name, labels in noise.HUMAN_LABELS.items() for label in labels)}.",
        group=DATA,
    )
    seed: int = declare_field(0, "Seed of everything that is drawn.", 0, 2**63 - 1)
    model: ModelName = declare_field("resnet8", "Network.")
    epochs: int = declare_field(25, "Epochs of a round.", 1, 10_000)
    first_epochs: int = declare_field(0, "Epochs of round 0; 0: as of any other round.", 0, 10_000)
    rounds: int = declare_field(4, "Largest number of rounds.", 1, 1000, changeable=True)
    observe: Observe = declare_field(
        "all", "Whose bits are recorded: all, mixed (members' from the training pass), members."
    )
    class_prior: str = declare_field(
        "none",
        "Shares of the classes among the true labels, if known: balanced, or a number for each, such as 50,30,20; bits "
        "are then recorded with a bias that predicts classes as often.",
    )
    weights: Weights = declare_field("fresh", "Begin a round with fresh weights, or carry the last round's on.")
    use: Use = declare_field("set", "Train later rounds on the clean set, or on everyone, weighted by the probability.")
    plant: float = declare_field(
        0.02, "Share of the labels to break on purpose in round 0, to see how such are learnt.", 0, 0.5
    )
    plant_how: PlantHow = declare_field("confused", "Plant labels along early confusions, or uniformly.")
    batch_size: int = declare_field(64, "Samples per step.", 2, 1 << 20)
    lr: float = declare_field(0.1, "Highest learning rate.", 0, 100)
    momentum: float = declare_field(0.9, "Nesterov momentum.", 0, 0.9999)
    weight_decay: float = declare_field(5e-4, "Weight decay.", 0, 10)
    label_smoothing: float = declare_field(0.0, "Label smoothing.", 0, 0.99)
    schedule: Schedule = declare_field("cosine", "Learning rate over a round.")
    pad: int = declare_field(1, "Largest shift of a random crop, in pixels.", 0, 64, group=DATA)
    flip: bool = declare_field(False, "Mirror half of the images.", group=DATA)
    cutout: int = declare_field(
        0, "Cut a square of so many pixels a side out of every image, at random; 0: none.", 0, 4096, group=DATA
    )
    dither: float = declare_field(
        0.0,
        "Standard deviation of the noise on standardised features while training and recording; 0: none.",
        0,
        100,
        group=DATA,
    )
    finish: FinishName = declare_field(
        "none", "After the last round, train a fresh network: on the set, or with the dropped too.", changeable=True
    )
    finish_epochs: int = declare_field(
        0, "What the finish may cost, in epochs of all samples; 0: a round's.", 0, 10_000, changeable=True
    )
    ema: float = declare_field(
        0.0, "Decay of the average of the finish's weights; 0 averages nothing.", 0, 0.99999, changeable=True
    )
    agree: float = declare_field(
        0.99, "End early once two clean sets have this Jaccard similarity.", 0, 1, changeable=True
    )
    validation: float = declare_field(
        0.0, "Share of the training samples to hold out, noisy labels and all, to compare rounds by.", 0, 0.5
    )
    patience: int = declare_field(
        PATIENCE, "End once so many rounds have not raised the accuracy on those held out.", 1, 1000, changeable=True
    )
    oracle: bool = declare_field(False, "Train on the true clean set as well, for comparison.", changeable=True)
    verify: bool = declare_field(
        False, "Train on two halves first, and stop if they cannot predict each other's labels."
    )
    device: DeviceName = declare_field(
        "auto", "Where to train; auto takes CUDA, else MPS, else the CPU.", changeable=True
    )
    compile: bool = declare_field(False, "Compile the network (torch.compile).", changeable=True)
    threads: int = declare_field(0, "Processor threads; 0: torch's choice.", 0, 4096, changeable=True)
    data_on: DataOn = declare_field(
        "auto", "Where images are kept; auto: on the device if half its free memory is enough.", changeable=True
    )
    deterministic: bool = declare_field(False, "The same bits again, on the same machine.")
    checkpoint_every: int = declare_field(1, "Epochs between checkpoints; 0 writes none.", 0, 10_000, changeable=True)
    selection: SelectionOptions = field(default_factory=SelectionOptions)

    @classmethod
    def for_dataset(cls, dataset: DatasetName, **settings: Any) -> Self:
        """Return the settings of a data set: its and the network's defaults, or the `settings` not None.

        If only members are observed, no label is planted by default, as planted samples could never become members
        again.

        Raises
        ------
        ParameterError
            If a setting is outside its range.
        """
        overrides = {name: value for name, value in settings.items() if value is not None}
        if overrides.get("observe") == "members":
            overrides.setdefault("plant", 0.0)
        defaults = dict(DEFAULTS[dataset])
        defaults.update(MODEL_DEFAULTS.get(overrides.get("model", defaults["model"]), {}))
        return cls(**{"dataset": dataset, **defaults, **overrides}).checked()

    def with_size_defaults(self, n_samples: int, side: int, given: Collection[str]) -> Self:
        """Return a copy with the defaults of own data (`OWN_DATA`) for these images; of other data sets, self.

        Parameters
        ----------
        n_samples, side
            Number of the training images, and pixels of their longer side.
        given
            Names of the settings that keep their values.
        """
        if self.dataset not in OWN_DATA:
            return self
        n_samples = min(n_samples, self.limit or n_samples)
        defaults = choose_size_defaults(n_samples, side)
        return replace(self, **{name: value for name, value in defaults.items() if name not in given}).checked()

    def checked(self) -> Self:
        """Return self after checking all settings.

        Raises
        ------
        ParameterError
            If a setting is outside its range, or two settings contradict each other.
        """
        check_fields(self)
        noise.parse_noise(self.noise)
        imbalance.parse_imbalance(self.imbalance)
        imbalance.parse_class_prior(self.class_prior)
        self.selection.validate_for_run()
        if self.plant and self.observe == "members":
            raise ParameterError(
                f"plant is {self.plant} and observe is members: whoever is planted is never seen with an own label "
                "and could never return; plant 0, or observe all or mixed"
            )
        self._check_kind()
        return self

    def _check_kind(self) -> None:
        """Raise ParameterError if the network or a setting is for the other kind of samples."""
        if (self.dataset == "features") != (self.model in HEADS):
            fitting = [name for name in get_args(ModelName) if (name in HEADS) == (self.dataset == "features")]
            samples = "vectors" if self.dataset == "features" else "images"
            raise ParameterError(
                f"model is {self.model} and dataset is {self.dataset}, which holds {samples}; "
                f"give one of {', '.join(fitting)}"
            )
        if self.dataset == "features" and self.data_on == "host":
            raise ParameterError("data_on is host, and features are kept on the device; give auto or device")
        if self.dataset != "features" and self.dither:
            raise ParameterError(f"dither is {self.dither:g}, and {self.dataset} holds no features; give 0, or --pad")

    def count_epochs(self, round: int) -> int:
        """Return the number of epochs of a round."""
        return self.epochs if round else self.first_epochs or self.epochs

    @property
    def forward_pass(self) -> Pass:
        """Forward pass that the bits of members come from: ``train`` or ``eval``."""
        return "eval" if self.observe == "all" else "train"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Create settings from the result of `as_json`."""
        paths = {name: None if values.get(name) is None else Path(values[name]) for name in ("data_dir", "labels")}
        return cls(**{**values, **paths, "selection": SelectionOptions(**values["selection"])})

    def as_json(self) -> dict[str, Any]:
        """Return all settings by name, as JSON values."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}


OWN_DATA: tuple[DatasetName, ...] = ("npz", "folder")
"""Data sets whose defaults depend on the number and the size of their images."""


_SMALL = {"model": "resnet8", "lr": 0.1, "label_smoothing": 0.1, "flip": False}
SIZE_DEFAULTS: tuple[tuple[float, Mapping[str, Any]], ...] = (
    (500, {**_SMALL, "epochs": 50, "batch_size": 16}),
    (1_000, {**_SMALL, "epochs": 30, "batch_size": 32}),
    (2_000, {**_SMALL, "epochs": 30, "batch_size": 64}),
    (20_000, {**_SMALL, "epochs": 20, "batch_size": 64}),
    (math.inf, {**_SMALL, "model": "resnet18", "label_smoothing": 0.0, "epochs": 30, "batch_size": 128}),
)
"""Defaults of own data with fewer training images than each number.

Small sets get the small network and small batches, so that an epoch has steps enough. Images are not mirrored, as
letters, digits and instruments must not be.
"""


def choose_size_defaults(n_samples: int, side: int) -> dict[str, Any]:
    """Return the defaults of own data for so many training images, whose longer side has `side` pixels."""
    defaults = next(defaults for limit, defaults in SIZE_DEFAULTS if n_samples < limit)
    # On few or very small images a second thread costs more than it brings.
    is_light = side <= 16 or (n_samples < 2_000 and side <= 32)
    return {**defaults, "pad": min(8, side // 16), "threads": 1 if is_light else 0}


DEFAULTS: Mapping[DatasetName, Mapping[str, Any]] = {
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
    "npz": choose_size_defaults(10_000, 32),
    # One thread: where other programs take a core, two wait for each other in every small operation, and an epoch
    # of 50,000 x 1,280 features takes 5 to 14 s in place of 0.3. Of 40 bits the count ranks better than of 20.
    "features": {
        "model": "linear",
        "epochs": 40,
        "batch_size": 128,
        "lr": 0.016,
        "weight_decay": 1.0,
        "label_smoothing": 0.1,
        "dither": 1.0,
        "pad": 0,
        "threads": 1,
    },
    "webvision": {"model": "resnet50", "epochs": 30, "batch_size": 64, "lr": 0.05, "pad": 8, "flip": True},
    "folder": choose_size_defaults(10_000, 32),
}

MODEL_DEFAULTS: Mapping[ModelName, Mapping[str, Any]] = {"mlp": {"weight_decay": 0.1}}
"""Defaults of a network in place of those of the data set: what decays a linear head well makes both layers vanish."""
