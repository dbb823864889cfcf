from dataclasses import dataclass, field, fields

import pytest

from mild_core.errors import ParameterError
from mild_core.fields import check_fields, declare_field, describe, get_wire_name, resolve_field_types
from mild_core.types import CHANGEABLE_FIELDS, Metric, RunSpec, SelectionOptions


@dataclass(frozen=True)
class Settings:
    metric: Metric = declare_field("mild-simple", "A choice.")
    share: float | None = declare_field(0.5, "A share.", 0, 1)
    count: int = declare_field(1, "A number without an upper limit.", low=1)
    depth: int = declare_field(1, "A number without a lower limit.", high=3)
    ratio: float = declare_field(1.0, "A number with large limits.", 1e-6, 1e6)
    import_: str = field(default="", metadata=describe("A keyword on the wire.", alias="import"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric": "other"}, "metric is 'other'; choose one of mild-simple, mild, forgetting, first-learned"),
        ({"share": "half"}, "share is 'half'; give a number"),
        ({"share": 1.5}, "share is 1.5; give a number in 0..1"),
        ({"share": float("nan")}, "share is nan; give a number in 0..1"),
        ({"count": 0}, "count is 0; give a number in 1.."),
        ({"depth": 4}, "depth is 4; give a number in ..3"),
        ({"ratio": 0.0}, "ratio is 0.0; give a number in 1e-06..1e+06"),
    ],
)
def test_a_value_outside_its_limits_is_refused_with_the_limits(values: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError) as error:
        check_fields(Settings(**values))  # type: ignore[arg-type]  # what is tried is of any type
    assert str(error.value) == message


def test_values_within_their_limits_pass_and_none_is_not_checked() -> None:
    check_fields(Settings())
    check_fields(Settings(share=None, count=10**12, depth=-5))


def test_a_field_has_its_alias_on_the_wire() -> None:
    assert [get_wire_name(each) for each in fields(Settings)][-2:] == ["ratio", "import"]
    assert resolve_field_types(Settings)["count"] is int


def test_a_run_comes_back_from_its_json() -> None:
    spec = RunSpec(
        "mine", 100, observe="mixed", forward_pass="train", selection=SelectionOptions(p=0.2), tags={"team": "a"}
    )
    values = spec.as_json()
    assert (values["pass"], values["selection"]["p"], "forward_pass" in values) == ("train", 0.2, False)
    assert RunSpec.from_json(values) == spec
    assert RunSpec.from_json({"run_id": "mine", "num_samples": 3}) == RunSpec("mine", 3)
    with pytest.raises(TypeError, match="later"):
        RunSpec.from_json({**values, "later": 1})


def test_what_opening_again_may_change_is_marked() -> None:
    assert CHANGEABLE_FIELDS == ("expected_epochs", "expected_rounds", "picture_url", "tags", "ttl_seconds")
