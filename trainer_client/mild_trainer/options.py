"""The command line's options, each with its environment variable, in the order of the help.

What goes wrong at the command line is told in one line.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from mild_client.backends.background import Mode
from mild_core.errors import MildError
from mild_core.types import AuditUse, Evidence, Fit, Metric, Observe, Rule
from mild_trainer import presets
from mild_trainer.settings import (
    DEFAULTS,
    DataOn,
    DatasetName,
    DeviceName,
    FinishName,
    ModelName,
    PlantHow,
    Schedule,
    TrainSettings,
    Use,
    Weights,
)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print what went wrong as one line and exit with 2."""
    try:
        yield
    except (MildError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _option(
    variable: str, text: str, panel: str, flag: str | None = None, default: bool | str = True
) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        flag or f"--{variable.lower().replace('_', '-')}",
        envvar=f"MILD_{variable}",
        help=text,
        rich_help_panel=panel,
        show_default=default,
    )
    return option


def _setting(variable: str, text: str, panel: str, flag: str | None = None) -> typer.models.OptionInfo:
    """Option of a setting that stays at its default unless it is given: the help then names that default."""
    name = variable.lower()
    default = next(field.default for field in fields(TrainSettings) if field.name == name)
    if isinstance(default, bool):
        default = "on" if default else "off"
    varies = any(name in chosen for chosen in DEFAULTS.values())
    return _option(variable, text, panel, flag, "by data set" if varies else str(default))


_DATA, _TRAINING, _SELECTION, _RUN = "Data", "Training", "Selection", "Run"


def _take_preset(context: typer.Context, name: str | None) -> str | None:
    """Let a preset's settings stand in for the defaults: what is given, or in the environment, wins."""
    if name is not None:
        with one_line_errors():
            context.default_map = {**(context.default_map or {}), **presets.named(name).flat}
    return name


Preset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset",
        envvar="MILD_PRESET",
        help="Take the settings of a name from `mild presets` where nothing else is given.",
        show_default=False,
        rich_help_panel=_DATA,
        is_eager=True,
        callback=_take_preset,
    ),
]
DatasetOption: TypeAlias = Annotated[DatasetName, _option("DATASET", "Data set to train on.", _DATA)]
DataDir: TypeAlias = Annotated[
    Path | None, _option("DATA_DIR", "Folder with the data set's files, or the .npz file.", _DATA)
]
Limit: TypeAlias = Annotated[
    int, _option("LIMIT", "Train on at most so many samples, evenly over the classes; 0: all.", _DATA)
]
Classes: TypeAlias = Annotated[
    str | None,
    _setting("CLASSES", "Of a folder of images: so many classes from the first, or a file that lists them.", _DATA),
]
ImageSize: TypeAlias = Annotated[
    int | None,
    _setting("IMAGE_SIZE", "Of a folder of images: bring them to this height and width; 0: the first's.", _DATA),
]
Download: TypeAlias = Annotated[
    bool | None,
    _setting(
        "DOWNLOAD", "Fetch cifar10, cifar100 or mnist into --data-dir if not there.", _DATA, "--download/--no-download"
    ),
]
Imbalance: TypeAlias = Annotated[
    str | None,
    _setting("IMBALANCE", "Make classes unequal: none, or exp (long-tailed) or step with :smallest share.", _DATA),
]
Noise: TypeAlias = Annotated[
    str,
    _option(
        "NOISE",
        "Break labels: none, or symmetric, symmetric-exclusive, pairflip, asymmetric, instance with :rate; or take "
        "those that people gave: cifar10n:aggre, :random1 to 3 or :worse, cifar100n:noisy.",
        _DATA,
    ),
]
Pad: TypeAlias = Annotated[int | None, _setting("PAD", "Largest shift of a random crop, in pixels.", _DATA)]
Flip: TypeAlias = Annotated[
    bool | None,
    _setting("FLIP", "Mirror half of the images.", _DATA, "--flip/--no-flip"),
]
Cutout: TypeAlias = Annotated[
    int | None,
    _setting("CUTOUT", "Cut a square of so many pixels a side out of every image, at random; 0: none.", _DATA),
]

