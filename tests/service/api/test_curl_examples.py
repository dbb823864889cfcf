"""docs/api.md: the examples of "A run with curl" run."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
from fastapi import FastAPI

from tests.live import serving
from tests.waiting import PATIENCE

PAGE = Path("docs/api.md").read_text()
SECTION = PAGE[PAGE.index("## A run with curl") : PAGE.index("## Bits")]


def test_the_curl_examples_run(app: FastAPI, tmp_path: Path) -> None:
    blocks = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)
    assert len(blocks) == 3
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with serving(app) as url:
        for block in blocks:
            # --fail-with-body, so that a refusal is reported on stderr
            script = block.replace("localhost:8000", url).replace("curl ", "curl -sS --fail-with-body ")
            done = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=True
            )
            assert "returned error" not in done.stderr, done
        response = httpx.get(f"{url}/selection/my-logs?ids=true", headers={"Accept": "text/csv"}, timeout=PATIENCE)
    assert response.text.splitlines()[1:] == ["0,cat/1.png", "1,cat/2.png"]
    assert np.load(tmp_path / "clean.npy").size == 50000
