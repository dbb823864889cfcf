"""Within one version of the interface nothing goes away that was promised, and old clients are told that they are."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from mild_service.web.auth import API_VERSION, OLDEST_CLIENT
from tests.service.api.promise import promised

ROOT = Path(__file__).parents[3]


def promise() -> dict[str, Any]:
    text = (ROOT / "docs" / f"api-{API_VERSION}.json").read_text()
    return dict(json.loads(text))


def test_what_was_promised_is_there(service: httpx.Client) -> None:
    old, new = promise(), promised(service.get("/openapi.json").json())
    assert old["problems"].items() <= new["problems"].items()
    assert set(old["routes"]) <= set(new["routes"])
    for name, before in old["routes"].items():
        now = new["routes"][name]
        assert set(before["parameters"]) <= set(now["parameters"]), name
        assert set(now["required"]) <= set(before["required"]), name
        for kind, fields in before["takes"].items():
            assert set(fields) <= set(now["takes"][kind]), (name, kind)
        for status, kinds in before["gives"].items():
            for kind, fields in kinds.items():
                assert set(fields) <= set(now["gives"][status][kind]), (name, status, kind)


def test_the_version_says_what_it_is_and_whom_it_understands(service: httpx.Client) -> None:
    versions = service.get("/version").json()
    assert (versions["api"], versions["oldest_client"]) == (1, OLDEST_CLIENT)


@pytest.mark.parametrize(
    ("agent", "status"),
    [
        ("mild-client/0.0.9", 400),
        ("mild-client/0", 400),
        ("mild-client/0.1.0", 200),
        ("mild-client/0.1.0rc1", 200),
        ("mild-client/12.0.0 (job 7)", 200),
        ("mild-client/next", 200),
        ("curl/0.0.1", 200),
        ("", 200),
    ],
)
def test_a_client_of_ours_that_is_too_old_is_told_so(service: httpx.Client, agent: str, status: int) -> None:
    answer = service.get("/runs", headers={"User-Agent": agent})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["type"] == "/problems/client-too-old"
        assert "pip install --upgrade" in answer.json()["detail"]
        assert service.get("/version", headers={"User-Agent": agent}).status_code == 200
