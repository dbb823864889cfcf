import pytest

from benchmarks import never_fails


def test_five_hundred_random_histories_are_all_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert never_fails.main(["--histories", "500"]) == 0, capsys.readouterr().out
