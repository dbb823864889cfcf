import errno
from pathlib import Path
from typing import cast

import pytest

from mild_client.atomic_write import open_atomically, replace_atomically, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]


def test_what_was_there_stands_until_the_new_file_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, cast(bytes, "no bytes"))
    with pytest.raises(FileNotFoundError):
        replace_atomically(tmp_path / "absent", path)
    assert path.read_bytes() == b"old"


def test_an_error_of_a_full_disk_names_the_file_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    path, full = tmp_path / "state.json", OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as caught, open_atomically(path):
        raise full
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
