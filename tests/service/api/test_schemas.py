"""Options and runs are declared once: whatever the dataclass says is in the requests, the answers and the queries."""

from dataclasses import fields
from pathlib import Path

import httpx

from mild_core.fields import get_wire_name
from mild_core.results import SelectionSummary
from mild_core.types import RunSpec, SelectionOptions

ROOT = Path(__file__).parents[3]


def test_every_option_is_a_query_parameter_with_its_description(service: httpx.Client) -> None:
    operation = service.get("/openapi.json").json()["paths"]["/selection/{run_id}"]["get"]
    described = {each["name"]: each.get("description") for each in operation["parameters"]}
    for option in fields(SelectionOptions):
        assert described[option.name] == option.metadata["text"]


def test_every_field_of_a_run_is_in_its_request_and_its_answer(service: httpx.Client) -> None:
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    names = {get_wire_name(each) for each in fields(RunSpec)}
    assert names - {"run_id"} <= set(schemas["RunRequest"]["properties"])
    assert names <= set(schemas["RunView"]["properties"])
    answer = service.put("/runs/mine", json={"num_samples": 8}).json()
    assert names <= set(answer)
    assert set(answer["selection"]) == {each.name for each in fields(SelectionOptions)}


def test_a_selection_has_the_fields_of_its_summary(service: httpx.Client) -> None:
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    assert {each.name for each in fields(SelectionSummary)} <= set(schemas["SelectionView"]["properties"])
    assert "#/components/schemas/Threshold" in str(schemas["SelectionView"]["properties"]["threshold"])


def test_every_option_and_field_is_documented() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for each in (*fields(SelectionOptions), *fields(RunSpec)):
        assert (
            f"`{get_wire_name(each)}" in text or f"{get_wire_name(each)}`" in text or f'"{get_wire_name(each)}"' in text
        )
