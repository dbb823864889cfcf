"""README.md: its examples run, its figures are those of their results files, and every link has a target."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI

from mild_core.guarantee import bound_quality
from tests.live import serving

README = Path("README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BENCHMARK_COMMANDS = re.findall(r"^python -m benchmarks\..*$", Path("benchmarks/README.md").read_text(), re.MULTILINE)
RESULT_ROWS = re.findall(r"^\| \[[^]]+\]\(([^)]+)\) \|(.*)\|$", README, re.MULTILINE)
N_SAMPLES, N_EPOCHS = 1000, 20


@pytest.fixture(scope="module")
def correct() -> Any:
    """Which samples a simulated network predicts as labelled, shape (n_epochs, n_samples); 300 labels are wrong."""
    rng = np.random.default_rng(0)
    first_correct_epoch = rng.poisson(3, N_SAMPLES)
    learnt = np.arange(N_EPOCHS)[:, None] >= first_correct_epoch
    return np.where(np.arange(N_SAMPLES) < 700, learnt, rng.random(learnt.shape) < 0.1)


def test_the_tracker_example_runs(app: FastAPI, correct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (text for text in PYTHON if "CorrectnessTracker" in text)
    labels = torch.zeros(N_SAMPLES, dtype=torch.int64)
    epochs = iter(torch.from_numpy(correct))
    names: dict[str, Any] = {
        "dataset": range(N_SAMPLES),
        "device": "cpu",
        "loader": [(torch.arange(N_SAMPLES), None, labels)],
        "training_step": lambda _images, _labels: torch.nn.functional.one_hot((~next(epochs)).long(), 2).float(),
    }
    with serving(app) as url:
        exec(example.replace("http://localhost:8000", url), names)
    assert names["selection"]["verdict"] == "separable"
    assert 650 < len(names["selection"]["indices"]) < 750
    assert np.load("clean.npy").tolist() == names["selection"]["indices"]


def test_the_example_without_a_service_runs(
    correct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (text for text in PYTHON if "from mild_core import select" in text)
    names: dict[str, Any] = {"correct_by_epoch": list(correct)}
    exec(example, names)
    selection = names["selection"]
    assert selection.verdict == "separable"
    assert np.load("clean.npy").tolist() == selection.indices.tolist()
    unknown, verdict, fitted = capsys.readouterr().out.splitlines()
    assert unknown.endswith("kept labels are wrong is not known: no label was checked.")
    assert verdict.startswith("Verdict: separable. ")
    assert fitted.startswith("By the fit, ")
    assert np.array_equal(np.load("correct.npy"), correct)


@pytest.mark.parametrize(("path", "row"), RESULT_ROWS)
def test_every_result_is_in_its_results_file(path: str, row: str) -> None:
    noise, *cells = (cell.strip() for cell in row.split("|"))
    assert cells == READERS[path](noise)


def _read_digits(noise: str) -> list[str]:
    """Our F1, that of the published loop, and that of keeping everything, from the trainings."""
    trainings = [each for each in _load("benchmarks/results/digits.json") if each["noise"] == noise]
    f1 = {
        loop: [each["f1"][each["delivered"]] for each in trainings if each["loop"] == loop]
        for loop in ("ours", "published")
    }
    n_right = [1 - each["true_noise"] for each in trainings if each["loop"] == "ours"]
    everything = [2 * right / (1 + right) for right in n_right]
    return [_spread(f1["ours"]), f"{_spread(f1['published'])}, published loop", f"{median(everything):.3f}"]


def _read_peers(noise: str) -> list[str]:
    """Our F1, that of the mixture on the mean loss, and that of keeping everything, from the trainings."""
    f1: dict[str, list[float]] = {}
    for each in _load("benchmarks/results/peers-cifar10.json"):
        if each["noise"] == noise and each["f1"] is not None:
            f1.setdefault(each["method"], []).append(each["f1"])
    peers = [method for method in f1 if not re.search("ours|keep everything|noise rate known", method)]
    assert max(peers, key=lambda method: median(f1[method])) == "mean loss, Gaussian mixture"
    compared = f"{_spread(f1['mean loss, Gaussian mixture'])}, mean loss"
    return [_spread(f1["ours, one round"]), compared, f"{median(f1['keep everything']):.3f}"]


def _read_features(noise: str) -> list[str]:
    """Our F1, that of the best peer, and that of keeping everything, from the page of the paper's programme.

    Behind our F1 stands that with a declared class prior, once the page has it.
    """
    lines = Path("docs/results.md").read_text().splitlines()
    tables = groupby(([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines), key=bool)
    cells: dict[str, str] = {}
    for heads, *rows in (list(table) for is_table, table in tables if is_table):
        for row in rows:
            if row[0] == f"lite2, {noise}":
                cells = dict(zip(heads, row, strict=True)) | cells
    prior = f"; {cells['F1, with prior']}" if "F1, with prior" in cells else ""
    return [cells["F1"] + prior, cells["F1, best peer"], cells["F1, everyone"]]


READERS: dict[str, Callable[[str], list[str]]] = {
    "benchmarks/results/digits.md": _read_digits,
    "benchmarks/results/peers-cifar10.md": _read_peers,
    "docs/results.md": _read_features,
}
"""By the file that a row links to: the row's figures behind the noise, from the results."""


