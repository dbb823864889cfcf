from pathlib import Path

import pytest

from benchmarks import faults


def test_what_is_broken_while_trainings_stream_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert faults.main(["--rounds", "10", "--seed", "1", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    assert "| `kill -9` of both |" in (tmp_path / "faults.md").read_text()
