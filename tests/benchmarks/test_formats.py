import pytest

from benchmarks import formats


@pytest.mark.slow
def test_a_log_of_40_000_records_gives_one_set_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert formats.main(["--samples", "2000"]) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    assert told.startswith("40,000 records")
    assert told.count("the same set") == 12
