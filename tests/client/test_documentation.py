"""docs/client.md: its examples run, and its table names every call and every route."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI

from mild_client.api import Calls
from mild_client.responses import RETRIED_STATUSES
from tests.live import serving

PAGE = Path("docs/client.md").read_text()
METHODS = ("get", "put", "post", "patch", "delete")


def test_the_examples_run(app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= 6
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    with serving(app) as url:
        names = {"print": lambda *words: printed.append(" ".join(map(str, words)))}
        for example in examples:
            exec(compile(example.replace("http://localhost:8000", url), "docs/client.md", "exec"), names)
    assert re.fullmatch(r"\d+ separable \[0, 1, .*", printed[0])
    assert printed[1] == "committed"
    assert re.fullmatch(r"[67]\d\d separable", printed[2])
    assert printed[3] == "900 100"
    assert printed[-1].startswith("run-not-found 404 ")


def test_every_call_and_every_route_is_in_the_table(app: FastAPI) -> None:
    table = PAGE[PAGE.index("| call | route |") :]
    documented = set(re.findall(r"`((?:GET|PUT|POST|PATCH|DELETE) /[^`]*)`", table))
    paths = app.openapi()["paths"].items()
    assert documented == {f"{method.upper()} {path}" for path, item in paths for method in METHODS if method in item}
    calls = {name for name in dir(Calls) if not name.startswith("_")}
    assert set(re.findall(r"`(\w+)\(", table)) == calls


def test_the_statuses_that_are_retried_are_listed() -> None:
    assert f"{', '.join(map(str, sorted(RETRIED_STATUSES)))} and broken connections are tried again" in PAGE
