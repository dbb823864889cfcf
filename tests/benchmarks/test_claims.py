"""The table of all claims: its rows, that it goes on after a failure, and where the claims are stated."""

import importlib
import json
import re
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks.claims import Benchmark, Claim, Report, claim_none

ROOT = Path(__file__).parents[2]
DEFINED, STUDIES = (
    sorted(path.stem for path in (ROOT / folder).glob("*.py") if f"\n{name} = Benchmark(" in path.read_text())
    for folder, name in (("benchmarks", "BENCHMARK"), ("studies", "STUDY"))
)


def measure(options: Namespace) -> Report:
    """As a benchmark does."""
    return Report("Of a test", [Claim("twice", 2 * options.number, "at most", 3, "{:.1f} x")], text=["more"])


BENCHMARK = Benchmark(
    "of_a_test", "README.md#results", measure, {"number": 1, "words": ("a",), "flag": False}, {"number": 7}
)


@pytest.mark.parametrize(
    ("figure", "sense", "holds"),
    [(3, "at most", True), (3, "below", False), (3, "at least", True), (3, "above", False), (4, "above", True)],
)
def test_a_figure_at_its_bar_holds_where_the_bar_is_included(figure: float, sense: str, holds: bool) -> None:
    assert Claim("", figure, sense, 3).holds is holds  # type: ignore[arg-type]  # one of the senses


def test_nan_and_anything_that_must_never_happen_miss_their_bars() -> None:
    assert not Claim("", float("nan"), "at most", 3).holds
    assert not claim_none("lost", ["one"]).holds
    assert claim_none("lost", []).holds


def test_the_page_has_the_command_with_what_is_not_usual_and_the_verdict(tmp_path: Path) -> None:
    assert BENCHMARK.main(["--words", "b", "c", "--flag", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "of_a_test.md").read_text()
    assert "`python -m benchmarks.of_a_test --words b c --flag`, " in page
    assert "| twice | [README.md, results](../../README.md#results) | at most 3.0 x | 2.0 x | reached |" in page
    assert page.endswith("\nmore\n")
    assert BENCHMARK.main(["--short", "--out", str(tmp_path)]) == 1
    assert "| 14.0 x | **MISSED** |" in (tmp_path / "of_a_test.md").read_text()
    assert BENCHMARK.main(["--short", "--number", "1", "--out", str(tmp_path)]) == 0
    assert "`python -m benchmarks.of_a_test --short --number 1`, " in (tmp_path / "of_a_test.md").read_text()


def test_the_table_goes_on_after_a_failure_and_keeps_the_rows_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fit.py").write_text("raise SystemExit('no peers | here')")
    fake = "import pathlib, sys; pathlib.Path(sys.argv[-1], 'rot.md').write_text({})"
    BENCHMARK.main(["--out", str(tmp_path)])
    page = (tmp_path / "of_a_test.md").read_text()
    (package / "rot.py").write_text(fake.format(json.dumps(page)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    table = tmp_path / "claims.md"
    assert bench.main(["--only", "fit", "rot", "--table", str(table)]) == 1
    rows = [line for line in table.read_text().splitlines() if "`python -m" in line]
    assert rows[0] == (
        "| fit |  |  | ended with 1: no peers / here | **FAILED** | `python -m benchmarks.fit --short` |"
    )
    assert rows[1].endswith("| at most 3.0 x | 2.0 x | reached | `python -m benchmarks.rot --short` |")
    assert bench.main(["--only", "rot", "--table", str(table)]) == 0
    assert [line for line in table.read_text().splitlines() if "`python -m" in line] == rows
    assert "2 claims, 1 of them missed" in capsys.readouterr().out


def test_every_benchmark_is_in_the_table_and_in_the_readme() -> None:
    assert sorted(bench.BENCHMARKS) == DEFINED
    listed = re.findall(r"^\| `python -m benchmarks\.(\w+)", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    assert sorted(set(listed) & set(DEFINED)) == DEFINED


@pytest.mark.parametrize("module", [f"benchmarks.{name}" for name in DEFINED] + [f"studies.{name}" for name in STUDIES])
def test_a_benchmark_is_named_as_its_module_and_its_claims_are_stated(module: str) -> None:
    imported = importlib.import_module(module)
    benchmark = imported.BENCHMARK if module.startswith("benchmarks") else imported.STUDY
    assert f"{benchmark._folder.name}.{benchmark.name}" == module
    assert set(benchmark.short) <= set(benchmark.options)
    page, _, heading = benchmark.stated.partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert heading in [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]
