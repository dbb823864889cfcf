import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import on_gpu
from benchmarks.claims import HEADS, Claim, format_table
from benchmarks.on_gpu import Part

MODULE = """
import sys, threading
from pathlib import Path

action, file = sys.argv[1], Path(sys.argv[2])
print("began to", action)
if action == "hang":
    threading.Event().wait()
if action == "fail":
    raise ValueError("no figures")
file.write_text('{"n_runs": 1}')
with file.with_suffix(".runs").open("a") as runs:
    runs.write("run\\n")
sys.exit(1 if action == "miss" else 0)
"""
LONG = 600.0
FIGURES: Mapping[str, Any] = {
    "name": "made up",
    "test_accuracy": 0.8,
    "best_accuracy": 0.85,
    "passes": 30,
    "protocol": 100,
    "set": "5, 0.9 / 0.9",
    "f1": 0.9,
    "auc": 0.95,
    "verdict": "weak",
    "seconds": 1.5,
}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results, with a module `made_up` that the parts run."""
    (tmp_path / "made_up.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def make_part(out: Path, action: str, limit: float = LONG, seconds: float = 0.0) -> Part:
    file = out / f"{action}.json"
    return Part(action, ["made_up", action, str(file)], file, on_gpu.read_json, seconds, limit)


def run(parts: list[Part], out: Path, left: float = LONG, again: bool = False) -> dict[str, Any]:
    """Run the parts as a call of the script does, and return the parts of the state."""
    state = on_gpu.read_state(out, rehearse=False)
    on_gpu.run_parts(parts, state, out, time.monotonic() + left, "a machine", again)
    stored: dict[str, Any] = json.loads((out / "on_gpu.json").read_text())
    assert stored == state
    parts_stored: dict[str, Any] = stored["parts"]
    return parts_stored


def test_a_part_that_fails_or_hangs_stops_no_other_and_only_the_unfinished_are_done_again(out: Path) -> None:
    actions = ("fail", "hang", "finish", "miss")
    parts = [make_part(out, action, limit=0.5 if action == "hang" else LONG) for action in actions]
    stored = run(parts, out)
    assert {name: entry["status"] for name, entry in stored.items()} == {
        "fail": "failed",
        "hang": "stopped",
        "finish": "finished",
        "miss": "finished",  # a missed bar is a result
    }
    assert stored["finish"]["result"] == {"n_runs": 1}
    assert stored["finish"]["command"] == "python -m made_up finish OUT/finish.json"
    assert "ValueError: no figures" in (out / "fail.log").read_text()
    page = (out / "on_gpu.md").read_text()
    assert "    ValueError: no figures" in page
    assert "did not end within 0.5 s" in page
    assert not list(out.glob("*.part"))

    run(parts, out)
    assert [(out / f"{name}.runs").read_text().count("run") for name in ("finish", "miss")] == [1, 1]
    run(parts[2:], out, again=True)
    assert [(out / f"{name}.runs").read_text().count("run") for name in ("finish", "miss")] == [2, 2]


def test_a_result_of_an_earlier_call_does_not_stand_in_for_one_that_fails(out: Path) -> None:
    part = make_part(out, "fail")
    part.file.write_text('{"n_runs": 1}')
    assert run([part], out)["fail"]["status"] == "failed"


def test_a_part_that_does_not_fit_is_left_for_the_next_call(out: Path) -> None:
    part = make_part(out, "finish", seconds=100.0)
    entry = run([part], out, left=60.0)["finish"]
    assert entry["status"] == "skipped"
    assert entry["reason"].startswith("it takes about 100 s, and 5")
    assert not (out / "finish.log").exists()
    assert run([part], out)["finish"]["status"] == "finished"


def test_a_part_is_stopped_where_the_minutes_end(out: Path) -> None:
    assert run([make_part(out, "hang")], out, left=on_gpu.MARGIN + 0.5)["hang"]["status"] == "stopped"


def test_a_rehearsal_is_not_gone_on_with_as_a_run(out: Path) -> None:
    (out / "on_gpu.json").write_text('{"rehearsal": true, "parts": {}}')
    with pytest.raises(SystemExit, match="holds a rehearsal; give another --out"):
        on_gpu.read_state(out, rehearse=False)


@pytest.mark.parametrize("rehearse", [False, True])
def test_all_parts_fit_into_the_minutes_and_each_into_a_call_of_ten(out: Path, rehearse: bool) -> None:
    parts = on_gpu.list_parts(Path("data"), out, rehearse)
    required = [part for part in parts if part.name != "throughput-compiled"]  # if there is time
    assert sum(part.seconds for part in required) <= 25 * 60
    assert max(part.limit for part in parts) <= 10 * 60
    assert {row[-1] for row in on_gpu.list_rows({}, rehearse)} >= {part.name for part in parts}
    assert ("cuda" in {word for part in parts for word in part.command}) != rehearse


@pytest.mark.parametrize(
    ("rehearse", "missed", "verdicts"),
    [(False, False, {"reached", "-"}), (False, True, {"**MISSED**", "-"}), (True, True, {"not judged", "-"})],
)
def test_claims_are_judged_and_those_of_a_rehearsal_are_not(
    out: Path, rehearse: bool, missed: bool, verdicts: set[str]
) -> None:
    good = not missed
    results: dict[str, Mapping[str, Any]] = {
        "tests": {"tests": 7, "failures": 0 if good else 1, "errors": 0, "skipped": 0},
        "tracker": {"claims": [["update / step", "at most 1%", "0.1%", good], ["AUM", "at least 50x", "90x", good]]},
    }
    groups = tuple({row[0] for row in on_gpu.list_rows({}, rehearse)})
    for *_, part in on_gpu.list_rows({}, rehearse):
        own = {"ours": 900.0 if good else 700.0, "published": 100.0, "peak_share": 0.3, "file": "a.npz"}
        ours = {"test_accuracy": 0.86 if good else 0.7, "passes": 20 if good else 30}
        results.setdefault(part, {**FIGURES, **own, **(ours if "cross" not in part else {})})
    parts = {
        name: {"status": "finished", "seconds": 1.0, "command": "c", "machine": "m", "result": result}
        for name, result in results.items()
    }
    lines = list(on_gpu.format_page({"rehearsal": rehearse, "parts": parts}, out))
    shown = {line.split(" | ")[4] for line in lines if line.startswith(groups, 2) and line.count(" | ") == 5}
    waits = {"reached"} if missed and not rehearse else set()  # a wait would have ended the part
    assert shown == verdicts | waits
    assert ("a rehearsal" in lines[0]) == rehearse


def test_reads_the_claims_of_a_page(tmp_path: Path) -> None:
    claims = [Claim("the update", 0.0021, "at most", 0.01, "{:.2%}"), Claim("AUM", 40.0, "at least", 50, "{:.0f} x")]
    lines = format_table(HEADS, [claim.format_cells("docs/client.md#bits") for claim in claims])
    lines += format_table(("`--observe`", "against `members`"), [("`all`", "1.3x")])
    (tmp_path / "page.md").write_text("\n".join(["# Title", "", *lines]))
    expected = [["the update", "at most 1.00%", "0.21%", True], ["AUM", "at least 50 x", "40 x", False]]
    assert on_gpu.read_page(tmp_path / "page.md") == {"claims": expected}


def test_finds_a_checkout_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = on_gpu.make_environment(tmp_path)
    words = [sys.executable, "-S", "-c", "import importlib.metadata as m; print(m.version('mild-selection'))"]
    log = tmp_path / "version.log"
    assert on_gpu.run_command(words, log, LONG, environment) == 0
    assert log.read_text().strip() in (on_gpu.ROOT / "pyproject.toml").read_text()