Model: TypeAlias = Annotated[ModelName | None, _setting("MODEL", "Network.", _TRAINING)]
Epochs: TypeAlias = Annotated[int | None, _setting("EPOCHS", "Epochs of a round.", _TRAINING)]
FirstEpochs: TypeAlias = Annotated[
    int | None, _setting("FIRST_EPOCHS", "Epochs of round 0; 0: as of any other round.", _TRAINING)
]
Rounds: TypeAlias = Annotated[int | None, _setting("ROUNDS", "Largest number of rounds.", _TRAINING)]
ObserveOption: TypeAlias = Annotated[
    Observe | None,
    _setting("OBSERVE", "Whose bits are recorded: all, mixed (members' from the training pass), members.", _TRAINING),
]
WeightsOption: TypeAlias = Annotated[
    Weights | None, _setting("WEIGHTS", "Begin a round with fresh weights, or carry the last round's on.", _TRAINING)
]
Plant: TypeAlias = Annotated[
    float | None,
    _setting("PLANT", "Share of the labels to break on purpose in round 0, to see how such are learnt.", _TRAINING),
]
PlantHowOption: TypeAlias = Annotated[
    PlantHow | None,
    _setting("PLANT_HOW", "Plant labels along early confusions, or uniformly.", _TRAINING),
]
UseOption: TypeAlias = Annotated[
    Use | None,
    _setting("USE", "Train later rounds on the clean set, or on everyone, weighted by the probability.", _TRAINING),
]
BatchSize: TypeAlias = Annotated[int | None, _setting("BATCH_SIZE", "Samples per step.", _TRAINING)]
Lr: TypeAlias = Annotated[float | None, _setting("LR", "Highest learning rate.", _TRAINING)]
Momentum: TypeAlias = Annotated[float | None, _setting("MOMENTUM", "Nesterov momentum.", _TRAINING)]
WeightDecay: TypeAlias = Annotated[float | None, _setting("WEIGHT_DECAY", "Weight decay.", _TRAINING)]
LabelSmoothing: TypeAlias = Annotated[float | None, _setting("LABEL_SMOOTHING", "Label smoothing.", _TRAINING)]
ScheduleOption: TypeAlias = Annotated[Schedule | None, _setting("SCHEDULE", "Learning rate over a round.", _TRAINING)]
Finish: TypeAlias = Annotated[
    FinishName | None,
    _setting("FINISH", "After the last round, train a fresh network: on the set, or with the dropped too.", _TRAINING),
]
FinishEpochs: TypeAlias = Annotated[
    int | None,
    _setting("FINISH_EPOCHS", "What the finish may cost, in epochs of all samples; 0: a round's.", _TRAINING),
]
Ema: TypeAlias = Annotated[
    float | None, _setting("EMA", "Decay of the average of the finish's weights; 0 averages nothing.", _TRAINING)
]
Seed: TypeAlias = Annotated[int, _option("SEED", "Seed of everything that is drawn.", _TRAINING)]
Oracle: TypeAlias = Annotated[
    bool | None,
    _setting("ORACLE", "Train on the true clean set as well, for comparison.", _TRAINING, "--oracle/--no-oracle"),
]
Verify: TypeAlias = Annotated[
    bool | None,
    _setting(
        "VERIFY",
        "Train on two halves first, and stop if they cannot predict each other's labels.",
        _TRAINING,
        "--verify/--no-verify",
    ),
]
Agree: TypeAlias = Annotated[
    float | None, _setting("AGREE", "End early once two clean sets have this Jaccard similarity.", _TRAINING)
]
Validation: TypeAlias = Annotated[
    float | None,
    _setting(
        "VALIDATION",
        "Share of the training samples to hold out, noisy labels and all, to compare rounds by.",
        _TRAINING,
    ),
]
Patience: TypeAlias = Annotated[
    int | None,
    _setting("PATIENCE", "End once so many rounds have not raised the accuracy on those held out.", _TRAINING),
]
Device: TypeAlias = Annotated[
    DeviceName | None, _setting("DEVICE", "Where to train; auto takes CUDA, else MPS, else the CPU.", _TRAINING)
]
Compile: TypeAlias = Annotated[
    bool | None,
    _setting("COMPILE", "Compile the network (torch.compile).", _TRAINING, "--compile/--no-compile"),
]
Threads: TypeAlias = Annotated[int | None, _setting("THREADS", "Processor threads; 0: torch's choice.", _TRAINING)]
DataOnOption: TypeAlias = Annotated[
    DataOn | None,
    _setting("DATA_ON", "Where images are kept; auto: on the device if half its free memory is enough.", _TRAINING),
]
Deterministic: TypeAlias = Annotated[
    bool | None,
    _setting(
        "DETERMINISTIC", "The same bits again, on the same machine.", _TRAINING, "--deterministic/--no-deterministic"
    ),
]
CheckpointEvery: TypeAlias = Annotated[
    int | None, _setting("CHECKPOINT_EVERY", "Epochs between checkpoints; 0 writes none.", _TRAINING)
]

