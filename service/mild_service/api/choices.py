"""JSON of how a clean set is chosen."""

from typing import Annotated, Any

from pydantic import Field, FiniteFloat

from mild_core.types import AuditUse, Evidence, Fit, Metric, Rule, SelectionOptions
from mild_service.api.strict import Strict

# Ranges that `SelectionOptions` checks, for whoever reads the OpenAPI.
Share = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 0, "maximum": 1})]
CostRatio = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": 1e-6, "maximum": 1e6})]
MetricValue = Annotated[FiniteFloat, Field(json_schema_extra={"minimum": -1e9, "maximum": 1e9})]


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
