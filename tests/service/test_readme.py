"""README.md: its examples run, its results are those in benchmarks/results, and every link has a target."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI

from tests.live import serving

README = Path("README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BENCHMARK_COMMANDS = re.findall(r"^python -m benchmarks\..*$", Path("benchmarks/README.md").read_text(), re.MULTILINE)
RESULT_ROWS = re.findall(r"^\| \[[^]]+\]\((benchmarks/results/[^)]+)\) \|(.*)\|$", README, re.MULTILINE)
COMPARED_METHODS = {
    "benchmarks/results/digits.md": ("ours", "published", "published loop"),
    "benchmarks/results/peers-cifar10.md": ("ours, one round", "mean loss, Gaussian mixture", "mean loss"),
}
"""Of each results file: the names of our method and of the compared one, and the latter's name in README.md."""
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
    noise, ours, compared, everything = (cell.strip() for cell in row.split("|"))
    our_method, compared_method, compared_label = COMPARED_METHODS[path]
    f1 = _read_f1(Path(path))
    assert ours == f1[noise, our_method]
    assert compared == f"{f1[noise, compared_method]}, {compared_label}"
    assert everything == f1[noise, "keep everything"].split()[0]


def test_the_results_table_is_complete_and_has_its_commands() -> None:
    assert len(RESULT_ROWS) == len(re.findall(r"^\|.*benchmarks/results/", README, re.MULTILINE)) == 5
    stated = [Path(path).read_text().split("`")[1] for path in dict.fromkeys(path for path, _ in RESULT_ROWS)]
    assert stated == BENCHMARK_COMMANDS


def test_every_link_has_a_target() -> None:
    """Files exist, and so do the headings that are linked to, in README.md and in docs/."""
    for page in [Path("README.md"), *Path("docs").glob("*.md"), Path("benchmarks/README.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                assert anchor in [_anchor(heading) for heading in headings], f"{page}: {target}#{anchor}"


def _read_f1(path: Path) -> dict[tuple[str, str], str]:
    """Read the F1 scores of a results table, as printed, by noise and method."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in path.read_text().splitlines()
        if line.startswith("|")
    ]
    column = next(position for position, name in enumerate(rows[0]) if name in ("F1", "F1 of the kept"))
    return {(cells[0], cells[1]): cells[column] for cells in rows[2:]}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
