"""JSON of labels, audits and planted samples, in and out."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from mild_service.api.strict import Strict

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class LabelsRequest(Strict):
    """The given labels."""

    labels: Annotated[list[Int64], Field(fail_fast=True)] = Field(description="One class index per sample.")


class LabelsView(BaseModel):
    """What a labels' PUT has done."""

    run_id: str
    outcome: Literal["set", "same", "replaced"]


class AuditRequest(Strict):
    """Samples whose label was checked."""

    indices: Annotated[list[Int64], Field(fail_fast=True)] = Field(description="Sample indices, in any order.")
    clean: Annotated[list[bool | None], Field(fail_fast=True)] = Field(
        description="For each of them, whether its given label is true; null takes an earlier mark back."
    )


class AuditedView(BaseModel):
    """What an audit's PUT has done."""

    run_id: str
    num_known: int = Field(description="Samples that are audited now.")
    num_clean: int = Field(description="Those among them whose label is true.")
    num_added: int = Field(description="Samples that were not audited before.")
    num_replaced: int = Field(description="Samples whose mark contradicted an earlier one, which it replaces.")
    num_removed: int = Field(description="Samples whose mark was taken back.")


class AuditView(BaseModel):
    """A run's audit, all marks together."""

    run_id: str
    num_known: int
    num_clean: int
    indices: list[int] = Field(description="Audited samples, ascending.")
    clean: list[bool] = Field(description="For each of them, whether its given label is true.")


class PlantedView(BaseModel):
    """What a PUT of planted samples has done."""

    run_id: str
    outcome: Literal["set", "same"]
    num_planted: int


class PlantedDetail(BaseModel):
    """Samples that were mislabelled on purpose in round 0."""

    run_id: str
    num_planted: int
    indices: list[int] = Field(description="Sorted.")
