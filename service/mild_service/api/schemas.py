"""JSON in and out: requests are strict and refuse unknown fields, answers show every default resolved."""

from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from mild_core.types import AuditUse, Evidence, Fit, Metric, Observe, Pass, Rule, SelectionOptions, Verdict
from mild_service.pictures import MAX_TEMPLATE
from mild_service.predictions import Filled
from mild_service.runs import Opening
from mild_service.state import Basis, Round, Run, Status

_MAX_ENTRIES = 64


def _few(value: object) -> object:
    """Count before anything is looked into: a million unknown fields would be a million errors."""
    if isinstance(value, dict) and len(value) > _MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries, at most {_MAX_ENTRIES} are read")
    return value


def _whole(value: object) -> object:
    """Take 60.0 for 60: to JSON, and to its schemas, that is one number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(_few),
]
Ttl = Annotated[Whole, Field(ge=60, le=10 * 365 * 24 * 3600)]
PictureUrl = Annotated[
    str,
    Field(
        max_length=MAX_TEMPLATE,
        description="Where the dashboard finds pictures: https://…/{id}.png or …/{index}.png; empty: nowhere.",
    ),
]
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Row = str | list[Any]
"""Base64 of a bitmap, or 0 and 1 per sample; looked into by `stateless`, which is faster than a check per entry."""
Rows = Annotated[list[Row], Field(fail_fast=True)]
Scalar = Annotated[FiniteFloat, Field(strict=True)]
Scalars = Annotated[
    dict[MetricName, Scalar],
    Field(min_length=1, json_schema_extra={"additionalProperties": False, "maxProperties": _MAX_ENTRIES}),
    BeforeValidator(_few),
]
# Ranges that `SelectionOptions` checks, for whoever reads the OpenAPI.
Share = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 0, "maximum": 1})]
CostRatio = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 1e-6, "maximum": 1e6})]
MetricValue = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": -1e9, "maximum": 1e9})]


class Strict(BaseModel):
    """A request: no unknown fields, no numbers in strings."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, value: object) -> object:
        return _few(value)


class SelectionChoice(Strict):
    """How a clean set is chosen; what is left out has its default."""

    metric: Metric = "mild-simple"
    fit: Fit = "anchored"
    evidence: Evidence = "pooled"
    threshold: Rule = "f1"
    p: Share = 0.5
    value: MetricValue | None = None
    fraction: Share | None = None
    target: Share | None = None
    cost_ratio: CostRatio = 1.0
    min_keep: Share = 0.01
    per_class: bool = False
    min_keep_class: Share = 0.0
    audit: AuditUse = "measure"

    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        return self.model_dump(exclude_unset=True)

    def options(self) -> SelectionOptions:
        """All fields, checked.

        Raises
        ------
        ParameterError
            If one is out of its range.
        """
        return SelectionOptions(**self.model_dump()).checked()


class ResumeFrom(Strict):
    """Where a restarted trainer goes on: the open round's epochs from here on are dropped."""

    round: Whole
    epoch: Whole


class RunRequest(Strict):
    """Opens a run, or opens it again: then what is left out is taken from the run."""

    num_samples: Whole = Field(description="Samples of the data set; a sample's index never changes over a run.")
    num_classes: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    observe: Observe = Field("all", description="Who counts as observed when a body carries one bitmap.")
    forward_pass: Pass = Field("eval", alias="pass", description="Which forward pass makes the bits.")
    selection: SelectionChoice = Field(default_factory=SelectionChoice)
    expected_epochs: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    expected_rounds: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    tags: Tags | None = None
    ttl_seconds: Ttl | None = Field(None, description="The run expires this long after its last write.")
    picture_url: PictureUrl | None = None
    resume_from: ResumeFrom | None = None

    def opening(self) -> Opening:
        """The same in the write path's terms, with what was not said left out."""
        said = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        renamed = {"num_classes": "n_classes"}
        return Opening(
            n_samples=self.num_samples,
            fixed={renamed.get(n, n): said[n] for n in ("num_classes", "observe", "forward_pass") if n in said},
            options=self.selection.given(),
            planned={n: said[n] for n in ("expected_epochs", "expected_rounds", "picture_url") if n in said},
            tags=self.tags,
            ttl_seconds=self.ttl_seconds,
            resume_from=(self.resume_from.round, self.resume_from.epoch) if self.resume_from else None,
        )


class RunPatch(Strict):
    """What may be changed of a run."""

    tags: Tags | None = None
    status: Status | None = None
    ttl_seconds: Ttl | None = None
    picture_url: PictureUrl | None = None


class IndicesRequest(Strict):
    """A set of samples."""

    indices: Annotated[list[Annotated[int, Field(ge=-(2**63), lt=2**63)]], Field(fail_fast=True)] = Field(
        description="Sample indices, in any order; repeats count once."
    )


