from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.client.background.trainings import Gate
from tests.inprocess import running


@pytest.fixture
def gate(app: FastAPI) -> Iterator[Gate]:
    with running(app) as transport:
        yield Gate(transport)


@pytest.fixture
def http(gate: Gate) -> Iterator[httpx.Client]:
    with httpx.Client(transport=gate, base_url="http://service") as client:
        yield client


@pytest.fixture
def spools(tmp_path: Path) -> Path:
    return tmp_path / "spools"