MetricOption: TypeAlias = Annotated[Metric, _option("METRIC", "Per-sample score; low is clean.", _SELECTION)]
FitOption: TypeAlias = Annotated[Fit, _option("FIT", "How the mixture is fitted.", _SELECTION)]
EvidenceOption: TypeAlias = Annotated[
    Evidence, _option("EVIDENCE", "All rounds so far, or the latest alone.", _SELECTION)
]
ThresholdOption: TypeAlias = Annotated[Rule, _option("THRESHOLD", "The rule that makes the cut.", _SELECTION)]
P: TypeAlias = Annotated[float, _option("P", "posterior: largest noisy posterior kept.", _SELECTION)]
Value: TypeAlias = Annotated[float | None, _option("VALUE", "value: largest metric kept.", _SELECTION)]
Fraction: TypeAlias = Annotated[
    float | None, _option("FRACTION", "fraction: share kept; without it the fit's estimate.", _SELECTION)
]
Target: TypeAlias = Annotated[
    float | None, _option("TARGET", "precision, recall: the estimate that the set is to reach.", _SELECTION)
]
CostRatio: TypeAlias = Annotated[
    float,
    _option("COST_RATIO", "bayes: cost of keeping a wrong label over that of dropping a right one.", _SELECTION),
]
AuditOption: TypeAlias = Annotated[
    AuditUse,
    _option(
        "AUDIT", "fit: labels that people have checked at the service calibrate the fit and are obeyed.", _SELECTION
    ),
]
PerClass: TypeAlias = Annotated[
    bool, _option("PER_CLASS", "A fit and a cut for each class, drawn to the fit of all samples.", _SELECTION)
]
MinKeepClass: TypeAlias = Annotated[
    float, _option("MIN_KEEP_CLASS", "Share kept of each class whatever the rule says.", _SELECTION)
]
MinKeep: TypeAlias = Annotated[float, _option("MIN_KEEP", "Share kept whatever the rule says.", _SELECTION)]

Url: TypeAlias = Annotated[
    str | None, _option("URL", "Address of a running service; without it an embedded one is started.", _RUN)
]
SyncUrl: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", envvar="MILD_URL", help="The service; without it, for each run the one it was recorded for."),
]
ModeOption: TypeAlias = Annotated[
    Mode,
    _option("MODE", "online; offline: record for `mild sync`, without a service; disabled: the same as --local.", _RUN),
]
SpoolBytes: TypeAlias = Annotated[
    int | None, _option("SPOOL_BYTES", "Most bytes to keep for a service that is away.", _RUN, default="10 GiB")
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="MILD_API_KEY",
        help="Key for the service at --url; in the variable other users of this machine do not see it.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
Local: TypeAlias = Annotated[
    bool,
    typer.Option("--local", envvar="MILD_LOCAL", help="Select in this process, with no service.", rich_help_panel=_RUN),
]
RunId: TypeAlias = Annotated[
    str | None, _option("RUN_ID", "The run's name at the service; drawn from the time without it.", _RUN)
]
Out: TypeAlias = Annotated[Path, _option("OUT", "Folder for the summary, the report and checkpoints.", _RUN)]
Resume: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--resume", envvar="MILD_RESUME", help="Go on from the checkpoint in the out folder.", rich_help_panel=_RUN
    ),
]
