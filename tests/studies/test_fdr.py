"""Error control through HTTP, in small: the service's statements after a draw are held against the truth."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from benchmarks.recordings import FOLDER, Recording
from benchmarks.selection import sequences
from mild_client import MildClient
from studies import fdr, fdr_http
from studies.fdr_http import HttpRow, Statement

RIGHT = Statement(share=0.05, empty=False, upper_holds=True, stored_upper_holds=True, bounds_hold=True)


def test_the_service_states_what_is_true_of_a_recording(service: httpx.Client) -> None:
    recording = Recording.load(FOLDER / "digits_symmetric-0.4_e20_plant-confused_s1.npz")
    row = fdr_http.collect_statements(MildClient("http://service", http=service), recording, 6)
    assert row.noise == pytest.approx(0.36, abs=0.02)
    assert len(row.statements) == 6
    assert row.rate("empty") < 1
    assert 0 < row.share < 0.2
    assert all(row.rate(name) >= 0.5 for name in ("upper_holds", "stored_upper_holds", "bounds_hold"))
    assert service.get("/runs").json()["runs"] == []


def test_a_bar_is_missed_by_a_share_or_by_a_coverage() -> None:
    assert HttpRow("right", 0.4, [RIGHT] * 10).missed_bars == []
    assert HttpRow("bad luck", 0.4, [RIGHT] * 9 + [replace(RIGHT, upper_holds=False)]).missed_bars == []
    wrong = [RIGHT] * 8 + [replace(RIGHT, bounds_hold=False, stored_upper_holds=False)] * 2
    assert HttpRow("wrong", 0.4, wrong).missed_bars == ["stored_upper_holds", "bounds_hold"]
    high = HttpRow("high", 0.4, [replace(RIGHT, share=0.11)] * 10)
    assert high.missed_bars == ["share"]
    assert "MISSED by high: share" in fdr_http.format_report([high], "test")


def test_the_report_keeps_the_part_through_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fdr, "load_traces", lambda half: sequences([Recording.load(fdr_http.PATHS[0])]))
    part = fdr_http.format_report([HttpRow("right", 0.4, [RIGHT] * 10)], "test")
    (tmp_path / "fdr.md").write_text(f"# Earlier\n\n{part}")
    fdr.STUDY.main(["--draws", "10", "--out", str(tmp_path)])
    text = (tmp_path / "fdr.md").read_text()
    assert text.startswith("# Error control by a random audit")
    assert text.endswith(f"\n\n{part}")
