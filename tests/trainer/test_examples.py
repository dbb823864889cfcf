import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from benchmarks.killing import FORKS
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
def test_an_example_finds_the_right_labels(name: str, tmp_path: Path) -> None:
    process = FORKS.Process(target=play, args=(EXAMPLES / f"{name}.py", tmp_path / "printed"))
    process.start()
    process.join()
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 0, printed
    check(printed)


def play(example: Path, printed: Path) -> None:
    with printed.open("w") as out, redirect_stdout(out), redirect_stderr(out):
        runpy.run_path(str(example), run_name="__main__")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service listens."""
    with EmbeddedService(tmp_path_factory.mktemp("service")) as service:
        yield service.url


def test_the_example_without_torch_gets_its_clean_set_from_a_service(url: str) -> None:
    example = [sys.executable, str(EXAMPLES / "numpy_bitmaps.py"), url]
    check(subprocess.run(example, capture_output=True, text=True, check=True).stdout)


def check(printed: str) -> None:
    numbers = re.search(r"kept (\d+), of which (\d+) are right", printed)
    assert numbers is not None, printed
    kept, right = (int(number) for number in numbers.groups())
    assert right / kept > 0.95
    assert right > 1000


def test_the_curl_example_gets_its_clean_set(url: str) -> None:
    example = ["sh", str(EXAMPLES / "curl.sh"), url]
    found = subprocess.run(example, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(answers) == 11
    assert answers[-2]["verdict"] == "insufficient"
    assert answers[-1]["indices"] == list(range(12))


def test_the_asynchronous_example_trains_four_at_once_and_watches(url: str) -> None:
    example = [sys.executable, str(EXAMPLES / "async_client.py"), url]
    found = subprocess.run(example, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    watched = [int(line.split()[2]) for line in lines if line.endswith("memorised")]
    assert watched == list(range(12))
    outcomes = [re.fullmatch(r"\S+: separable, kept (\d+), of which (\d+) are right", line) for line in lines]
    kept = [[int(number) for number in found.groups()] for found in outcomes if found]
    assert len(kept) == 4
    assert all(right / n > 0.95 and right > 1200 for n, right in kept)
