import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mild_trainer.data.download import SOURCES, Source, download_dataset
from mild_trainer.errors import DataError


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A folder, and the address that serves it on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def packed(path: Path, name: str, content: bytes) -> str:
    """Write an archive of one file, and return its hash."""
    with tarfile.open(path, "w:gz") as archive:
        about = tarfile.TarInfo(name)
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def test_fetches_unpacks_and_does_not_fetch_again(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    found = packed(folder / "set.tar.gz", "batches/one", b"images")
    sources = {"set": (Source(f"{url}/set.tar.gz", found, "batches"),)}
    download_dataset("set", tmp_path / "data", sources)
    assert (tmp_path / "data" / "batches" / "one").read_bytes() == b"images"
    (folder / "set.tar.gz").unlink()
    download_dataset("set", tmp_path / "data", sources)


def test_another_hash_is_refused_and_nothing_is_kept(served: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = served
    (folder / "idx.gz").write_bytes(b"something else")
    sources = {"set": (Source(f"{url}/idx.gz", "md5:" + "0" * 32),)}
    with pytest.raises(DataError, match=r"idx\.gz has another hash than md5:0+ .*try again"):
        download_dataset("set", tmp_path / "data", sources)
    assert not any((tmp_path / "data").iterdir())


def test_what_cannot_be_reached_is_said_with_what_to_do(served: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = served
    sources = {"set": (Source(f"{url}/absent.gz", "md5:" + "0" * 32),)}
    with pytest.raises(DataError, match=r"absent\.gz cannot be downloaded .*put absent\.gz into .*data by hand"):
        download_dataset("set", tmp_path / "data", sources)


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_an_archive_that_reaches_outside_is_refused(served: tuple[str, Path], tmp_path: Path, name: str) -> None:
    url, folder = served
    found = packed(folder / "set.tar.gz", name, b"")
    with pytest.raises(DataError, match="cannot be unpacked"):
        download_dataset("set", tmp_path / "data", {"set": (Source(f"{url}/set.tar.gz", found, "batches"),)})
    assert not (tmp_path / "outside").exists()


def test_only_what_is_published_with_a_folder_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="digits cannot be downloaded, only cifar10, cifar100, mnist"):
        download_dataset("digits", tmp_path)
    with pytest.raises(DataError, match="downloaded into a folder and none was given; name it with --data-dir"):
        download_dataset("mnist", None)


def test_every_source_has_a_hash_and_a_name() -> None:
    for source in (source for sources in SOURCES.values() for source in sources):
        assert source.url.startswith("https://")
        assert len(source.hash) == len("md5:") + 32
        assert source.name.endswith(".gz")