def test_every_row_of_figures_in_a_table_is_compared_with_its_results() -> None:
    with_figures = re.findall(r"^\|.*\d\.\d\d\d.*$", README, re.MULTILINE)
    assert len(RESULT_ROWS) == len(with_figures) >= 10
    assert {path for path, _ in RESULT_ROWS} == set(READERS)
    paths = [path for path in dict.fromkeys(path for path, _ in RESULT_ROWS) if path.startswith("benchmarks/")]
    assert [Path(path).read_text().split("`")[1] for path in paths] == BENCHMARK_COMMANDS


def test_the_share_of_wrong_labels_is_that_of_the_trainings() -> None:
    trainings = [each for each in _load("benchmarks/results/digits.json") if each["noise"] == "symmetric:0.4"]
    (stated,) = re.findall(r"redraws 40% of the labels from all classes, and (\d+)% end up wrong", README)
    assert float(stated) == pytest.approx(100 * median(each["true_noise"] for each in trainings), abs=0.5)


def test_the_output_of_the_demo_is_in_its_results_file() -> None:
    (block,) = re.findall(r"```\n(round 0: kept .*?)```", README, re.DOTALL)
    output = " ".join(Path("benchmarks/results/demo.txt").read_text().split())
    sentences = re.split(r"\n(?=round|Against| )|(?<=kept\.)\n|(?<=fitted)\n", block)
    for sentence in sentences:
        assert all(figure in output for figure in re.findall(r"\d[\d.,]*\d", sentence)), sentence


def test_checked_labels_bound_as_much_as_is_said() -> None:
    """Of labels of which 5% are wrong, at a cut that keeps a third."""
    stated = re.search(r"with 5% wrong, 100\s+checks bound .* at about (\d+)%, 300 at (\d+)%", README, re.DOTALL)
    assert stated is not None
    n, n_draws = 6000, 300
    rng = np.random.default_rng(0)
    kept = np.arange(200, n + 1, 200)
    is_wrong = rng.permutation(n) < n // 20
    for n_drawn, percent in zip((100, 300), stated.groups(), strict=True):
        drawn = np.sort(np.argsort(rng.random((n_draws, n)), axis=1)[:, :n_drawn], axis=1)
        counts = np.stack([np.searchsorted(row, kept) for row in drawn])
        wrong = np.stack([[is_wrong[row[:k]].sum() for k in of_row] for row, of_row in zip(drawn, counts, strict=True)])
        precision, _ = bound_quality(kept, counts, wrong)
        assert 100 * (1 - precision[:, kept == n // 3].mean()) == pytest.approx(float(percent), abs=1)


def test_every_link_has_a_target() -> None:
    """Files exist, and so do the headings that are linked to."""
    pages = [
        Path("README.md"),
        *(page for folder in ("docs", "benchmarks", "studies") for page in Path(folder).rglob("*.md")),
    ]
    for page in pages:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert anchor in [_anchor(heading) for heading in headings], f"{page}: {target}#{anchor}"


def _load(path: str) -> Any:
    return json.loads(Path(path).read_text())


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
