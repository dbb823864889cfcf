"""docs/api.md on access: its examples run."""

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from mild_service.app import create_app
from mild_service.config import Settings
from tests.live import serving
from tests.service.keyring import bearer, make
from tests.waiting import PATIENCE

PAGE = Path("docs/api.md").read_text()
SECTION = PAGE[PAGE.index("## Access") : PAGE.index("## Limits")]


def test_the_examples_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILD_API_KEY", raising=False)
    secret, _ = make(settings, "write")
    (python,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (curl,) = re.findall(r"```\n(curl .*?)```", SECTION, re.DOTALL)
    with serving(create_app(settings)) as url:
        exec(compile(python.replace("http://localhost:8000", url), "docs/api.md", "exec"), {"key": secret})
        assert httpx.get(f"{url}/runs/ci-1", headers=bearer(secret), timeout=PATIENCE).json()["num_samples"] == 50000
        command = curl.replace("localhost:8000", url)
        done = subprocess.run(
            ["bash", "-c", command],
            env={"PATH": "/usr/bin:/bin", "MILD_API_KEY": secret},
            capture_output=True,
            check=True,
        )
    assert b'"run_id":"ci-1"' in done.stdout
