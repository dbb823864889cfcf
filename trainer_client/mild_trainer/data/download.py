"""Download of published data sets, with verified hashes."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mild_core.errors import get_reason
from mild_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a published data set.

    Attributes
    ----------
    url
        Address of the file.
    hash
        Hash of the file, as ``algorithm:digits``.
    unpacks_to
        Name of the folder in the archive; empty if the file is not an archive.
    """

    url: str
    hash: str
    unpacks_to: str = ""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "cifar10": (
        Source(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            "cifar-10-batches-py",
        ),
    ),
    "cifar100": (
        Source(
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            "cifar-100-python",
        ),
    ),
    "mnist": (
        Source(_MNIST + "train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        Source(_MNIST + "train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
        Source(_MNIST + "t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
        Source(_MNIST + "t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
    ),
}
"""Files of each data set; the hashes are those of torchvision and of the data sets' pages."""


def download_dataset(dataset: str, data_dir: Path | None, sources: Mapping[str, tuple[Source, ...]] = SOURCES) -> None:
    """Download the missing files of a data set into `data_dir`, and unpack archives.

    Parameters
    ----------
    dataset
        Name of the data set.
    data_dir
        Folder for the files.
    sources
        Files to download, by data set.
    """
    if dataset not in sources:
        raise DataError(f"{dataset} cannot be downloaded, only {', '.join(sources)}; leave out --download")
    if data_dir is None:
        raise DataError(f"{dataset} is downloaded into a folder and none was given; name it with --data-dir")
    for source in sources[dataset]:
        path = data_dir / (source.unpacks_to or source.name)
        if not path.exists():
            _unpack(_download_file(source, data_dir), source)


def _download_file(source: Source, folder: Path) -> Path:
    """Download a file into `folder` with a progress bar, verify its hash, and return its path."""
    import pooch

    try:
        return Path(pooch.retrieve(source.url, source.hash, source.name, folder, progressbar=True))
    except ValueError as error:
        raise DataError(
            f"{source.url} has another hash than {source.hash} ({error}); "
            "try again, and do not use the file if that goes on"
        ) from None
    except OSError as error:  # what requests raises is one
        raise DataError(
            f"{source.url} cannot be downloaded ({get_reason(error)}); put {source.name} into {folder} by hand"
        ) from None


def _unpack(archive: Path, source: Source) -> None:
    """Unpack an archive into its folder; do nothing with another file."""
    if source.unpacks_to:
        try:
            with tarfile.open(archive) as tar:
                members = [_check_member(member) for member in tar]
                # Python 3.11.0 to 3.11.3, such as Debian 12's, have no filters, and ignore this attribute.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(archive.parent, members)
        except (OSError, tarfile.TarError) as error:
            raise DataError(f"{archive} cannot be unpacked ({get_reason(error)}); remove it and try again") from None


def _check_member(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member of an archive; raise TarError unless it is a file or folder within the archive."""
    path = PurePosixPath(member.name)
    if not (member.isfile() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise tarfile.TarError(f"{member.name!r} is no plain file or folder inside of it")
    return member
