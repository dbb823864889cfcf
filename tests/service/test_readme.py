"""README.md: what it tells to type at a service, and in Python without one, works as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from tests.live import serving
from tests.waiting import PATIENCE

EXAMPLES = re.findall(r"```(\w*)\n(.*?)```", Path("README.md").read_text(), re.DOTALL)


def test_the_curl_examples_run(app: FastAPI, tmp_path: Path) -> None:
    blocks = [text for language, text in EXAMPLES if not language and "curl" in text]
    assert len(blocks) == 3
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with serving(app) as url:
        for block in blocks:
            # --fail-with-body, so that a refusal is told on stderr
            script = block.replace("localhost:8000", url).replace("curl ", "curl -sS --fail-with-body ")
            done = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path, env={"PATH": path}, capture_output=True, text=True, check=True
            )
            assert "returned error" not in done.stderr, done
        named = httpx.get(f"{url}/selection/my-logs?ids=true", headers={"Accept": "text/csv"}, timeout=PATIENCE).text
    assert named.splitlines()[1:] == ["0,cat/1.png", "1,cat/2.png"]
    assert np.load(tmp_path / "clean.npy").size == 50000


def test_the_example_without_a_server_runs() -> None:
    (example,) = (text for language, text in EXAMPLES if "from mild_core import select" in text)
    rng = np.random.default_rng(0)
    learnt = rng.poisson(np.where(np.arange(1000) < 700, 3, 25))
    names: dict[str, Any] = {"bits": np.arange(20)[:, None] >= learnt}
    exec(example.replace("correct = ...", "correct = bits"), names)
    selection = names["selection"]
    assert selection.verdict == "separable"
    assert selection.estimated["noise_rate"].low <= 0.3 <= selection.estimated["noise_rate"].high


def test_every_link_leads_somewhere() -> None:
    """Files are there, and so are the headings that are linked to, in README.md and in docs/."""
    for page in [Path("README.md"), *Path("docs").glob("*.md"), Path("benchmarks/README.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert anchor in [_anchor(heading) for heading in headings], f"{page}: {target}#{anchor}"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
