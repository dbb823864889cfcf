from pathlib import Path

import pytest
from PIL import Image

from mild_trainer.data import ClassFilter, Dataset, load
from mild_trainer.errors import DataError

NAMES = ["n01 tench", "n02 goldfish", "n03 shark"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of two images for training and one for testing; a class's images have one grey level."""
    (tmp_path / "info").mkdir()
    (tmp_path / "info" / "synsets.txt").write_text("\n".join(NAMES) + "\n")
    lines = {"train_filelist_google.txt": [], "val_filelist.txt": []}  # type: dict[str, list[str]]
    for label in range(3):
        for i in range(2):
            picture(tmp_path / f"google/q{label}/{i}.jpg", 80 * label, size=(20 + i, 30))
            lines["train_filelist_google.txt"].append(f"google/q{label}/{i}.jpg {label}")
        picture(tmp_path / f"val_images_256/val{label}.jpg", 80 * label, size=(25, 25))
        lines["val_filelist.txt"].append(f"val{label}.jpg {label}")
    for name, listed in lines.items():
        (tmp_path / "info" / name).write_text("\n".join(listed) + "\n")
    return tmp_path


def picture(path: Path, grey: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def greys(data: Dataset) -> list[int]:
    return [round(float(grey) / 80) for grey in data.x_train.mean((1, 2, 3))]


def test_reads_the_lists_at_one_size(root: Path) -> None:
    data = load("webvision", root, ClassFilter(size=16))
    assert data.x_train.shape == (6, 16, 16, 3)
    assert data.y_train.tolist() == greys(data) == [0, 0, 1, 1, 2, 2]
    assert data.y_test.tolist() == [0, 1, 2]
    assert load("webvision", root).x_train.shape[1:3] == (128, 128)


def test_the_first_classes_are_the_mini_version(root: Path) -> None:
    data = load("webvision", root, ClassFilter("2", 8))
    assert (data.n_classes, data.y_train.tolist(), data.y_test.tolist()) == (2, [0, 0, 1, 1], [0, 1])


def test_listed_classes_are_numbered_in_the_lists_order(root: Path) -> None:
    (root / "mine.txt").write_text("n03 shark\n\nn01\n")
    data = load("webvision", root, ClassFilter(str(root / "mine.txt"), 8))
    assert data.n_classes == 2
    assert data.y_train.tolist() == [1, 1, 0, 0]
    assert greys(data) == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("classes", "listed", "message"),
    [
        ("4", None, r"--classes is 4, and there are 3; give a number in 1\.\.3"),
        ("0", None, "--classes is 0"),
        ("absent.txt", None, "absent.txt cannot be read"),
        ("mine.txt", "n09\n", "names 'n09', which is no class here; list names such as 'n01'"),
        ("mine.txt", "n01\nn01\n", "names no class, or one twice"),
        ("mine.txt", "\n", "names no class, or one twice"),
    ],
)
def test_classes_that_are_not_there_are_refused(root: Path, classes: str, listed: str | None, message: str) -> None:
    if listed is not None:
        (root / classes).write_text(listed)
    chosen = classes if classes.isdecimal() else str(root / classes)
    with pytest.raises(DataError, match=message):
        load("webvision", root, ClassFilter(chosen))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train_filelist_google.txt", b"google/q0/0.jpg\n", "line 1 is 'google/q0/0.jpg', no path and class"),
        ("train_filelist_google.txt", b"\xff\xfe", "is no text"),
        ("val_filelist.txt", b"val0.jpg 7\n", "lists no image of the classes asked for"),
        ("val_filelist.txt", b"absent.jpg 0\n", "cannot be read as an image"),
    ],
)
def test_a_damaged_list_is_refused(root: Path, name: str, content: bytes, message: str) -> None:
    (root / "info" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("webvision", root, ClassFilter(size=8))


def test_a_plain_folder_takes_classes_and_a_size_too(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i, name in enumerate(("cat", "dog", "fox")):
            picture(tmp_path / part / name / "0.png", 80 * i, size=(10, 12))
    data = load("folder", tmp_path, ClassFilter("2", 6))
    assert data.x_train.shape == (2, 6, 6, 3)
    assert data.n_classes == 2
