"""Everything that a JSON body may hold is bounded where it is declared, and counted before it is parsed."""

import asyncio
import base64
import gzip
import threading
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import httpx
import orjson
import pytest
from fastapi import FastAPI
from pydantic import Field
from starlette.requests import Request

from mild_service import routes
from mild_service.errors import InvalidRequest
from mild_service.routes.annotations import LabelsRequest
from mild_service.routes.stateless_selection import StatelessRequest
from mild_service.web import bodies
from mild_service.web.bodies import DocumentRoute, RequestModel

LISTS = ("list", "tuple", "set", "frozenset", "generator")


def request_models(parent: type[RequestModel] = RequestModel) -> Iterator[type[RequestModel]]:
    """Yield all classes of request bodies."""
    for model in parent.__subclasses__():
        yield model
        yield from request_models(model)


def core_nodes(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes of one of pydantic's core schemas with their paths."""
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield path, node
        for name, value in node.items():
            if name not in ("metadata", "config", "serialization"):
                yield from core_nodes(value, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for position, value in enumerate(node):
            yield from core_nodes(value, f"{path}[{position}]")


def find_unbounded_types(core_schema: Any, path: str) -> list[str]:
    """Return what a core schema leaves without a bound, or validates to the end of a list after an error."""
    faults = []
    for where, node in core_nodes(core_schema, path):
        kind = node["type"]
        if kind in LISTS and not (node.get("max_length") and node.get("fail_fast")):
            faults.append(f"{where}: {kind} without max_length and fail_fast")
        if kind == "dict" and not node.get("max_length"):
            faults.append(f"{where}: dict without max_length")
        if kind in ("str", "bytes") and not (node.get("max_length") or node.get("pattern")):
            faults.append(f"{where}: {kind} without max_length or pattern")
        if kind == "any" and not where.endswith(".items_schema"):
            faults.append(f"{where}: any")
    return faults


def find_unbounded_schemas(schema: Any, root: dict[str, Any], path: str) -> list[str]:
    """Return what a JSON schema of OpenAPI leaves without a bound."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return find_unbounded_schemas(root["components"]["schemas"][name], root, f"{path}({name})")
    faults, kinds = [], schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not kinds and not {"anyOf", "enum", "const"} & set(schema):
        faults.append(f"{path}: any value")
    if "array" in kinds and not {"maxItems", "items"} <= set(schema):
        faults.append(f"{path}: array without maxItems and items")
    if "object" in kinds and schema.get("additionalProperties") is not False and "maxProperties" not in schema:
        faults.append(f"{path}: object without additionalProperties: false or maxProperties")
    is_streamed = schema.get("format") == "binary"  # a log
    if "string" in kinds and not is_streamed and not {"maxLength", "pattern", "enum", "const"} & set(schema):
        faults.append(f"{path}: string without maxLength")
    inner = {f".{name}": value for name, value in schema.get("properties", {}).items()}
    inner |= {f"|{position}": value for position, value in enumerate(schema.get("anyOf", []))}
    inner |= {"[]": schema["items"]} if "items" in schema else {}
    inner |= {".*": extra} if isinstance(extra := schema.get("additionalProperties"), dict) else {}
    return faults + [
        fault for name, value in inner.items() for fault in find_unbounded_schemas(value, root, path + name)
    ]


def test_everything_in_every_request_model_is_bounded_and_fails_fast() -> None:
    models = [model for model in request_models() if model.__module__.startswith("mild_service.")]
    assert {LabelsRequest, StatelessRequest} <= set(models)
    faults = [
        fault for model in models for fault in find_unbounded_types(model.__pydantic_core_schema__, model.__name__)
    ]
    assert faults == []


def test_every_json_body_of_every_route_is_bounded_in_openapi(app: FastAPI) -> None:
    document, faults, n_bodies = app.openapi(), [], 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if schema := content.get("application/json", {}).get("schema"):
                n_bodies += 1
                faults += find_unbounded_schemas(schema, document, f"{method.upper()} {path} ")
    assert n_bodies >= 10
    assert faults == []


def test_what_fastapi_parses_is_counted_before() -> None:
    modules = [import_module(f"mild_service.routes.{module.name}") for module in iter_modules(routes.__path__)]
    resources = [route for module in modules if hasattr(module, "router") for route in module.router.routes]
    parsed = [route for route in resources if route.body_field is not None]
    assert len(parsed) >= 4
    assert [route.path for route in parsed if not isinstance(route, DocumentRoute)] == []


def test_the_walk_sees_what_has_no_bound() -> None:
    class Unbounded(RequestModel):
        names: list[str]
        tags: dict[str, int] = Field(max_length=3)
        anything: Any = None

    try:
        kinds = [fault.rpartition(": ")[2] for fault in find_unbounded_types(Unbounded.__pydantic_core_schema__, "")]
        unbounded = "str without max_length or pattern"
        assert sorted(kinds) == ["any", "list without max_length and fail_fast", unbounded, unbounded]
    finally:
        del Unbounded


HOSTILE = {
    "rounds": b'{"rounds":[' + b"{}," * 400_000 + b"{}]}",
    "rows": b'{"correct":[' + b"[]," * 400_000 + b"[]]}",
    "strings": b'{"correct":[' + b'"",' * 400_000 + b'""]}',
    "fields": b'{"x":1' + b',"x":1' * 200_000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_too_many_lists_is_refused_before_it_is_parsed(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("mild_service.web.bodies.orjson.loads", lambda _: pytest.fail("the body was parsed"))
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = gzip.compress(HOSTILE[name])
    assert len(body) < 8192
    answer = service.post("/selection", content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert "lists, objects and strings, at most 32768 are read" in answer.json()["detail"]


def test_a_body_of_too_many_numbers_is_refused(service: httpx.Client) -> None:
    body = b'{"correct":[[0' + b",0" * 2**20 + b"]]}"
    answer = service.post("/selection", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert "has 1048577 values, at most 1048576 are read" in answer.json()["detail"]


@pytest.mark.parametrize(("method", "path"), [("PUT", "/runs/b"), ("PATCH", "/runs/a"), ("POST", "/runs/a/audit/draw")])
def test_a_document_of_too_many_objects_is_refused(opened: httpx.Client, method: str, path: str) -> None:
    answer = opened.request(method, path, json={"tags": [{}] * 100_000})
    assert answer.status_code == 422
    assert "100003 lists" in answer.json()["detail"]


def test_a_large_body_is_parsed_and_validated_in_a_thread(
    service: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, parse = [], bodies.parse_json

    def parse_and_note(body: bytes, model: Any) -> Any:
        threads.append(threading.current_thread())
        return parse(body, model)

    monkeypatch.setattr(bodies, "parse_json", parse_and_note)
    n_samples = 100_000
    assert service.put("/runs/large", json={"num_samples": n_samples}).status_code == 201
    assert service.put("/runs/large/labels", json={"labels": [10] * n_samples}).status_code == 200
    marks = {"indices": list(range(n_samples)), "clean": [True] * n_samples}
    assert service.put("/runs/large/audit", json=marks).json()["num_known"] == n_samples
    assert service.put("/runs/large/rounds/0/members", json={"indices": marks["indices"]}).status_code == 200
    assert service.post("/selection", json={"correct": [[0, 1] * (n_samples // 2)] * 3}).status_code == 200
    assert len(threads) == 4
    assert all(thread.name.startswith("AnyIO worker") for thread in threads)


@pytest.mark.anyio
async def test_other_tasks_run_while_a_body_is_inflated() -> None:
    body = gzip.compress(bytes(2**24))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "PUT", "path": "/", "headers": [(b"content-encoding", b"gzip")]}
    n_turns = 0

    async def tick() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    assert len(await bodies.RequestBody(Request(scope, receive)).read_prefix(2**24)) == 2**24
    ticking.cancel()
    assert n_turns >= 2**24 // 2**20


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([1] * 70_000 + [1.5], "labels[70000] is 1.5"),
        ([1] * 70_000 + [2**63], f"labels[70000] is {2**63}"),
        ([True], "labels[0] is True"),
        ([[1]], "labels[0] is [1]"),
    ],
)
def test_the_first_item_that_is_no_integer_is_named(opened: httpx.Client, labels: list[Any], says: str) -> None:
    answer = opened.put("/runs/a/labels", json={"labels": labels})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-request")
    assert says in answer.json()["detail"]


def test_errors_name_a_few_of_many_faults(service: httpx.Client) -> None:
    answer = service.put("/runs/b", json={f"field_{number}": number for number in range(60)} | {"num_samples": 1})
    assert answer.status_code == 422
    assert answer.json()["detail"].count("Extra inputs") == 5


def test_an_array_of_ids_is_parsed_in_pieces(service: httpx.Client) -> None:
    ids = [f'id, "{number}", \\ [{number}]' for number in range(20_000)]
    service.put("/runs/many", json={"num_samples": len(ids)})
    headers = {"Content-Type": "application/json"}
    answer = service.put("/runs/many/sample-ids", content=orjson.dumps(ids), headers=headers)
    assert answer.status_code == 200, answer.text
    assert service.get("/runs/many/sample-ids").json()["sample_ids"] == ids


@pytest.mark.parametrize("n_bytes", [2, 3, 3 * 2**18, 3 * 2**18 + 1])
def test_base64_is_decoded_in_pieces(n_bytes: int) -> None:
    bits = bytes(range(256)) * (n_bytes // 256 + 1)
    text = base64.b64encode(bits[:n_bytes]).decode()
    assert bodies.decode_bitmap(text, 8 * n_bytes, "selected").tobytes() == bits[:n_bytes]


def test_base64_that_is_padded_before_its_end_is_refused() -> None:
    text = "A" * (2**20 - 2) + "==" + "AAAA"
    with pytest.raises(InvalidRequest, match="padding before the end"):
        bodies.decode_bitmap(text, 8, "selected")
