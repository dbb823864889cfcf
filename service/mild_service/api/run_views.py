"""JSON of runs, in and out."""

from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Field

from mild_core.types import Observe, Pass
from mild_service.api.choices import SelectionChoice
from mild_service.api.round_views import RoundView
from mild_service.api.strict import Strict, Whole, few
from mild_service.pictures import MAX_TEMPLATE
from mild_service.runs import Opening
from mild_service.state import Run, Status

Tags = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(few),
]
Ttl = Annotated[Whole, Field(ge=60, le=10 * 365 * 24 * 3600)]
PictureUrl = Annotated[
    str,
    Field(
        max_length=MAX_TEMPLATE,
        description="Where the dashboard finds pictures: https://…/{id}.png or …/{index}.png; empty: nowhere.",
    ),
]


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
