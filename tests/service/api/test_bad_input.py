"""What cannot be served is refused with the limit, the value got and a remedy, and changes nothing."""

import base64
import gzip
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import zstandard
from redis import Redis

from mild_service.app import create_app
from mild_service.config import Settings
from tests.inprocess import running
from tests.service.conftest import Dump, dumped
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
BODY, OTHER = recording(N, 1)[0], recording(N, 1, seed=1)[0]
ZSTD = zstandard.compress(BODY)
BOMB = zstandard.compress(bytes(10**7))
_WIDE = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters.from_level(1, window_log=26)
).compressobj()
WIDE = _WIDE.compress(BODY) + _WIDE.flush()
EPOCH_10 = "/runs/a/rounds/0/epochs/10"
JSON = {"Content-Type": "application/json"}


@dataclass
class Case:
    """A request to a service with run `a` of 100 samples, epochs 0..9 in the open round 0, at attempt 2."""

    name: str
    method: str
    path: str
    status: int
    code: str
    says: list[str]
    request: dict[str, Any] = field(default_factory=dict)


def epoch(
    name: str, body: bytes, status: int, code: str, says: list[str], path: str = EPOCH_10, **headers: str
) -> Case:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Case(name, "PUT", path, status, code, says, {"content": body, "headers": {**OCTETS, **names}})


def run(
    name: str, body: Any, status: int, code: str, says: list[str], run_id: str = "new", method: str = "PUT"
) -> Case:
    return Case(name, method, f"/runs/{run_id}", status, code, says, {"json": body})


def members(name: str, status: int, code: str, says: list[str], path: str = "rounds/0/members", **request: Any) -> Case:
    return Case(name, "PUT", f"/runs/a/{path}", status, code, says, request)


def finish(name: str, path: str, status: int, code: str, says: list[str], **request: Any) -> Case:
    return Case(name, "POST", f"/runs/{path}/finish", status, code, says, request)


def get(name: str, path: str, status: int, code: str, says: list[str], **request: Any) -> Case:
    return Case(name, "GET", path, status, code, says, request)


def stateless(name: str, body: Any, code: str, says: list[str]) -> Case:
    return Case(name, "POST", "/selection", 422, code, says, {"json": body})


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


