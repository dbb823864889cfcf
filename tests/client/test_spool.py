import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mild_client.backends import record_log
from mild_client.backends.record_log import MAGIC, Record, RecordLog
from mild_client.backends.spool import Spool
from mild_client.errors import SpoolError, SpoolFull, SpoolInUse


def epoch(number: int, body: bytes = b"\xf0") -> Record:
    return Record("epoch", {"round": 0, "epoch": number}, body)


def create(folder: Path, limit: int = 1 << 20) -> Spool:
    return Spool.create(folder, "a-run", 8, "http://localhost:8000", limit)


def drained(spool: Spool) -> Iterator[Record]:
    while (record := spool.peek()) is not None:
        yield record
        spool.advance(record)


def names(spool: Spool) -> list[str]:
    return [record.name for record in drained(spool)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a-run"


def test_records_come_back_whole_in_their_order_from_any_process(folder: Path) -> None:
    with create(folder) as spool:
        for number in range(3):
            spool.append(epoch(number, bytes([number]) * 5))
    with Spool(folder) as spool:
        assert (spool.state.run_id, spool.state.num_samples, spool.n_unsent) == ("a-run", 8, 3)
        assert spool.state.url == "http://localhost:8000"
        found = list(drained(spool))
    assert [(record.kind, dict(record.meta), record.body) for record in found] == [
        ("epoch", {"round": 0, "epoch": number}, bytes([number]) * 5) for number in range(3)
    ]


def test_what_is_sent_stays_sent_and_can_still_be_read(folder: Path) -> None:
    with create(folder) as spool:
        for number in range(3):
            spool.append(epoch(number))
        spool.state.attempt = 7
        record = spool.peek()
        assert record is not None
        spool.advance(record)
    with Spool(folder) as spool:
        assert (spool.n_unsent, spool.state.attempt) == (2, 7)
        assert names(spool) == ["epoch-0-1", "epoch-0-2"]
    with create(folder) as spool:
        assert spool.size
        assert (spool.n_unsent, spool.n_unsent_bytes) == (0, 0)
        spool.append(epoch(3))
        assert names(spool) == ["epoch-0-3"]
    entries = list(RecordLog(folder).read())
    assert [entry.record and entry.record.name for entry in entries] == [f"epoch-0-{number}" for number in range(4)]


def test_what_the_service_has_already_is_not_sent(folder: Path) -> None:
    with create(folder) as spool:
        spool.append(epoch(0))
        spool.mark_sent()
        spool.append(epoch(1))
    with Spool(folder) as spool:
        assert names(spool) == ["epoch-0-1"]


def test_a_log_that_is_cleared_keeps_what_was_refused(folder: Path) -> None:
    with create(folder) as spool:
        spool.append(epoch(0))
        assert len(names(spool)) == 1
        spool.clear()
        assert spool.size == 0
        spool.append(epoch(1))
        record = spool.peek()
        assert record is not None
        spool.advance(record, ValueError("why"))
        spool.clear()
        spool.append(epoch(2))
        assert names(spool) == ["epoch-0-2"]
        (entry,) = spool.read_refused()
        assert entry.record is not None
        assert entry.record.name == "epoch-0-1"


@settings(max_examples=25)
@given(st.integers(min_value=1, max_value=10_000))
def test_a_torn_last_record_is_set_aside_wherever_it_was_torn(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("spools") / "a-run"
    with create(folder) as spool:
        spool.append(epoch(0))
        n_before = spool.n_unsent_bytes
        spool.append(epoch(1, os.urandom(50)))
        n_record = spool.n_unsent_bytes - n_before
    os.truncate(folder / "records.log", n_before + cut % n_record)
    with Spool(folder) as spool:
        assert spool.n_unsent == 1
        spool.append(epoch(2))
        assert names(spool) == ["epoch-0-0", "epoch-0-2"]
        assert len(spool.state.refused) == (1 if cut % n_record else 0)


@settings(max_examples=25)
@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=1, max_value=255))
def test_a_byte_that_a_disk_has_changed_costs_one_record_at_most(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("spools") / "a-run"
    with create(folder) as spool:
        for number in range(4):
            spool.append(epoch(number, bytes(20)))
    log = folder / "records.log"
    content = bytearray(log.read_bytes())
    content[place % len(content)] ^= change
    log.write_bytes(bytes(content))
    with Spool(folder) as spool:
        found = names(spool)
        assert len(found) == 3
        assert found == sorted(found)
        assert spool.n_unsent == 0
        assert len(spool.state.refused) == 1


def test_what_is_refused_is_kept_with_the_reason(folder: Path) -> None:
    with create(folder) as spool:
        spool.append(epoch(0, b"\x07"))
        spool.append(epoch(1))
        record = spool.peek()
        assert record is not None
        spool.advance(record, ValueError("epoch 0 holds other bits (epoch-conflict, status 409)"))
    with Spool(folder) as spool:
        assert names(spool) == ["epoch-0-1"]
        (entry,) = spool.read_refused()
        assert entry.record is not None
        assert (entry.record.name, entry.record.body) == ("epoch-0-0", b"\x07")
        assert spool.state.refused == {entry.start: "epoch 0 holds other bits (epoch-conflict, status 409)"}
        spool.drop_refused(entry)
    with Spool(folder) as spool:
        assert not spool.state.refused


def test_a_full_spool_says_so_and_keeps_what_it_has(folder: Path) -> None:
    with create(folder, limit=200) as spool:
        spool.append(epoch(0, bytes(100)))
        with pytest.raises(SpoolFull, match=r"holds \d+ bytes that are not sent and may hold 200.*MILD_SPOOL_BYTES"):
            spool.append(epoch(1, bytes(100)))
        assert spool.is_full
        with pytest.raises(SpoolFull, match="takes nothing more"):  # else an epoch would be missing in between
            spool.append(epoch(2, b""))
        assert names(spool) == ["epoch-0-0"]


def test_a_disk_that_takes_no_more_fills_it_too(folder: Path) -> None:
    with create(folder) as spool:
        spool.path.unlink()
        spool.path.symlink_to("/dev/full")
        with pytest.raises(SpoolFull, match=r"No space left.*make room on the disk"):
            spool.append(epoch(0))


def test_two_holders_are_refused_until_the_first_lets_go(folder: Path) -> None:
    with create(folder), pytest.raises(SpoolInUse, match="in use by another process"):
        Spool(folder)
    Spool(folder).close()


def _write_and_wait(folder: Path, ready: object) -> None:
    spool = create(folder)
    spool.append(epoch(0))
    ready.set()  # type: ignore[attr-defined]
    signal.pause()


def test_a_writer_that_is_killed_lets_go_and_leaves_its_records(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=_write_and_wait, args=(folder, ready))
    writer.start()
    assert ready.wait(60)
    with pytest.raises(SpoolInUse):
        Spool(folder)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with Spool(folder) as spool:
        assert names(spool) == ["epoch-0-0"]


def test_one_thread_writes_while_another_one_sends(folder: Path) -> None:
    found: list[str] = []
    with create(folder) as spool:

        def write() -> None:
            for number in range(300):
                spool.append(epoch(number), is_durable=False)

        writing = threading.Thread(target=write)
        writing.start()
        while len(found) < 300:
            found += names(spool)
        writing.join()
    assert found == [f"epoch-0-{number}" for number in range(300)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("spool.json", "{", "is damaged"),
        ("spool.json", '{"version": 2}', "is damaged"),
        (
            "spool.json",
            '{"version": 1, "run_id": "a-run", "num_samples": 8, "url": null}',
            "has version 1, this client",
        ),
    ],
)
def test_a_spool_that_cannot_be_read_is_named(folder: Path, name: str, content: str, message: str) -> None:
    create(folder).close()
    (folder / name).write_text(content)
    with pytest.raises(SpoolError, match=message):
        Spool(folder)
    (folder / name).unlink()


