from pathlib import Path

import pytest

from benchmarks import stream


@pytest.mark.parametrize("more", [[], ["--ids"]])
def test_a_short_log_streams_in_and_is_counted_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    arguments = ["--bytes", "3000000", "--samples", "10000", "--out", str(tmp_path), *more]
    assert stream.BENCHMARK.main(arguments) == 0, capsys.readouterr().out
    assert (tmp_path / "stream.md").read_text().count("| reached |") == 2
