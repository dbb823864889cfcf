import json
import os
import re
import subprocess
import sys
from pathlib import Path

from mild_trainer.service import EmbeddedService

EXAMPLES = Path("examples")


def test_the_tracker_example_finds_the_right_labels() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # noqa: TID251 (a child's environment, no setting of ours)
    example = [sys.executable, str(EXAMPLES / "pytorch_tracker.py")]
    found = subprocess.run(example, capture_output=True, text=True, check=True, env=environment)
    numbers = re.search(r"kept (\d+), of which (\d+) are right", found.stdout)
    assert numbers is not None
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