CASES = [
    epoch("a short body", BODY[:-1], 422, "bitmap-length", ["13", "26", "got 12"]),
    epoch("an empty body", b"", 422, "bitmap-length", ["13", "got 0"]),
    epoch("a byte per sample", bytes(N), 422, "bitmap-length", ["13 or 26", "more than 26"]),
    epoch("trailing bits", b"\xff" * 13, 422, "trailing-bits", ["low 4 bits", "0xff", "zero"]),
    epoch("correct not observed", bytes(13) + BODY, 422, "correct-not-observed", ["observed bitmap first"]),
    epoch("an unknown run", BODY, 404, "run-not-found", ["'b'", "PUT /runs/b"], "/runs/b/rounds/0/epochs/0"),
    epoch("an impossible run id", BODY, 422, "invalid-request", ["run_id"], "/runs/-b/rounds/0/epochs/0"),
    epoch("other content", OTHER, 409, "epoch-conflict", ["replace=true"], "/runs/a/rounds/0/epochs/0"),
    epoch("a negative epoch", BODY, 422, "invalid-request", ["epoch", "0", "-1"], "/runs/a/rounds/0/epochs/-1"),
    epoch("an epoch past the limit", BODY, 422, "limit-exceeded", ["4095", "4096"], "/runs/a/rounds/0/epochs/4096"),
    epoch("a huge epoch", BODY, 422, "limit-exceeded", ["4095"], f"/runs/a/rounds/0/epochs/{10**30}"),
    epoch("an epoch that is no number", BODY, 422, "invalid-request", ["'x'"], "/runs/a/rounds/0/epochs/x"),
    epoch("a round past the limit", BODY, 422, "limit-exceeded", ["255", "999"], "/runs/a/rounds/999/epochs/0"),
    epoch("a round not begun", BODY, 409, "round-not-open", ["round 0 is open"], "/runs/a/rounds/1/epochs/0"),
    epoch("a stale attempt", BODY, 409, "stale-attempt", ["attempt 2", "got attempt 1"], Mild_Attempt="1"),
    epoch("an attempt that never was", BODY, 409, "stale-attempt", ["attempt 2", "got attempt 3"], Mild_Attempt="3"),
    epoch("an attempt that is no number", BODY, 422, "invalid-request", ["Mild-Attempt"], Mild_Attempt="x"),
    epoch("a wrong content type", BODY, 415, "unsupported-media-type", ["octet-stream"], Content_Type="text/plain"),
    epoch("an unknown coding", BODY, 415, "unsupported-media-type", ["gzip", "zstd", "'br'"], Content_Encoding="br"),
    epoch("no gzip", BODY, 400, "malformed-body", ["decompressed"], Content_Encoding="gzip"),
    epoch("half a gzip", gzip.compress(BODY)[:-4], 400, "malformed-body", ["gzip"], Content_Encoding="gzip"),
    epoch("no zstd", BODY, 400, "malformed-body", ["decompressed", "zstd"], Content_Encoding="zstd"),
    epoch("half a zstd", ZSTD[:-4], 400, "malformed-body", ["zstd"], Content_Encoding="zstd"),
    epoch("more behind a zstd", ZSTD + b"x", 400, "malformed-body", ["zstd"], Content_Encoding="zstd"),
    epoch("a zstd that wants 64 MiB", WIDE, 400, "malformed-body", ["memory"], Content_Encoding="zstd"),
    epoch("a zstd bomb", BOMB, 422, "bitmap-length", ["26"], Content_Encoding="zstd"),
    epoch("a gzip bomb", gzip.compress(bytes(10**7)), 422, "bitmap-length", ["26"], Content_Encoding="gzip"),
    epoch("a wrong digest", BODY, 422, "digest-mismatch", ["sha-256"], Content_Digest="sha-256=:AAAA:"),
    run("no samples", {"num_samples": 0}, 422, "limit-exceeded", ["1..134217728", "is 0"]),
    run("too many samples", {"num_samples": 10**15}, 422, "limit-exceeded", ["134217728", str(10**15)]),
    run("negative samples", {"num_samples": -1}, 422, "limit-exceeded", ["is -1"]),
    run("samples as text", {"num_samples": "100"}, 422, "invalid-request", ["num_samples", "'100'"]),
    run("samples missing", {}, 422, "invalid-request", ["num_samples", "required"]),
    run("an unknown field", {"num_samples": 1, "x": 2}, 422, "invalid-request", ["body.x"]),
    run("too many fields", {f"k{i}": 0 for i in range(65)}, 422, "invalid-request", ["65 entries", "at most 64"]),
    run("too many tags", {"num_samples": 1, "tags": {f"k{i}": "" for i in range(65)}}, 422, "invalid-request", ["64"]),
    run("a list", [1], 422, "invalid-request", ["body"]),
    run("a choice that is none", {"num_samples": 1, "observe": "some"}, 422, "invalid-request", ["members", "some"]),
    run(
        "an option out of range",
        {"num_samples": 1, "selection": {"fraction": 2.0}},
        422,
        "invalid-parameter",
        ["fraction", "0..1", "2.0"],
    ),
    run(
        "a threshold without its number",
        {"num_samples": 1, "selection": {"threshold": "value"}},
        422,
        "invalid-parameter",
        ["value"],
    ),
    run("a short life", {"num_samples": 1, "ttl_seconds": 1}, 422, "invalid-request", ["60"]),
    Case("half a character", "PUT", "/runs/new", 422, "invalid-request", ["tags"],
         {"content": rb'{"num_samples": 1, "tags": {"k": "\ud800"}}', "headers": JSON}),
    run("a run that resumes before it is", {"num_samples": 1, "resume_from": {"round": 1, "epoch": 0}}, 409,
        "round-not-open", ["round 0"]),
    run("a negative place", {"num_samples": 1, "resume_from": {"round": -1, "epoch": 0}}, 422, "limit-exceeded",
        ["-1"]),
    run("other samples", {"num_samples": 99}, 409, "run-conflict", ["num_samples 100", "99"], "a"),
    run("another observe", {"num_samples": N, "observe": "mixed"}, 409, "run-conflict", ["observe", "'mixed'"], "a"),
    run("another pass", {"num_samples": N, "pass": "train"}, 409, "run-conflict", ["pass 'eval'", "'train'"], "a"),
    run("other classes", {"num_samples": N, "num_classes": 3}, 409, "run-conflict", ["num_classes", "3"], "a"),
    run("another option", {"num_samples": N, "selection": {"p": 0.1}}, 409, "run-conflict", ["selection.p 0.5"], "a"),
    run("resuming too late", {"num_samples": N, "resume_from": {"round": 1, "epoch": 0}}, 409, "round-not-open",
        ["round 0 is open"], "a"),
    run("a patch of what is fixed", {"num_samples": 5}, 422, "invalid-request", ["num_samples"], "a", "PATCH"),
    run("a patch of no run", {"tags": {}}, 404, "run-not-found", ["'b'"], "b", "PATCH"),
    Case("no JSON", "PUT", "/runs/new", 400, "malformed-body", ["JSON"], {"content": b"{", "headers": JSON}),
    Case("no text", "PUT", "/runs/new", 400, "malformed-body", ["body"], {"content": b"\xff", "headers": JSON}),
    Case("too deep", "PUT", "/runs/new", 400, "malformed-body", ["body"], {"content": b"[" * 10**4, "headers": JSON}),
    Case("no type", "PUT", "/runs/new", 415, "unsupported-media-type", ["application/json"], {"content": b"{}"}),
    Case("a form", "PUT", "/runs/new", 415, "unsupported-media-type", ["urlencoded"], {"data": {"num_samples": "1"}}),
    Case("deleting no run", "DELETE", "/runs/b", 404, "run-not-found", ["'b'"]),
    members("members after an epoch", 409, "members-frozen", ["10 epochs"], content=BODY, headers=OCTETS),
    members("no members", 422, "invalid-input", ["0 of 100"], json={"indices": []}),
    members("a member that is none", 422, "sample-index", ["100", "0..99"], json={"indices": [0, 100]}),
    members("a negative member", 422, "sample-index", ["-1"], json={"indices": [-1]}),
    members("a huge member", 422, "invalid-request", ["64 bits"], json={"indices": [10**30]}),
    members("members as text", 422, "invalid-request", ["indices"], json={"indices": ["1"]}),
    members("short members", 422, "bitmap-length", ["13", "12"], content=BODY[:-1], headers=OCTETS),
    members("long members", 422, "bitmap-length", ["13", "more than 13"], content=BODY * 2, headers=OCTETS),
    members("members past the end", 422, "trailing-bits", ["low 4"], content=b"\xff" * 13, headers=OCTETS),
    members("half of members", 400, "malformed-body", ["JSON"], content=b'{"indices": [', headers=JSON),
    members("members in text", 415, "unsupported-media-type", ["text/plain"], content=b"1",
            headers={"Content-Type": "text/plain"}),
    members("planted after an epoch", 409, "planted-frozen", ["10 epochs", "resume_from"], "planted", content=BODY,
            headers=OCTETS),
    members("a planted sample that is none", 422, "sample-index", ["100", "0..99"], "planted", json={"indices": [100]}),
    members("planted as text", 422, "invalid-request", ["indices"], "planted", json={"indices": ["1"]}),
    members("short planted", 422, "bitmap-length", ["13", "12"], "planted", content=BODY[:-1], headers=OCTETS),
    members("planted past the end", 422, "trailing-bits", ["low 4"], "planted", content=b"\xff" * 13, headers=OCTETS),
    members("half of planted", 400, "malformed-body", ["JSON"], "planted", content=b'{"indices": [', headers=JSON),
    members("planted in text", 415, "unsupported-media-type", ["text/plain"], "planted", content=b"1",
            headers={"Content-Type": "text/plain"}),
    members("planted by an older attempt", 409, "stale-attempt", ["2", "1"], "planted", json={"indices": []},
            headers={"Mild-Attempt": "1"}),
    Case("planted of no run", "PUT", "/runs/b/planted", 404, "run-not-found", ["'b'"], {"content": BODY}),
    get("planted in a form that is none", "/runs/a/planted", 406, "not-acceptable", ["x-npy"],
        headers={"Accept": "text/html"}),
    members("no metrics", 422, "invalid-request", ["at least 1"], "rounds/0/metrics/0", json={}),
    members("endless metrics", 422, "invalid-request", ["finite"], "rounds/0/metrics/0", content=b'{"loss": NaN}',
            headers=JSON),
    members("metrics in text", 422, "invalid-request", ["loss", "'1'"], "rounds/0/metrics/0", json={"loss": "1"}),
    members("oddly named metrics", 422, "invalid-request", ["pattern"], "rounds/0/metrics/0", json={"Loss ": 1.0}),
    members("metrics of a negative epoch", 422, "invalid-request", ["-1"], "rounds/0/metrics/-1", json={"loss": 1.0}),
    finish("finishing a round not begun", "a/rounds/1", 409, "round-not-open", ["round 0 is open"]),
    finish("finishing with no epoch", "empty/rounds/0", 409, "no-epochs", ["at least 1", "epochs/0"]),
    finish("finishing with a gap", "gap/rounds/0", 409, "epoch-gap", ["2 are missing: 0, 2", "allow_gaps"]),
    finish("finishing no run", "b/rounds/0", 404, "run-not-found", ["'b'"]),
    finish("finishing with a short set", "a/rounds/0", 422, "bitmap-length", ["13"], json={"selected": b64(b"x")}),
    finish("finishing with no base64", "a/rounds/0", 422, "invalid-request", ["base64"], json={"selected": "*"}),
    finish("finishing as an older attempt", "a/rounds/0", 409, "stale-attempt", ["2", "1"],
           headers={"Mild-Attempt": "1"}),
    get("an unknown run's selection", "/selection/b", 404, "run-not-found", ["PUT /runs/b"]),
    get("an empty run's selection", "/selection/empty", 409, "no-epochs", ["at least 1"]),
    get("a round not begun", "/selection/a?round=1", 409, "round-not-open", ["wait=60"]),
    get("a round that is none", "/selection/a?round=x", 422, "invalid-request", ["round"]),
    get("an option that is none", "/selection/a?metric=x", 422, "invalid-request", ["mild-simple", "'x'"]),
    get("an option out of range", "/selection/a?p=2", 422, "invalid-parameter", ["0..1", "2.0"]),
    get("an option that is no number", "/selection/a?p=nan", 422, "invalid-request", ["p"]),
    get("a threshold without its number", "/selection/a?threshold=value", 422, "invalid-parameter", ["value"]),
    get("too long a wait", "/selection/a?round=0&wait=61", 422, "limit-exceeded", ["61", "0..60"]),
    get("a negative wait", "/selection/a?round=0&wait=-1", 422, "limit-exceeded", ["-1"]),
    get("a wait for no round", "/selection/a?wait=1", 422, "invalid-request", ["round=0"]),
    get("a form that is none", "/selection/a", 406, "not-acceptable", ["x-npy"], headers={"Accept": "text/html"}),
    get("no coding that there is", "/selection/a", 406, "not-acceptable", ["zstd, gzip, identity"],
        headers={"Accept-Encoding": "br, identity;q=0"}),
    get("a form with no quality", "/selection/a", 406, "not-acceptable", ["json"],
        headers={"Accept": "*/*;q=0, a/b;q=x"}),
    get("a fit of nothing", "/runs/empty/rounds/0/fit", 409, "no-epochs", ["at least 1"]),
    get("a page that is none", "/runs?cursor=x", 422, "invalid-request", ["cursor"]),
    get("too long a page", "/runs?limit=501", 422, "invalid-request", ["500", "501"]),
    get("an unknown run", "/runs/b", 404, "run-not-found", ["'b'"]),
    get("an unknown route", "/nowhere", 404, "not-found", ["/nowhere", "/docs"]),
    get("an unknown problem", "/problems/x", 404, "not-found", ["/problems"]),
    Case("an unknown method", "POST", "/runs/a", 405, "method-not-allowed", ["POST"]),
    stateless("both forms", {"rounds": [], "correct": []}, "invalid-request", ["both or neither"]),
    stateless("neither form", {}, "invalid-request", ["both or neither"]),
    stateless("no epochs", {"correct": []}, "invalid-request", ["0 epochs"]),
    stateless("no rounds", {"rounds": []}, "invalid-request", ["0 epochs"]),
    stateless("observed of no round", {"rounds": [{"correct": [[1]]}], "observed": [[1]]}, "invalid-request",
              ["inside"]),
    stateless("ragged rows", {"correct": [[1, 0], [1]]}, "bitmap-length", ["1 entries", "2"]),
    stateless("neither 0 nor 1", {"correct": [[1, 2]]}, "invalid-request", ["0 and 1"]),
    stateless("no numbers", {"correct": [[[1], 0]]}, "invalid-request", ["0 and 1"]),
    stateless("numbers for rows", {"correct": [1, 0]}, "invalid-request", ["correct"]),
    stateless("no samples", {"correct": [[]], "num_samples": 0}, "limit-exceeded", ["num_samples is 0"]),
    stateless("more epochs than samples", {"correct": [[1, 0]] * 3}, "invalid-request", ["3 rows of 2 entries",
              "transpose", "num_samples=2"]),
    stateless("bitmaps of unknown length", {"correct": [b64(BODY)]}, "invalid-request", ["num_samples"]),
    stateless("bitmaps of other length", {"correct": [b64(BODY)], "num_samples": 3}, "bitmap-length", ["13"]),
    stateless("too many samples", {"correct": [b64(BODY)], "num_samples": 10**15}, "limit-exceeded", [str(10**15)]),
    stateless("planted of other length", {"rounds": [{"correct": [[1]], "planted": [1, 0]}]}, "bitmap-length",
              ["rounds[0].planted", "2 entries"]),
    stateless("unequal rows", {"correct": [[1]], "observed": [[1], [1]]}, "invalid-request", ["1 rows", "2"]),
    stateless("correct unobserved", {"correct": [[1]], "observed": [[0]]}, "correct-not-observed", ["1 correct"]),
    stateless("too many epochs", {"correct": [[1]] * 4097, "num_samples": 1}, "limit-exceeded", ["4097", "4096"]),
    stateless("too many rounds", {"rounds": [{"correct": [[1]]}] * 257}, "limit-exceeded", ["257", "256"]),
]  # fmt: skip


