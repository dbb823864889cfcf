"""Folders of pictures as people have them: what counts as a class and as a sample, and what is said of the rest."""

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mild_trainer.data import load
from mild_trainer.errors import DataError


def write_picture(path: Path, grey: int = 99) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path, "PNG")


def write_set(root: Path, *parts: str, classes: tuple[str, ...] = ("cat", "dog"), n: int = 3) -> Path:
    for part in parts or ("",):
        for label, name in enumerate(classes):
            for i in range(n):
                write_picture(root / part / name / f"{i}.png", 40 * label + i)
    return root


def test_classes_of_the_folder_itself_are_for_training(tmp_path: Path) -> None:
    data = load("folder", write_set(tmp_path / "pets"))
    assert (data.n_samples, len(data.y_test), data.class_names) == (6, 0, ("cat", "dog"))
    assert data.sample_ids is not None
    assert data.sample_ids.tolist() == [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)]
    assert data.describe() == "pets: 6 training and no test images of 8x8x3, 2 classes: cat 3, dog 3"
    assert data.notes == ()


@pytest.mark.parametrize("test", ["test", "val", "valid", "Validation"])
def test_a_test_set_is_optional(tmp_path: Path, test: str) -> None:
    root = write_set(tmp_path, "train")
    assert len(load("folder", root).y_test) == 0
    data = load("folder", write_set(tmp_path, test))
    assert (data.n_samples, len(data.y_test)) == (6, 6)
    assert data.get_sample_id(4) == "train/dog/1.png"


def test_a_test_folder_beside_classes_is_no_class(tmp_path: Path) -> None:
    data = load("folder", write_set(write_set(tmp_path), "test"))
    assert (data.class_names, data.n_samples, len(data.y_test)) == (("cat", "dog"), 6, 6)


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_class_may_be_called_like_a_part(tmp_path: Path, name: str) -> None:
    data = load("folder", write_set(tmp_path, classes=("bus", "tram", name)))
    assert (data.class_names, data.n_samples) == (tuple(sorted(("bus", "tram", name))), 9)


@pytest.mark.parametrize(
    "path",
    [
        ".ipynb_checkpoints/0-checkpoint.png",
        "cat/.ipynb_checkpoints/0-checkpoint.png",
        "__MACOSX/cat/._0.png",
        "cat/._0.png",
        ".hidden/0.png",
        "cat/@eaDir/0.png/thumb.png",
        ".DS_Store",
        "cat/.DS_Store",
        "dog/Thumbs.db",
    ],
)
def test_what_systems_leave_behind_is_no_sample_and_no_class(tmp_path: Path, path: str) -> None:
    root = write_set(tmp_path, "train", "test")
    expected = load("folder", root)
    write_picture(root / "train" / path)
    data = load("folder", root)
    assert data.class_names == ("cat", "dog")
    assert data.sample_ids is not None
    assert expected.sample_ids is not None
    assert data.sample_ids.tolist() == expected.sample_ids.tolist()
    assert data.notes == (f"{root}/train: skipped 1 hidden or system files and folders",)


def test_other_files_are_counted_by_suffix(tmp_path: Path) -> None:
    root = write_set(tmp_path)
    for name in ("cat/a.txt", "cat/b.txt", "dog/c.heic", "dog/README"):
        (root / name).write_text("no picture")
    data = load("folder", root)
    assert data.n_samples == 6
    assert data.notes == (f"{root}: skipped 4 files that are no pictures: 2 of .txt, 1 of .heic, 1 of no suffix",)


@pytest.mark.parametrize("name", ["0.jfif", "0.PNG", "0.jpe", "0", "0.img", "0.pgm"])
def test_pictures_of_any_suffix_are_samples(tmp_path: Path, name: str) -> None:
    root = write_set(tmp_path)
    write_picture(root / "dog" / name)
    data = load("folder", root)
    assert data.n_samples == 7
    assert data.notes == ()


def test_classes_without_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_set(tmp_path, "train", "test")
    (root / "train" / "eel").mkdir()
    (root / "train" / "ape").mkdir()
    data = load("folder", root)
    assert (data.n_classes, sorted(set(data.y_train.tolist()))) == (2, [0, 1])
    assert data.notes == (f"{root}/train: left out, as they hold no pictures: ape, eel",)


def test_classes_without_test_pictures_and_folders_that_are_not_read_are_named(tmp_path: Path) -> None:
    root = write_set(write_set(tmp_path, "train", classes=("cat", "dog", "eel")), "test", "val", "unlabelled")
    assert load("folder", root).notes == (
        f"{root}: not read: unlabelled, val",
        "no test pictures of: eel",
    )


def test_class_names_that_may_be_one_are_named(tmp_path: Path) -> None:
    data = load("folder", write_set(tmp_path, classes=("Hot dog", "cat", "hotdog")))
    assert data.n_classes == 3
    assert data.notes == ("classes that may be one: Hot dog, hotdog",)


def test_class_names_of_two_unicode_forms_are_named(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    data = load("folder", write_set(tmp_path, classes=(composed, decomposed, "dog")))
    assert data.notes == (f"classes that may be one: {decomposed}, {composed}",)


def test_links_to_other_folders_are_read_and_those_into_the_set_are_not(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for name in ("a.png", "below/b.png"):
        write_picture(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "dogs").symlink_to(root / "dog")
    data = load("folder", root)
    assert data.sample_ids is not None
    names = [name for name in data.sample_ids.tolist() if name.startswith("cat/")]
    assert names == ["cat/0.png", "cat/1.png", "cat/2.png", "cat/more/a.png", "cat/more/below/b.png"]
    assert data.notes == (f"{root}: skipped 3 files that are no pictures: 3 of links to folders of the set",)


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path)
    (root / "cat" / "locked").mkdir()
    scan = os.scandir

    def deny(path: Any) -> Any:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(DataError, match=r"cat/locked cannot be read \(Permission denied\); give access to it"):
        load("folder", root)


def test_a_table_in_place_of_a_folder_is_refused_with_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"texts\.csv is a file; give a folder of pictures, or an \.npz of images or"):
        load("folder", tmp_path / "texts.csv")


def test_pictures_without_class_folders_are_refused_with_the_cause(tmp_path: Path) -> None:
    write_picture(tmp_path / "flat" / "0.png")
    with pytest.raises(
        DataError, match="holds no class folders, but 1 pictures; put those of each class into a folder"
    ):
        load("folder", tmp_path / "flat")
    with pytest.raises(DataError, match=r"has pictures in one class folder, flat, .* give --data-dir the folder whose"):
        load("folder", tmp_path)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "0.heic").write_text("")
    with pytest.raises(
        DataError, match=r"holds no images in cat, only 1 of \.heic \(pictures are PNG, JPEG, .*AVIF, TGA\)"
    ):
        load("folder", tmp_path / "empty")


def test_a_set_around_a_set_is_refused_with_the_folder_meant(tmp_path: Path) -> None:
    write_set(tmp_path / "outer" / "set", "train", "test")
    with pytest.raises(DataError, match=r"one class folder, set, and .* \(such as \S+/outer/set, if"):
        load("folder", tmp_path / "outer")