def test_a_folder_that_is_none_or_belongs_to_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="is no spool"):
        Spool(tmp_path)
    create(folder).close()
    with pytest.raises(SpoolError, match="is the spool of run 'a-run' of 8 samples, got 'a-run' of 9"):
        Spool.create(folder, "a-run", 9, None, 1)
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="check the path, its permissions"):
        Spool.create(tmp_path / "file" / "a-run", "a-run", 8, None, 1)


def test_an_address_is_kept_until_another_one_is_given(folder: Path) -> None:
    create(folder).close()
    Spool.create(folder, "a-run", 8, None, 1).close()
    assert json.loads((folder / "spool.json").read_text())["url"] == "http://localhost:8000"
    Spool.create(folder, "a-run", 8, "http://other", 1).close()
    with Spool(folder) as spool:
        assert spool.state.url == "http://other"


def test_what_a_disk_has_lost_of_the_sent_records_hides_none_that_follow(folder: Path) -> None:
    with create(folder) as spool:
        for number in range(3):
            spool.append(epoch(number, bytes(99)))
        assert len(names(spool)) == 3
    os.truncate(folder / "records.log", 3)
    for number in (5, 6):
        with Spool(folder) as spool:
            spool.append(epoch(number, bytes(200)))
    with Spool(folder) as spool:
        assert names(spool) == ["epoch-0-5", "epoch-0-6"]


