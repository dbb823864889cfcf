"""Data sets in folders of pictures: ``train/<class>/*.png`` or ``<class>/*.png``, and WebVision 1.0.

WebVision (Li et al. 2017, arXiv 1708.02862) has web images, labelled by the query that found them. In its folder,
``info/train_filelist_google.txt`` and ``info/val_filelist.txt`` have lines of a path and a class, and
``info/synsets.txt`` has one line for each class. The paths of training images begin in the folder itself, those of
validation images in ``val_images_256/``. `--classes 50` gives the usual mini version, the first 50 classes of Google's
images.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from mild_core.errors import get_reason
from mild_trainer.data import files
from mild_trainer.data.class_labels import ClassFilter, format_names
from mild_trainer.data.dataset import Dataset
from mild_trainer.data.pictures import ImageSource, Pictures
from mild_trainer.errors import DataError

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "JPEG2000")
"""Formats that are recognised by their content in files of other suffixes."""
_NAMED_FORMATS = (*_FORMATS, "AVIF", "TGA")
_SUFFIXES = {".avif", *(end for end, name in Image.registered_extensions().items() if name in _NAMED_FORMATS)}
"""Suffixes of the formats; Pillow may have been built without AVIF, whose pictures are refused then and not skipped."""
_SYSTEM_NAMES = frozenset({"__MACOSX", "__pycache__", "@eaDir", "Thumbs.db", "thumbs.db", "desktop.ini"})
_TRAIN_NAMES, _TEST_NAMES = ("train", "training"), ("test", "testing", "val", "valid", "validation")
_FOLDER_REMEDY = (
    "lay it out as <class>/<picture>, or as train/<class>/<picture> and test/<class>/<picture> (or val/), with the "
    "same classes in both"
)
_MAX_NAMES = 5


@dataclass(slots=True)
class _Part:
    """The pictures of one part of a data set, and the files that are none.

    Attributes
    ----------
    folder
        Folder of the class folders.
    pictures
        Paths of the pictures of each class that has any, sorted.
    empty_classes
        Class folders without pictures.
    skipped
        Number of files that are no pictures, by their suffix.
    n_system
        Number of files of operating systems and tools, and of folders of such.
    unread
        Other folders beside this one.
    """

    folder: Path
    pictures: dict[str, list[Path]] = field(default_factory=dict)
    empty_classes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    n_system: int = 0
    unread: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, without: Sequence[str] = ()) -> Self:
        """List the pictures in the class folders of `folder`, except for the subfolders `without`."""
        part = cls(folder)
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _is_system_name(entry.name):
                part.n_system += 1
            elif entry.is_dir() and entry.name not in without:
                pictures = part._list_pictures(entry)
                if pictures:
                    part.pictures[entry.name] = pictures
                else:
                    part.empty_classes.append(entry.name)
        return part

    def _list_pictures(self, folder: Path) -> list[Path]:
        """Return the pictures in a class folder and below it, sorted, and count what else is there."""
        pictures = []
        seen = {folder.resolve()}
        for parent, folders, names in os.walk(folder, onerror=_refuse_folder, followlinks=True):
            links = [name for name in folders if Path(parent, name).is_symlink()]
            unread_links = [name for name in links if self._leads_back(Path(parent, name).resolve(), seen)]
            self.skipped["links to folders of the set"] += len(unread_links)
            folders[:] = [name for name in folders if name not in unread_links]
            system_folders = [name for name in folders if _is_system_name(name)]
            self.n_system += len(system_folders)
            folders[:] = [name for name in folders if name not in system_folders]
            for name in names:
                path = Path(parent, name)
                if _is_system_name(name):
                    self.n_system += 1
                elif path.suffix.lower() in _SUFFIXES or _is_picture(path):
                    pictures.append(path)
                else:
                    self.skipped[path.suffix.lower() or "no suffix"] += 1
        return sorted(pictures)

    def _leads_back(self, target: Path, seen: set[Path]) -> bool:
        """Return whether a link leads to a folder `seen` before or of the set itself; else add it to those seen."""
        root = self.folder.resolve()
        if target in seen or target.is_relative_to(root) or root.is_relative_to(target):
            return True
        seen.add(target)
        return False

    def format_suffixes(self) -> str:
        """Return the commonest suffixes of the files that are no pictures, with their numbers."""
        commonest = sorted((+self.skipped).items(), key=lambda pair: (-pair[1], pair[0]))[:_MAX_NAMES]
        return ", ".join(f"{count:,} of {suffix}" for suffix, count in commonest)

    def describe_skipped(self) -> list[str]:
        """Return what was left out, in sentences for people."""
        notes = []
        if n_skipped := self.skipped.total():
            notes.append(f"{self.folder}: skipped {n_skipped:,} files that are no pictures: {self.format_suffixes()}")
        if self.n_system:
            notes.append(f"{self.folder}: skipped {self.n_system:,} hidden or system files and folders")
        if self.empty_classes:
            notes.append(f"{self.folder}: left out, as they hold no pictures: {format_names(self.empty_classes)}")
        if self.unread:
            notes.append(f"{self.folder.parent}: not read: {format_names(self.unread)}")
        return notes


def _open_pictures(
    name: str,
    root: Path,
    parts: Sequence[Sequence[tuple[Path, int]]],
    class_names: tuple[str, ...],
    notes: tuple[str, ...],
    side: int,
) -> ImageSource:
    """Return a data set of pictures in files, of which the headers are read.

    Parameters
    ----------
    name, class_names, notes
        Those of the data set.
    root
        Its folder, below which the path of a picture is its id.
    parts
        Path and class of every picture of the training and of the test part.
    side
        Height and width to bring the pictures to; 0 for one that suits them.
    """
    x_train, x_test = (np.array([path for path, _ in part], dtype=object) for part in parts)
    y_train, y_test = (np.array([label for _, label in part], dtype=np.int64) for part in parts)
    ids = [path.relative_to(root).as_posix().encode(errors="backslashreplace").decode() for path in x_train]
    data = Dataset(
        name,
        x_train,
        y_train,
        x_test,
        y_test,
        len(class_names),
        class_names=class_names,
        sample_ids=np.array(ids, dtype=np.str_),
        notes=notes,
    )
    return ImageSource(data, Pictures.open([*x_train, *x_test], side))


def open_folder(data_dir: Path | None, class_filter: ClassFilter) -> ImageSource:
    """Open the pictures of the selected classes of a folder.

    The classes are the subfolders of ``train``, with ``test`` or ``val`` for testing if there is one, or those of the
    folder itself, where all pictures are for training. Hidden and system files are skipped.
    """
    if data_dir is not None and data_dir.is_file():
        raise DataError(f"{data_dir} is a file; give a folder of pictures, or an .npz of images or features")
    root = files.check_folder(data_dir, "the images")
    train, test = _read_layout(root)
    if unknown := sorted(set(test.pictures) - set(train.pictures)):
        raise DataError(
            f"{root}: {train.folder.name} has the classes {format_names(list(train.pictures))}, "
            f"{test.folder.name} has {format_names(list(test.pictures))}; {_FOLDER_REMEDY} "
            f"({format_names(unknown)} {'is' if len(unknown) == 1 else 'are'} for testing only)"
        )
    names = list(train.pictures)
    names = [names[position] for position in class_filter.select_indices(names)]
    missing = [name for name in names if test.pictures and name not in test.pictures]
    notes = (
        *train.describe_skipped(),
        *(test.describe_skipped() if test.folder != train.folder else ()),
        *([f"no test pictures of: {format_names(missing)}"] if missing else []),
        *_describe_similar_names(names),
    )
    parts = _list_labelled(train, names), _list_labelled(test, names)
    return _open_pictures(root.resolve().name, root, parts, tuple(names), notes, class_filter.size)


def _read_layout(root: Path) -> tuple[_Part, _Part]:
    """Return the training and the test part of a folder of pictures; the test part may have no pictures."""
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not _is_system_name(path.name)}
    train_folder, test_folder = (
        next((folders[name] for wanted in kinds for name in folders if name.lower() == wanted), None)
        for kinds in (_TRAIN_NAMES, _TEST_NAMES)
    )
    parts = [_Part.read(folder) for folder in (train_folder, test_folder) if folder is not None]
    if len(parts) == 1 and not parts[0].pictures and len(folders) > 1:
        train_folder = test_folder = None  # a class of that name, among others
    test = _Part(root) if test_folder is None else parts[-1]
    if train_folder is None:
        train = _Part.read(root, () if test_folder is None else [test_folder.name])
    else:
        train = parts[0]
        train.unread = sorted(set(folders) - {train_folder.name, test.folder.name})
    for part in (train, *([] if test_folder is None else [test])):
        if not part.pictures:
            raise DataError(_describe_no_pictures(part))
    if len(train.pictures) == 1:
        name = next(iter(train.pictures))
        raise DataError(
            f"{train.folder} has pictures in one class folder, {name}, and a training needs at least 2 classes; "
            f"give --data-dir the folder whose subfolders are the classes (such as {train.folder / name}, if it is "
            f"that); {_FOLDER_REMEDY}"
        )
    return train, test


def _describe_no_pictures(part: _Part) -> str:
    """Return the message about a part without pictures in class folders, with the likely cause."""
    folder = part.folder
    direct = [p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES] if folder.is_dir() else []
    if direct:
        return (
            f"{folder} holds no class folders, but {len(direct):,} pictures; put those of each class into a folder "
            f"with its name: {_FOLDER_REMEDY}"
        )
    if not part.empty_classes:
        cause = "; an .npz file is read with --dataset npz" if any(folder.glob("*.npz")) else ""
        return f"{folder} holds no class folders; {_FOLDER_REMEDY}{cause}"
    there = f"only {part.format_suffixes()}" if part.skipped else "nothing"
    return (
        f"{folder} holds no images in {format_names(part.empty_classes)}, {there} "
        f"(pictures are {', '.join(_NAMED_FORMATS)}); {_FOLDER_REMEDY}"
    )


def _is_system_name(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a tool or an operating system."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def _refuse_folder(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed."""
    raise DataError(
        f"the folder {error.filename} cannot be read ({get_reason(error)}); give access to it, or remove it"
    )


