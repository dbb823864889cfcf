from pathlib import Path

from benchmarks import tracker


def test_the_report_says_what_an_update_and_every_mode_cost(tmp_path: Path) -> None:
    tracker.BENCHMARK.main(["--device", "cpu", "--repeats", "1", "--samples", "128", "--out", str(tmp_path)])
    report = (tmp_path / "tracker-cpu.md").read_text()
    assert "| the tracker's `update`, of a training step |" in report
    assert all(f"| `{mode}` |" in report for mode in ("all", "mixed", "members"))
