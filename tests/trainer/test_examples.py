import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mild_trainer.embedded import EmbeddedService

EXAMPLES = Path("examples")


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_tracker",
        "lightning_digits",
        "transformers_digits",
        "keras_digits",
        "accelerate_digits",
        "sklearn_text",
    ],
)
def test_an_example_finds_the_right_labels(name: str) -> None:
    check(run([sys.executable, str(EXAMPLES / f"{name}.py")]))


def test_the_example_without_torch_gets_its_clean_set_from_a_service(tmp_path: Path) -> None:
    with EmbeddedService(tmp_path) as service:
        check(run([sys.executable, str(EXAMPLES / "numpy_bitmaps.py"), service.url]))


def run(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # noqa: TID251 (a child's environment, no setting of ours)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def check(printed: str) -> None:
    numbers = re.search(r"kept (\d+), of which (\d+) are right", printed)
    assert numbers is not None, printed
    kept, right = (int(number) for number in numbers.groups())
    assert right / kept > 0.95
    assert right > 1000


def test_the_curl_example_gets_its_clean_set(tmp_path: Path) -> None:
    with EmbeddedService(tmp_path) as service:
        example = ["sh", str(EXAMPLES / "curl.sh"), service.url]
        found = subprocess.run(example, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(answers) == 11
    assert answers[-2]["verdict"] == "insufficient"
    assert answers[-1]["indices"] == list(range(12))


def test_the_asynchronous_example_trains_four_at_once_and_watches(tmp_path: Path) -> None:
    with EmbeddedService(tmp_path) as service:
        example = [sys.executable, str(EXAMPLES / "async_client.py"), service.url]
        found = subprocess.run(example, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    watched = [int(line.split()[2]) for line in lines if line.endswith("memorised")]
    assert watched == list(range(12))
    outcomes = [re.fullmatch(r"\S+: separable, kept (\d+), of which (\d+) are right", line) for line in lines]
    kept = [[int(number) for number in found.groups()] for found in outcomes if found]
    assert len(kept) == 4
    assert all(right / n > 0.95 and right > 1200 for n, right in kept)