def _is_picture(path: Path) -> bool:
    """Return whether a file of another suffix begins like a picture."""
    try:
        with Image.open(path, formats=_FORMATS):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _list_labelled(part: _Part, names: Sequence[str]) -> list[tuple[Path, int]]:
    """Return path and class of every picture, in a fixed order, so that the index of a sample never changes."""
    return [(path, label) for label, name in enumerate(names) for path in part.pictures.get(name, ())]


def _describe_similar_names(names: Sequence[str]) -> list[str]:
    """Return a sentence about each pair of classes whose names differ only in case, spaces or Unicode's forms."""
    by_key: dict[str, list[str]] = {}
    for name in names:
        by_key.setdefault("".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return [f"classes that may be one: {', '.join(alike)}" for alike in by_key.values() if len(alike) > 1]


_WEBVISION_REMEDY = "unpack WebVision 1.0 there: info/, google/ and val_images_256/"
_DEFAULT_SIZE = 128


def open_webvision(data_dir: Path | None, class_filter: ClassFilter) -> ImageSource:
    """Open WebVision's training images of Google, and its validation images as the test set."""
    root = files.check_folder(data_dir, "webvision")
    names = _read_lines(root / "info" / "synsets.txt")
    classes = class_filter.select_indices([name.split()[0] for name in names])
    new_labels = {old: new for new, old in enumerate(classes)}
    train = _read_image_list(root / "info" / "train_filelist_google.txt", root, new_labels)
    test = _read_image_list(root / "info" / "val_filelist.txt", root / "val_images_256", new_labels)
    class_names = tuple(names[position].strip() for position in classes)
    return _open_pictures("webvision", root, (train, test), class_names, (), class_filter.size or _DEFAULT_SIZE)


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank."""
    try:
        text = files.read_file(path, _WEBVISION_REMEDY).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error}); {_WEBVISION_REMEDY}") from None
    return [line for line in text.splitlines() if line.strip()]


def _read_image_list(path: Path, parent: Path, new_labels: dict[int, int]) -> list[tuple[Path, int]]:
    """Return path and new label of the images in a list whose class is a key of `new_labels`."""
    images = []
    for number, line in enumerate(_read_lines(path), start=1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{path}: line {number} is {line!r}, no path and class; {_WEBVISION_REMEDY}")
        if int(label) in new_labels:
            images.append((parent / name, new_labels[int(label)]))
    if not images:
        raise DataError(f"{path} lists no image of the classes asked for; {_WEBVISION_REMEDY}")
    return images
