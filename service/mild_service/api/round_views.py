"""JSON of rounds, in and out: their state, members, metrics, and their end."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat

from mild_core.types import Verdict
from mild_service.api.strict import MAX_ENTRIES, Strict, few
from mild_service.state import Round

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Scalar = Annotated[FiniteFloat, Field(strict=True)]
Scalars = Annotated[
    dict[MetricName, Scalar],
    Field(min_length=1, json_schema_extra={"additionalProperties": False, "maxProperties": MAX_ENTRIES}),
    BeforeValidator(few),
]


class FinishRequest(Strict):
    """Optional details of finishing a round."""

    allow_gaps: bool = Field(False, description="Count missing epochs as unobserved instead of refusing.")
    selected: str | None = Field(None, description="Base64 of the bitmap that an offline client has used already.")
    core_version: str | None = Field(
        None, max_length=64, description="Version of mild-selection that computed `selected`."
    )


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
