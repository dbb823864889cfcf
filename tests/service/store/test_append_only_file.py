import logging
import re
from pathlib import Path

import pytest
from redis import Redis

from mild_service.errors import ConfigurationError
from mild_service.store.append_only_file import DataDamaged, check_files, find_damage
from mild_service.store.embedded import EmbeddedServer


def command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


FIRST, SECOND = command(b"SET", b"first", b"*" * 40), command(b"SET", b"second", b"*1\r\n$1\r\n")
TRANSACTION = command(b"MULTI") + command(b"SET", b"a", b"1") + command(b"SET", b"b", b"2") + command(b"EXEC")


def flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_a_whole_file_has_no_damage() -> None:
    for data in (b"", FIRST, TRANSACTION + FIRST, FIRST + TRANSACTION):
        assert find_damage(data) == (len(data), True)


@pytest.mark.parametrize("last", [SECOND, TRANSACTION], ids=["command", "transaction"])
def test_a_file_that_ends_anywhere_in_its_last_write_is_cut_before_it(last: bytes) -> None:
    for n_bytes in range(1, len(last)):
        assert find_damage(FIRST + last[:n_bytes]) == (len(FIRST), True)


@pytest.mark.parametrize("last", [SECOND, TRANSACTION], ids=["command", "transaction"])
def test_a_flipped_bit_never_costs_more_than_the_write_that_it_is_in(last: bytes) -> None:
    """Wherever a bit flips, no write before its own is cut, and none behind it goes unnoticed."""
    data = FIRST + last
    for at in range(len(data)):
        for bit in range(8):
            offset, is_last = find_damage(flip(data, at, bit))
            if at < len(FIRST):
                assert not is_last or offset == len(data)  # within a value, which has no checksum here
            else:
                assert offset in (len(FIRST), len(data))
                # The first command of a transaction without its MULTI looks like a write of its own.
                assert is_last or last == TRANSACTION


def test_a_command_that_the_server_does_not_take_is_damage() -> None:
    assert find_damage(FIRST + SECOND.replace(b"SET", b"ZET"), b"zet") == (len(FIRST), True)
    assert find_damage(SECOND.replace(b"SET", b"ZET") + FIRST, b"zet") == (0, False)
    broken = TRANSACTION.replace(b"MULTI", b"MULTY")
    assert find_damage(FIRST + broken, b"multy") == (len(FIRST), True)
    assert find_damage(FIRST + broken + SECOND, b"multy") == (len(FIRST), False)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Data folder of a stopped server, with two keys; the second was set in a transaction."""
    with EmbeddedServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        redis.set("first", "1" * 30)
        redis.pipeline(transaction=True).set("second", "2" * 30).set("third", "3").execute()
    return tmp_path


def get_aof(data_dir: Path) -> Path:
    (path,) = (data_dir / "appendonlydir").glob("*.incr.aof")
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: data.rindex(b"$30") + 9],
        lambda data: data.replace(b"EXEC", b"EXEB"),
        lambda data: data.replace(b"\r\n$5\r\nthird", b"\r\n$5\n\nthird"),
        lambda data: data[:-4] + bytes(4),
    ],
    ids=["one byte short", "half a transaction", "no command", "no line end", "zeros at the end"],
)
def test_a_damaged_end_is_repaired_and_kept(damage, data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    path = get_aof(data_dir)
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING), EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert redis.keys() == [b"first"]
        redis.set("fourth", "4")
    (copy,) = path.parent.glob("*.cut-*")
    (line,) = caplog.messages
    n_bytes = copy.stat().st_size
    assert f"its last {n_bytes} bytes were no complete write and are kept in {copy}" in line
    offset = int(copy.name.split("-")[1])
    assert path.read_bytes()[:offset] + copy.read_bytes() == damaged
    with EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert sorted(redis.keys()) == [b"first", b"fourth"]


@pytest.mark.parametrize(
    ("old", "new"), [(b"$30", b"$99"), (b"$30", b"$99999"), (b"SET", b"ZET"), (b"*3", b"*2"), (b"*3", b"*9")]
)
def test_damage_before_other_writes_is_refused_and_nothing_is_cut(old: bytes, new: bytes, data_dir: Path) -> None:
    path = get_aof(data_dir)
    path.write_bytes(damaged := path.read_bytes().replace(old, new, 1))
    with pytest.raises(DataDamaged, match=r"is damaged at byte \d+ of \d+, and whole writes follow") as error:
        EmbeddedServer(data_dir).start()
    assert path.read_bytes() == damaged
    offset = int(re.findall(r"truncate -s (\d+)", str(error.value))[0])  # the way on
    path.write_bytes(damaged[:offset])
    with EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert redis.keys() == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.manifest", r"holds files of data but no appendonly\.aof\.manifest"),
        ("*.base.rdb", r"damaged or missing \(Unable to obtain the AOF file appendonly\.aof\.1\.base\.rdb"),
        ("*.incr.aof", r"damaged or missing \(Unable to obtain the AOF file appendonly\.aof\.1\.incr\.aof"),
    ],
)
def test_a_missing_file_is_no_empty_store(pattern: str, message: str, data_dir: Path) -> None:
    (path,) = (data_dir / "appendonlydir").glob(pattern)
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataDamaged, match=message):
        EmbeddedServer(data_dir).start()
    path.write_bytes(content)
    with EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert len(redis.keys()) == 3


def test_a_damaged_base_file_is_refused(data_dir: Path) -> None:
    (path,) = (data_dir / "appendonlydir").glob("*.base.rdb")
    path.write_bytes(flip(path.read_bytes(), 40, 0))
    with pytest.raises(DataDamaged, match="RDB CRC error"):
        EmbeddedServer(data_dir).start()


def test_a_snapshot_alone_is_no_empty_store(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"VALKEY080")
    with pytest.raises(ConfigurationError, match="holds a snapshot"):
        EmbeddedServer(tmp_path).start()


def test_a_server_that_was_killed_at_its_first_start_left_an_empty_store(data_dir: Path) -> None:
    folder = data_dir / "appendonlydir"
    (folder / "appendonly.aof.manifest").unlink()
    get_aof(data_dir).write_bytes(b"")
    check_files(data_dir, has_data=False)
    with EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert redis.keys() == []
        redis.set("k", "1")
    with EmbeddedServer(data_dir) as server, Redis.from_url(server.url) as redis:
        assert redis.keys() == [b"k"]