def test_a_record_is_only_marked_as_sent_by_the_thread_that_has_sent_it(folder: Path) -> None:
    with create(folder) as spool:
        for number in range(2):
            spool.append(epoch(number))
        slow, fast = spool.peek(), spool.peek()
        assert slow is not None
        assert fast is not None
        spool.advance(fast)
        assert spool.peek() is not None
        spool.advance(slow)  # whose record the other one has sent already
        assert names(spool) == ["epoch-0-1"]


def test_a_folder_that_is_deleted_takes_new_records_and_counts_none_of_the_old(folder: Path) -> None:
    with create(folder) as spool:
        for number in range(3):
            spool.append(epoch(number))
        assert len(names(spool)) == 3
        spool.append(epoch(3))
        shutil.rmtree(folder)
        assert spool.peek() is None
        assert spool.n_unsent == 0  # else the thread that sends would look again, for ever
        spool.append(epoch(4))
        assert spool.n_unsent == 1
    with Spool(folder) as spool:  # which ``mild sync`` finds
        assert names(spool) == ["epoch-0-4"]


def test_both_threads_can_write_the_state_at_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with create(folder) as spool:

        def save() -> None:
            for _ in range(50):
                spool.save_state()

        threads = [threading.Thread(target=save) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not caplog.records
    Spool(folder).close()


def test_a_log_is_not_cleared_for_records_that_would_count_as_sent(folder: Path) -> None:
    with create(folder) as spool:
        spool.append(epoch(0, bytes(500)))
        assert len(names(spool)) == 1
        spool.clear()
        spool.append(epoch(1))
    with Spool(folder) as spool:
        assert names(spool) == ["epoch-0-1"]
        (folder / "spool.json.part").mkdir()  # as a full disk, which does not let it be replaced
        spool.clear()
        with pytest.raises(SpoolFull):
            spool.append(epoch(2))


def test_what_cannot_be_locked_is_named(folder: Path) -> None:
    create(folder).close()
    (folder / "records.log").unlink()
    (folder / "records.log").mkdir()
    with pytest.raises(SpoolError, match=r"records\.log: .*; check the path, its permissions"):
        Spool(folder)


@pytest.mark.parametrize("chunk_size", [4, 5, 7, 1 << 20])
def test_records_behind_damaged_bytes_are_found_without_reading_all_of_them_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, chunk_size: int
) -> None:
    monkeypatch.setattr(record_log, "_CHUNK_SIZE", chunk_size)
    for n_damaged in range(1, 15):
        log = RecordLog(folder / str(n_damaged))
        log.folder.mkdir(parents=True)
        log.path.write_bytes(MAGIC[:3] * n_damaged)
        log.append(epoch(0))
        log.path.write_bytes(log.path.read_bytes() + MAGIC[:2])
        entries = list(log.read())
        assert [entry.record and entry.record.name for entry in entries] == [None, "epoch-0-0", None]
        assert entries[-1].end == log.size