class FinishRequest(Strict):
    """Optional details of finishing a round."""

    allow_gaps: bool = Field(False, description="Count missing epochs as unobserved instead of refusing.")
    selected: str | None = Field(None, description="Base64 of the bitmap that an offline client has used already.")
    core_version: str | None = Field(
        None, max_length=64, description="Version of mild-selection that computed `selected`."
    )


class StatelessRound(Strict):
    """One round's evidence: per epoch base64 of a bitmap, or a list of 0 and 1 per sample."""

    correct: Rows
    observed: Rows | None = None
    members: Row | None = None
    planted: Row | None = Field(None, description="Samples whose label was broken on purpose in this round.")


class StatelessRequest(Strict):
    """Bits in, set out. Give `rounds`, or `correct` (and `observed`) of a single one."""

    num_samples: Whole | None = Field(None, description="Needed when bitmaps are given; else the length of the lists.")
    rounds: list[StatelessRound] | None = None
    correct: Rows | None = None
    observed: Rows | None = None
    observe: Observe = Field("all", description="`members`: only members should have been observed.")
    options: SelectionChoice = Field(default_factory=SelectionChoice)


class RoundView(BaseModel):
    """A round's state."""

    round: int
    state: Literal["open", "finished"]
    num_members: int
    num_planted: int = Field(description="Samples whose label was broken on purpose in this round.")
    num_epochs: int
    epochs: list[int] = Field(description="Committed epochs, ascending.")
    partial: dict[int, int] = Field(
        description="Epochs that logs or shards are still filling up, with the samples in (over shards, summed)."
    )
    metrics: dict[int, dict[str, float]] = Field(description="Scalars by epoch.")
    num_selected: int | None = Field(description="Size of the set; null while the round is open.")
    verdict: Verdict | None
    opened_at: float
    finished_at: float | None

    @classmethod
    def of(cls, round_: Round, n_samples: int) -> Self:
        """View of `round_`."""
        return cls(
            round=round_.number,
            state="finished" if round_.finished else "open",
            num_members=n_samples if round_.members is None else round_.members.n_members,
            num_planted=0 if round_.planted is None else round_.planted.n_members,
            num_epochs=len(round_.epochs),
            epochs=list(round_.epochs),
            partial={epoch: held.n_observed or 0 for epoch, held in round_.partials.items()},
            metrics={epoch: dict(scalars) for epoch, scalars in round_.metrics.items()},
            num_selected=round_.selected.n_members if round_.selected else None,
            verdict=round_.selection["verdict"] if round_.selection else None,
            opened_at=round_.opened_at,
            finished_at=round_.finished_at,
        )


class RunView(BaseModel):
    """A run's state with every default resolved. Times are Unix time in seconds."""

    run_id: str
    num_samples: int
    num_classes: int | None
    observe: Observe
    forward_pass: Pass = Field(serialization_alias="pass")
    selection: dict[str, Any] = Field(description="The resolved options.")
    expected_epochs: int | None
    expected_rounds: int | None
    picture_url: str | None = Field(description="Where the dashboard finds pictures of the samples.")
    tags: dict[str, str]
    status: Status
    ttl_seconds: int
    attempt: int = Field(description="Send it as `Mild-Attempt` with every write.")
    round: int = Field(description="The open round.")
    created_at: float
    updated_at: float
    expires_at: float

    @classmethod
    def of(cls, run: Run, **more: Any) -> Self:
        """View of `run`."""
        config = run.config
        return cls(
            run_id=run.run_id,
            num_samples=config.n_samples,
            num_classes=config.n_classes,
            observe=config.observe,
            forward_pass=config.forward_pass,
            selection=asdict(config.options),
            expected_epochs=config.expected_epochs,
            expected_rounds=config.expected_rounds,
            picture_url=config.picture_url,
            tags=dict(run.tags),
            status=run.status,
            ttl_seconds=run.ttl_seconds,
            attempt=run.attempt,
            round=run.round,
            created_at=run.created_at,
            updated_at=run.updated_at,
            expires_at=run.expires_at,
            **more,
        )


class RunDetail(RunView):
    """A run's state with its rounds."""

    rounds: list[RoundView]


class RunPage(BaseModel):
    """Some runs, newest first."""

    runs: list[RunView]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


class FilledView(BaseModel):
    """What a log has done to an epoch."""

    round: int
    epoch: int
    outcome: Literal["merged", "same"] = Field(description="`same`: all of it was known.")
    state: Literal["partial", "committed"]
    num_correct: int
    num_observed: int
    num_expected: int = Field(description="Samples that the run observes in every epoch.")
    num_missing: int
    missing: list[int] = Field(description="The first 100 samples that are expected and not there.")

    @classmethod
    def of(cls, filled: Filled) -> Self:
        """View of `filled`."""
        return cls(
            round=filled.round,
            epoch=filled.epoch,
            outcome=filled.outcome,
            state=filled.state,
            num_correct=filled.n_correct,
            num_observed=filled.n_observed,
            num_expected=filled.n_expected,
            num_missing=filled.n_missing,
            missing=filled.missing.tolist(),
        )


