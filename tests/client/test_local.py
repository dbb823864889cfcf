import errno
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mild_client import BackgroundBackend, LocalSelector, Position, ResumeError, RunSpec, SpoolInUse
from mild_client.backends.record_log import RecordLog
from mild_client.errors import LocalStateError
from mild_core import bitmap
from mild_core.errors import BitmapLengthError, CorrectNotObservedError, ParameterError
from mild_core.selection import select
from mild_core.types import EpochBits, SelectionOptions

SPEC = RunSpec("run", num_samples=600)


def put_all(selector: LocalSelector, epochs: list[EpochBits], round: int = 0) -> None:
    for number, bits in enumerate(epochs):
        selector.put_epoch(round, number, bits)


def test_a_round_ends_with_the_set_that_the_core_selects(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    state = selector.open(SPEC)
    put_all(selector, epochs)
    evidence = selector.collect_rounds()
    result = selector.finish(0)
    expected = select(evidence, SelectionOptions())
    assert (state.round, state.attempt) == (0, 1)
    assert (result.selected == expected.bitmap).all()
    assert result.summary == expected.summary()
    assert result.fit is not None
    assert sum(result.fit.counts) == pytest.approx(600)
    assert len(result.fit.densities) == 2


def test_labels_let_classes_have_a_say_and_outlive_the_process(epochs: list[EpochBits], tmp_path: Path) -> None:
    spec = RunSpec("run", num_samples=600, selection=SelectionOptions(min_keep_class=0.8))
    selector = LocalSelector(tmp_path)
    selector.open(spec)
    assert selector.labels is None
    with pytest.raises(ParameterError, match=r"labels has shape \(3,\); .*shape \(600,\)"):
        selector.put_labels(np.zeros(3, dtype=np.uint8))
    selector.open(replace(spec, num_classes=3))
    with pytest.raises(ParameterError, match=r"outside 0\.\.2, such as 3 of sample 2, 3 of sample 5, .*subtract 1"):
        selector.put_labels(np.arange(600) % 3 + 1)
    selector.open(spec)
    selector.put_labels((np.arange(600) % 3).astype(np.uint8))
    put_all(selector, epochs)
    results = [selector.finish(0)]
    resumed = LocalSelector(tmp_path)
    resumed.open(spec, Position(0, len(epochs)))
    results.append(resumed.finish(0))
    for result in results:
        assert all(found["kept"] >= 0.8 * found["scored"] for found in result.summary["classes"])
    anew = LocalSelector(tmp_path)
    anew.open(spec)
    assert anew.labels is None


def test_the_set_is_the_members_of_the_next_round(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    put_all(selector, epochs)
    first = selector.finish(0)
    put_all(selector, epochs, round=1)
    members = selector.collect_rounds()[1].members
    assert members is not None
    assert (members == first.selected).all()


def test_finishing_again_returns_the_same_result(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    put_all(selector, epochs)
    assert selector.finish(0) is selector.finish(0)


def test_metrics_are_taken_and_change_nothing(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    selector.put_metrics(0, 0, {"train_loss": 1.0})
    put_all(selector, epochs)
    assert selector.finish(0).round == 0


def test_where_members_are_observed_others_are_not(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(RunSpec("run", num_samples=600, observe="members"))
    members = bitmap.pack(np.arange(600) < 450)
    selector.put_members(0, members)
    put_all(selector, [EpochBits(600, bits.correct & members) for bits in epochs])
    (evidence,) = selector.collect_rounds()
    assert evidence.expects == "members"
    assert evidence.observed is not None
    assert (evidence.observed == members).all()


def test_where_members_are_observed_nobody_else_can_be_correct(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(RunSpec("run", num_samples=600, observe="members"))
    selector.put_members(0, bitmap.pack(np.arange(600) < 10))
    with pytest.raises(CorrectNotObservedError, match="samples are correct but no members of round 0"):
        selector.put_epoch(0, 0, epochs[0])
    selector.put_epoch(0, 0, EpochBits(600, epochs[0].correct, bitmap.full(600)))


def test_an_epoch_that_says_who_was_seen_is_kept_beside_those_that_do_not(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    seen = bitmap.pack(np.arange(600) % 2 == 0)
    put_all(selector, [epochs[0], EpochBits(600, epochs[1].correct & seen, seen)])
    (evidence,) = selector.collect_rounds()
    assert evidence.observed is not None
    assert (evidence.observed == np.stack([bitmap.full(600), seen])).all()


def test_a_gap_is_refused_at_the_epoch_behind_it(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    selector.put_epoch(0, 0, epochs[0])
    with pytest.raises(LocalStateError, match=r"epoch 2 is put, and the next one of round 0 is 1; .*Position\(0, 2\)"):
        selector.put_epoch(0, 2, epochs[2])
    selector.put_epoch(0, 1, epochs[1])
    assert selector.collect_rounds()[0].n_epochs == 2


def test_an_epoch_is_never_overwritten(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    selector.put_epoch(0, 0, epochs[0])
    selector.put_epoch(0, 0, epochs[0])
    with pytest.raises(LocalStateError, match="epoch 0 of round 0 is stored with other bits; the next one is 1"):
        selector.put_epoch(0, 0, epochs[1])
    with pytest.raises(ParameterError, match="epoch is -1; give a whole number of at least 0"):
        selector.put_epoch(0, -1, epochs[1])
    assert (selector.collect_rounds()[0].correct == epochs[0].correct).all()


def test_a_round_without_epochs_cannot_be_finished() -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    with pytest.raises(LocalStateError, match="round 0 has 0 epochs"):
        selector.finish(0)


def test_a_later_round_without_epochs_cannot_be_finished_on_the_evidence_before(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    put_all(selector, epochs)
    selector.finish(0)
    with pytest.raises(LocalStateError, match="round 1 has 0 epochs"):
        selector.finish(1)


@pytest.mark.parametrize("round", [1, 7])
def test_only_the_open_round_takes_epochs(round: int, epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    with pytest.raises(LocalStateError, match=f"round {round} is not open, round 0 is"):
        selector.put_epoch(round, 0, epochs[0])


def test_members_of_another_size_are_refused() -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    with pytest.raises(BitmapLengthError, match="75 bytes"):
        selector.put_members(0, np.zeros(3, dtype=np.uint8))


def test_a_run_goes_on_from_its_folder(tmp_path: Path, epochs: list[EpochBits]) -> None:
    whole = LocalSelector()
    whole.open(SPEC)
    put_all(whole, epochs)
    first = whole.finish(0)
    whole.put_members(1, first.selected)
    put_all(whole, epochs[:3], round=1)

    stopped = LocalSelector(tmp_path)
    stopped.open(SPEC)
    put_all(stopped, epochs)
    stopped.finish(0)
    stopped.put_members(1, first.selected)
    put_all(stopped, epochs[3:6], round=1)

    resumed = LocalSelector(tmp_path)
    assert resumed.open(SPEC, Position(1, 0)).round == 1
    put_all(resumed, epochs[:3], round=1)
    assert (resumed.finish(1).selected == whole.finish(1).selected).all()


def test_a_resumed_run_knows_the_members_that_nobody_put(tmp_path: Path, epochs: list[EpochBits]) -> None:
    spec = RunSpec("run", num_samples=600, observe="members")
    whole = LocalSelector(tmp_path)
    whole.open(spec)
    put_all(whole, epochs)
    members = whole.finish(0).selected
    put_all(whole, [EpochBits(600, bits.correct & members) for bits in epochs], round=1)
    expected = whole.finish(1).selected

    resumed = LocalSelector(tmp_path)
    resumed.open(spec, Position(1, len(epochs)))
    last = resumed.collect_rounds()[1]
    assert last.members is not None
    assert (last.members == members).all()
    assert (resumed.finish(1).selected == expected).all()


@pytest.mark.parametrize("stopped_at", [Position(0, 0), Position(0, 4), Position(1, 0)])
def test_a_resumed_run_knows_whom_it_has_mislabelled(
    tmp_path: Path, stopped_at: Position, epochs: list[EpochBits]
) -> None:
    planted = bitmap.pack(np.arange(600) % 20 == 0)
    whole = LocalSelector(tmp_path)
    whole.open(SPEC)
    whole.put_planted(planted)
    put_all(whole, epochs)
    first = whole.finish(0)
    assert not (first.selected & planted).any()
    put_all(whole, epochs, round=1)
    second = whole.finish(1)

    resumed = LocalSelector(tmp_path)
    resumed.open(SPEC, stopped_at)
    if stopped_at.round == 0:
        put_all(resumed, epochs)
        assert (resumed.finish(0).selected == first.selected).all()
    put_all(resumed, epochs, round=1)
    assert (resumed.finish(1).selected == second.selected).all()
    assert [bits.planted is None for bits in resumed.collect_rounds()[:2]] == [False, True]
    anew = LocalSelector(tmp_path)
    anew.open(SPEC)
    put_all(anew, epochs)
    anew.finish(0)
    assert LocalSelector(tmp_path).read_rounds(SPEC, 1)[0].planted is None


def test_planted_samples_are_fixed_by_the_first_epoch(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    put_all(selector, epochs[:2])
    with pytest.raises(LocalStateError, match="round 0 has 2 epochs already, so its planted samples are fixed"):
        selector.put_planted(bitmap.full(600))
    selector.finish(0)
    with pytest.raises(LocalStateError, match="round 0 is not open"):
        selector.put_planted(bitmap.full(600))


def test_an_epoch_is_serialised_and_written_once(
    tmp_path: Path, epochs: list[EpochBits], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies: list[bytes] = []
    to_body = EpochBits.to_body

    def count(bits: EpochBits) -> bytes:
        bodies.append(to_body(bits))
        return bodies[-1]

    monkeypatch.setattr(EpochBits, "to_body", count)
    with BackgroundBackend(mode="offline", folder=tmp_path) as backend:
        backend.open(SPEC)
        for number, bits in enumerate(epochs):
            backend.put_epoch(0, number, bits)
    assert len(bodies) == len(epochs)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [written.count(body) for body in bodies] == [1] * len(epochs)


def test_a_record_that_was_torn_or_damaged_is_not_resumed_from(tmp_path: Path, epochs: list[EpochBits]) -> None:
    stopped = LocalSelector(tmp_path)
    stopped.open(SPEC)
    put_all(stopped, epochs[:4])
    log = tmp_path / "records.log"
    log.write_bytes(log.read_bytes()[:-1])
    resumed = LocalSelector(tmp_path)
    with pytest.raises(ResumeError, match=r"round 0, epoch 4: .* holds \[3\] epochs"):
        resumed.open(SPEC, Position(0, 4))
    resumed.open(SPEC, Position(0, 3))
    put_all(resumed, epochs[:5])  # of which the first three are there
    assert LocalSelector(tmp_path).open(SPEC, Position(0, 5)).round == 0
    log.write_bytes(log.read_bytes().replace(epochs[1].to_body(), epochs[2].to_body()))
    with pytest.raises(ResumeError, match=r"holds \[1\] epochs"):
        LocalSelector(tmp_path).open(SPEC, Position(0, 5))


def test_an_epoch_replaces_those_from_it_on_if_the_resumption_before_it_is_damaged(
    tmp_path: Path, epochs: list[EpochBits]
) -> None:
    stopped = LocalSelector(tmp_path)
    stopped.open(SPEC)
    put_all(stopped, epochs[:4])
    n_bytes = (tmp_path / "records.log").stat().st_size
    resumed = LocalSelector(tmp_path)
    resumed.open(SPEC, Position(0, 2))
    resumed.put_epoch(0, 2, epochs[5])
    log = bytearray((tmp_path / "records.log").read_bytes())
    log[n_bytes] ^= 1
    (tmp_path / "records.log").write_bytes(log)
    again = LocalSelector(tmp_path)
    with pytest.raises(ResumeError, match=r"holds \[3\] epochs"):
        again.open(SPEC, Position(0, 4))
    again.open(SPEC, Position(0, 3))
    assert again.collect_rounds()[0].correct[2].tolist() == epochs[5].correct.tolist()


def test_a_log_that_cannot_be_used_is_named(
    tmp_path: Path, epochs: list[EpochBits], caplog: pytest.LogCaptureFixture
) -> None:
    selector = LocalSelector(tmp_path)
    selector.open(SPEC)
    put_all(selector, epochs[:2])
    for n_samples in (599, 6000):
        with pytest.raises(ResumeError, match=f"the stored run has 600 samples, got {n_samples}; give the data set"):
            LocalSelector(tmp_path).open(RunSpec("run", n_samples), Position(0, 2))
    (tmp_path / "records.log").unlink()
    (tmp_path / "records.log").mkdir()
    with pytest.raises(ResumeError, match=r"records\.log cannot be read .*; allow it, or start anew"):
        LocalSelector(tmp_path).open(SPEC, Position(0, 2))
    selector.open(SPEC)
    put_all(selector, epochs[:2])
    assert "make room on the disk, or allow writing there" in caplog.text
    assert selector.n_unwritten == 3


def test_a_run_that_starts_anew_forgets_the_one_before(tmp_path: Path, epochs: list[EpochBits]) -> None:
    before = LocalSelector(tmp_path)
    before.open(SPEC)
    put_all(before, epochs)
    anew = LocalSelector(tmp_path)
    anew.open(SPEC)
    put_all(anew, epochs[:1])
    resumed = LocalSelector(tmp_path)
    resumed.open(SPEC, Position(0, 1))
    assert resumed.collect_rounds()[0].n_epochs == 1


def test_resuming_needs_the_epochs_before(tmp_path: Path, epochs: list[EpochBits]) -> None:
    selector = LocalSelector(tmp_path)
    selector.open(SPEC)
    put_all(selector, epochs[:2])
    with pytest.raises(ResumeError, match=r"round 0, epoch 5: .* holds \[2\] epochs"):
        LocalSelector(tmp_path).open(SPEC, Position(0, 5))


def test_resuming_needs_a_folder() -> None:
    with pytest.raises(ResumeError, match="no folder"):
        LocalSelector().open(SPEC, Position(0, 1))


def test_too_few_epochs_are_no_error_but_a_verdict(epochs: list[EpochBits]) -> None:
    selector = LocalSelector()
    selector.open(SPEC)
    put_all(selector, epochs[:1])
    result = selector.finish(0)
    assert result.summary["verdict"] == "insufficient"
    assert bitmap.popcount(result.selected) == 600


WRITER = """
import os, sys
import numpy as np
from mild_client import EpochBits, LocalSelector, RunSpec
selector = LocalSelector(sys.argv[1])
selector.open(RunSpec("run", 600))
selector.put_epoch(0, 0, EpochBits(600, np.zeros(75, dtype=np.uint8)))
if os.fork():
    print("open", flush=True)
sys.stdin.read()  # a child lives on, as a worker of a data loader may, until the test ends
"""


def test_a_folder_has_one_writer_until_that_ends_even_if_it_is_killed(tmp_path: Path, epochs: list[EpochBits]) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        for resume_from in (None, Position(0, 1)):
            with pytest.raises(SpoolInUse, match=f"{tmp_path} is in use by another process.*; wait until that has"):
                LocalSelector(tmp_path).open(SPEC, resume_from)
        writer.kill()
        writer.wait()
        assert [entry.record and entry.record.kind for entry in RecordLog(tmp_path).read()] == ["open", "epoch"]
        with LocalSelector(tmp_path) as selector:
            selector.open(SPEC, Position(0, 1))
            selector.put_epoch(0, 1, epochs[1])


def test_the_last_selector_that_has_opened_a_folder_writes_to_it(tmp_path: Path, epochs: list[EpochBits]) -> None:
    first, second = LocalSelector(tmp_path), LocalSelector(tmp_path)
    first.open(SPEC)
    put_all(first, epochs[:2])
    second.open(SPEC, Position(0, 2))
    for write in (
        lambda: first.put_epoch(0, 2, epochs[2]),
        lambda: first.put_labels(np.zeros(600, dtype=int)),
        lambda: first.finish(0),
    ):
        with pytest.raises(LocalStateError, match=f"{tmp_path} is not open here, as another selector .*; open it"):
            write()
    assert first.collect_rounds()[0].n_epochs == 2
    put_all(second, epochs)
    second.close()
    with pytest.raises(LocalStateError, match="is not open here; open it"):
        second.finish(0)
    first.open(SPEC, Position(0, len(epochs)))
    assert first.finish(0).n_samples == 600


def test_a_selector_that_cannot_resume_leaves_the_folder_to_others(tmp_path: Path, epochs: list[EpochBits]) -> None:
    first, failing = LocalSelector(tmp_path), LocalSelector(tmp_path)
    first.open(SPEC)
    put_all(first, epochs[:2])
    with pytest.raises(ResumeError, match="cannot resume at round 0, epoch 5"):
        failing.open(SPEC, Position(0, 5))
    with pytest.raises(LocalStateError, match="is not open here"):
        failing.put_epoch(0, 2, epochs[2])
    with pytest.raises(LocalStateError, match="is not open here"):
        failing.put_sample_ids(["a"] * 600)
    first.put_epoch(0, 2, epochs[2])


def test_a_folder_is_one_under_all_its_names(tmp_path: Path, epochs: list[EpochBits]) -> None:
    folder, link = tmp_path / "bits", tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    first, second = LocalSelector(folder), LocalSelector(link)
    first.open(SPEC)
    put_all(first, epochs[:2])
    second.open(SPEC, Position(0, 2))
    second.put_epoch(0, 2, epochs[2])


def test_nothing_is_put_before_a_run_is_open(epochs: list[EpochBits]) -> None:
    with pytest.raises(LocalStateError, match="the run is not open; open it"):
        LocalSelector().put_epoch(0, 0, epochs[0])


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    tmp_path: Path, epochs: list[EpochBits], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("mild_client.backends.record_log.fcntl.flock", refuse)
    selector = LocalSelector(tmp_path)
    selector.open(SPEC)
    put_all(selector, epochs[:1])
    assert selector.n_unwritten == 0
    assert "cannot be locked (No locks available); let no other process write to it" in caplog.text


def test_what_a_resumed_training_puts_again_is_written_once(tmp_path: Path, epochs: list[EpochBits]) -> None:
    labels, planted = np.arange(600) % 3, bitmap.pack(np.arange(600) < 9)
    for n_epochs in range(3):
        with LocalSelector(tmp_path) as selector:
            selector.open(SPEC, Position(0, n_epochs) if n_epochs else None)
            for _ in range(2):
                selector.put_labels(labels)
                selector.put_sample_ids([f"id-{index}" for index in range(600)])
                selector.put_planted(planted)
            selector.put_epoch(0, n_epochs, epochs[n_epochs])
    kinds = [entry.record.kind for entry in RecordLog(tmp_path).read() if entry.record is not None]
    assert kinds == ["open", "labels", "sample_ids", "planted", "epoch", "open", "epoch", "open", "epoch"]
    with LocalSelector(tmp_path) as selector:
        selector.open(SPEC, Position(0, 3))
        assert selector.labels is not None
        assert (selector.labels == labels).all()
        selector.put_labels(labels + 1)  # others are written
        selector.open(SPEC, Position(0, 3))
        assert (selector.labels == labels + 1).all()
