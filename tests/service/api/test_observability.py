"""What an operator sees: counters without bound nowhere, a line per request, and where its time went."""

import logging
import re

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from tests.inprocess import running
from tests.service.recordings import OCTETS, put_epochs, recording

N = 100
Series = set[tuple[str, frozenset[tuple[str, str]]]]


def series(service: httpx.Client) -> Series:
    """Every name with its labels."""
    families = text_string_to_metric_families(service.get("/metrics").text)
    return {(sample.name, frozenset(sample.labels.items())) for family in families for sample in family.samples}


def busy(service: httpx.Client, name: str) -> None:
    """All kinds of requests, good and bad, on a run of this name."""
    service.put(f"/runs/{name}", json={"num_samples": N})
    put_epochs(service, name, recording(N, 3))
    service.put(f"/runs/{name}/rounds/0/metrics/0", json={name: 1.0})
    service.put(f"/runs/{name}/labels", json={"labels": [0] * N})
    service.post(f"/runs/{name}/predictions", json=[{"epoch": 7, "sample": 1, "correct": True}])
    service.post(f"/runs/{name}/rounds/0/finish")
    service.get(f"/selection/{name}")
    service.get(f"/selection/{name}", params={name: 1})
    service.get(f"/{name}")
    service.get(f"/runs/{name}/{name}/x")
    service.request(name.upper(), "/runs")
    service.get("/runs", headers={"User-Agent": name, "X-Request-ID": name, "Accept": f"text/{name}"})
    service.get(f"/problems/{name}")
    service.delete(f"/runs/{name}")
    service.get("/metrics")


def test_labels_are_bounded_whatever_is_asked(service: httpx.Client) -> None:
    busy(service, "first-secret")
    before = series(service)
    for number in range(3):
        busy(service, f"secret-{number}")
    after = series(service)
    assert after - before == set()
    assert not [entry for entry in after if "secret" in repr(entry).lower()]
    templates = set(service.get("/openapi.json").json()["paths"])
    shown = {value for _, labels in after for name, value in labels if name == "route"}
    assert shown <= templates | {"none", "/openapi.json"}


def test_bytes_epochs_fits_and_the_store_are_measured(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N})
    put_epochs(service, "a", recording(N, 4))
    service.post("/runs/a/rounds/0/finish")
    text = service.get("/metrics").text
    route = "/runs/{run_id}/rounds/{round}/epochs/{epoch}"
    assert f'mild_http_received_bytes_total{{route="{route}"}} 52.0' in text
    assert re.search(rf'mild_http_sent_bytes_total{{route="{re.escape(route)}"}} [1-9]', text)
    assert 'mild_epochs_total{outcome="committed"} 4.0' in text
    assert "mild_compute_seconds_count 1.0" in text
    for phase in ("store", "compute", "encode", "decode"):
        assert re.search(rf'mild_phase_seconds_count{{phase="{phase}"}} [1-9]', text)
    assert 'mild_waiting{kind="compute"} 0.0' in text


def timed(answer: httpx.Response) -> dict[str, float]:
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])}


def test_answers_say_where_their_time_went(service: httpx.Client) -> None:
    service.put("/runs/a", json={"num_samples": N})
    put = service.put("/runs/a/rounds/0/epochs/0", content=recording(N, 1)[0], headers=OCTETS)
    assert set(timed(put)) == {"store", "decode"}
    looked = service.get("/selection/a")
    assert set(timed(looked)) == {"store", "compute", "encode"}
    assert set(timed(service.get("/selection/a"))) == {"store", "encode"}  # from the cache
    finished = service.post("/runs/a/rounds/0/finish")
    assert {"store", "encode"} <= set(timed(finished))
    assert "server-timing" not in service.get("/health").headers


def test_every_request_is_a_line_in_the_log_under_its_id(
    service: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service.get("/runs/no-such-run", headers={"X-Request-ID": "job-7"})
    service.get("/health")
    (record,) = [record for record in caplog.records if hasattr(record, "route")]
    fields = vars(record)
    assert (fields["method"], fields["route"], fields["status"]) == ("GET", "/runs/{run_id}", 404)
    assert (fields["path"], fields["bytes_in"]) == ("/runs/no-such-run", 0)
    assert fields["bytes_out"] > 100
    assert fields["milliseconds"] > 0
    caplog.set_level(logging.DEBUG)
    service.get("/health")
    assert "/health" in caplog.records[-1].getMessage() or any("/health" in r.getMessage() for r in caplog.records)


def test_a_path_cannot_forge_lines(service: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service.get("/runs/x%0AERROR: forged")
    assert not [record for record in caplog.records if "\n" in record.getMessage()]


def test_an_unforeseen_error_is_logged_with_its_traceback_and_named_to_the_caller(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise RuntimeError("secret detail")

    app.add_api_route("/fail", fail)
    caplog.set_level(logging.ERROR)
    with running(app) as transport, httpx.Client(transport=transport, base_url="http://service") as service:
        answer = service.get("/fail")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert answer.json()["request_id"] in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)
    assert "secret" not in answer.text
