from pathlib import Path

import pytest

from benchmarks import features


def test_a_small_file_of_each_type_goes_through_four_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features.BENCHMARK.main(["--samples", "600", "--features", "64", "--out", str(tmp_path)])
    rows = [line for line in (tmp_path / "features.md").read_text().splitlines() if line.startswith("| float")]
    assert [row.split(" | ")[0] for row in rows] == ["| float32", "| float16"]
    assert all(float(row.split(" | ")[3]) > 0 for row in rows)
    assert rows[0] in capsys.readouterr().out