class PostedView(BaseModel):
    """What a log has done."""

    run_id: str
    records: int
    epochs: list[FilledView]


class MembersView(BaseModel):
    """What a members' PUT has done."""

    run_id: str
    round: int
    outcome: Literal["set", "same"]
    num_members: int


class MembersDetail(BaseModel):
    """Whom the model is trained on in a round."""

    run_id: str
    round: int
    num_members: int
    indices: list[int] = Field(description="Sorted.")


class MetricsView(BaseModel):
    """What a metrics' PUT has done."""

    run_id: str
    round: int
    epoch: int
    outcome: Literal["committed", "same", "replaced"]


class ThresholdView(BaseModel):
    """The cut: samples with metric <= `value` are kept; `cut` is the same in bins."""

    rule: Rule
    value: float | None
    cut: int | None


class ComponentView(BaseModel):
    """One Weibull component, on the scale of the fit's bins."""

    weight: float
    scale: float
    shape: float
    mean: float


class EstimateView(BaseModel):
    """A quantity with a 90% interval."""

    value: float
    low: float
    high: float


class MeasuredView(BaseModel):
    """How good a set is on the audited samples; null where that is not defined."""

    precision: float | None = Field(description="Share of the kept that are clean.")
    recall: float | None = Field(description="Share of the clean that are kept.")
    f1: float | None
    auc: float | None = Field(
        description="Probability that a clean sample scores lower than a mislabelled one, ties counted half."
    )
    known: int = Field(description="Audited samples, which all of this rests on.")


class ClassView(BaseModel):
    """What became of one class."""

    label: int
    scored: int = Field(description="Its samples that were judged.")
    kept: int
    cut: int | None = Field(description="Last bin that is kept; -1: nobody, null: nothing was fitted.")
    noise_rate: float | None = Field(
        description="Of the class's own fit; null without one, or where the verdict is not `separable`."
    )
    floored: bool = Field(description="The floor keeps samples that the rule would have dropped.")


class SelectionView(BaseModel):
    """A clean index set, and what may be believed of it."""

    run_id: str | None
    round: int
    basis: Basis = Field(
        description="`stored`: the set that the round was finished with; `client`: the same, brought by an offline "
        "client; `computed`: computed for this request, and stored nowhere."
    )
    provisional: bool = Field(description="The round is still open.")
    num_samples: int
    num_selected: int
    metric: Metric
    fit: Fit
    evidence: Evidence
    threshold: ThresholdView
    components: list[ComponentView]
    verdict: Verdict
    reasons: list[str]
    estimated: dict[str, EstimateView | None]
    epochs: int
    unobserved: int
    planted: int = Field(description="Samples whose own label was never judged, since it was broken on purpose.")
    classes: list[ClassView] | None = Field(None, description="With `per_class` or `min_keep_class`: every class.")
    core_version: str
    client_core_version: str | None = Field(None, description="With `basis` client: what computed the set.")
    differs: int | None = Field(
        None, description="With `basis` client: samples on which the service's own set differs."
    )
    measured: MeasuredView | None = Field(None, description="Where there is an audit: how good the set is.")
    indices: list[int]
    ids: list[str] | None = Field(
        None, description="With `ids=true`, or from a log that names samples by ids: the external id of each index."
    )


class HistogramView(BaseModel):
    """Bin `j` covers the metric `origin + width * j`."""

    origin: float
    width: float
    counts: list[float]


class CurvesView(BaseModel):
    """Noise rate, precision and recall, a row each, where the first 0, 1, 2, … bins are kept."""

    value: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


class FitView(BaseModel):
    """What a selection was read off."""

    run_id: str
    round: int
    provisional: bool
    histogram: HistogramView | None
    densities: list[list[float]] | None = Field(description="Expected counts per bin: clean, then noisy component.")
    curves: CurvesView | None = Field(
        None, description="Estimates of every cut, with 90% intervals; null where they are not identified."
    )
    metric: Metric | None = Field(None, description="Left out of rounds that were finished by earlier versions.")
    estimated: dict[str, EstimateView | None] | None = Field(None, description="As of a selection; left out likewise.")
    components: list[ComponentView]
    threshold: ThresholdView
    verdict: Verdict
    reasons: list[str]


class Versions(BaseModel):
    """Versions."""

    service: str
    core: str
    api: int = Field(description="Version of this interface; within one, nothing goes away.")
    oldest_client: str
    limits: dict[str, int | float] = Field(description="Every `MILD_MAX_…` setting, as `max_…`.")
