"""docs/architecture.md: every file that it names exists, and so does every name in "Where to change what"."""

import re
from pathlib import Path

PAGE = Path("docs/architecture.md").read_text()
FILES = [path for folder in ("service", "trainer_client") for path in Path(folder).rglob("*") if path.is_file()]
CHANGES = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE[PAGE.index("## Where to change what") :], re.MULTILINE)[1:]


def test_every_file_exists() -> None:
    names = re.findall(r"`([\w/.]+\.(?:py|lua|html))`", PAGE)
    assert names
    assert [name for name in names if not _find(name)] == []


def test_every_name_to_change_is_in_one_of_its_files() -> None:
    assert len(CHANGES) == 10
    for change, cell in CHANGES:
        quoted = re.findall(r"`([\w/.]+)`", cell)
        names = [name for name in quoted if "/" not in name]
        folders = [name for name in quoted if name.endswith("/")]
        files = [path for name in quoted for path in _find(name)]
        assert files, change
        assert all(any(f"/{folder}" in path.as_posix() for path in FILES) for folder in folders), change
        source = "\n".join(path.read_text() for path in files)
        for name in names:
            assert all(re.search(rf"\b{part}\b", source) for part in name.split(".")), f"{change}: {name}"


def _find(name: str) -> list[Path]:
    """Files whose path ends with `name`."""
    return [path for path in FILES if f"/{path.as_posix()}".endswith(f"/{name}")]
