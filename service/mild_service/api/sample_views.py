"""JSON of what a set was made of: scores, one sample, all cuts, and how good the set is."""

from pydantic import BaseModel, Field

from mild_core.types import Metric, Verdict
from mild_service.api.selection_views import MeasuredView, ThresholdView


class EvaluationView(MeasuredView):
    """A round's set against the audit, with the counts behind the figures."""

    run_id: str
    round: int
    provisional: bool
    clean: int = Field(description="Audited samples whose label is true.")
    kept: int = Field(description="Audited samples in the set.")
    kept_clean: int = Field(description="Those among them whose label is true.")


class ScoresView(BaseModel):
    """Scores and posteriors of the samples `offset`, `offset` + 1, …; null where there is none."""

    run_id: str
    round: int
    provisional: bool
    metric: Metric
    num_samples: int
    offset: int
    scores: list[float | None] = Field(description="Low is clean; null for a sample that was never observed.")
    noisy_posterior: list[float | None] = Field(description="Probability of being mislabelled.")


class HistoryView(BaseModel):
    """A sample in one round."""

    round: int
    member: bool = Field(description="Whether the model was trained on it.")
    planted: bool = Field(description="Whether its label was broken on purpose: the bits are about that label.")
    history: str = Field(description="A character per epoch: 1 memorised, 0 misclassified, . not observed.")


class SampleView(BaseModel):
    """What is known of one sample, and why it was kept or dropped."""

    run_id: str
    round: int
    provisional: bool
    index: int
    id: str | None = Field(description="Its external id; null where no ids were put.")
    label: int | None = Field(description="Its given label; null where no labels were put.")
    suggested: int | None = Field(
        description="The class that logs predicted most often; null where they predicted none, or put no label."
    )
    audited: bool | None = Field(description="Whether the audit found its label to be true; null if it was not asked.")
    rounds: list[HistoryView]
    epochs: int = Field(description="Epochs of the rounds that count.")
    observed: int = Field(description="Those among them in which it was observed.")
    misclassified: int = Field(description="Those among them in which it was misclassified.")
    score: float | None
    noisy_posterior: float | None
    kept: bool
    why: str


class ImpliedView(BaseModel):
    """What the fitted mixture implies of a cut, with 90% intervals; null where it says nothing that can be believed."""

    precision: float | None
    precision_low: float | None
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None


class CutMeasuredView(BaseModel):
    """What the audit says of a cut."""

    precision: float | None
    recall: float | None
    f1: float | None


class CutView(BaseModel):
    """One cut: samples with a metric up to `value` would be kept."""

    cut: int
    value: float
    num_kept: int
    estimated: ImpliedView
    measured: CutMeasuredView | None = Field(description="Null without an audit.")


class SweepView(BaseModel):
    """Every cut of the histogram, from the one that keeps the fewest on."""

    run_id: str
    round: int
    provisional: bool
    metric: Metric
    threshold: ThresholdView = Field(description="The cut that the set was made with.")
    verdict: Verdict
    cuts: list[CutView]