@dataclass
class World:
    """The service that the cases are sent to, in its state."""

    service: httpx.Client
    openapi: dict[str, Any]
    dump: Dump


@pytest.fixture(scope="module")
def world(store_url: str) -> Iterator[World]:
    """One service for all cases: none of them changes it."""
    settings = Settings(store_url=store_url, store_namespace=f"test-{secrets.token_hex(8)}", sweep_seconds=0)
    app = create_app(settings)
    with (
        Redis.from_url(store_url) as redis,
        running(app) as transport,
        httpx.Client(transport=transport, base_url="http://service") as service,
    ):
        for run_id in ("a", "empty", "gap"):
            assert service.put(f"/runs/{run_id}", json={"num_samples": N}).status_code == 201
        put_epochs(service, "a", recording(N, 10))
        for number in (1, 3):
            service.put(f"/runs/gap/rounds/0/epochs/{number}", content=BODY, headers=OCTETS)
        service.put("/runs/a", json={"num_samples": N, "resume_from": {"round": 0, "epoch": 10}})
        yield World(service, app.openapi(), lambda: dumped(redis, settings.store_namespace))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.name}")
def test_bad_input_is_explained_and_changes_nothing(world: World, case: Case) -> None:
    state, before = world.service.get("/runs/a").json(), world.dump()
    answer = world.service.request(case.method, case.path, **case.request)
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (case.status, f"/problems/{case.code}"), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == case.status
    assert problem["retryable"] is False
    assert problem["request_id"] == answer.headers["x-request-id"]
    for words in case.says:
        assert words in problem["detail"]
    assert world.dump() == before
    assert world.service.get("/runs/a").json() == state
    assert_described(world.openapi["paths"], case)


def assert_described(paths: dict[str, Any], case: Case) -> None:
    """OpenAPI names the status, and the code beside it."""
    parts = httpx.URL(case.path).path.split("/")
    for template, methods in paths.items():
        pattern = template.split("/")
        if len(pattern) == len(parts) and all(a == b or a.startswith("{") for a, b in zip(pattern, parts, strict=True)):
            if case.method.lower() in methods:
                response = methods[case.method.lower()]["responses"][str(case.status)]
                assert f"`{case.code}`" in response["description"], template
                assert "application/problem+json" in response["content"]
            return
    assert case.status == 404
