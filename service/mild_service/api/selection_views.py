"""JSON of a clean set, and of what it was read off."""

from pydantic import BaseModel, Field

from mild_core.types import Evidence, Fit, Metric, Rule, Verdict
from mild_service.state import Basis


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


class EchoView(BaseModel):
    """How far a set repeats its round's members."""

    agreement: float = Field(description="Share of the judged samples that are both kept and members, or neither.")
    by_chance: float = Field(description="The same share where being kept had nothing to do with being a member.")


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
    echo: EchoView | None = Field(
        None, description="How far the set repeats whom its round was trained on; null where that was everyone."
    )
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
