"""Arrays as people save them: other names, types, axes and labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mild_trainer.data import ClassFilter, guess_dataset, load
from mild_trainer.errors import DataError

IMAGES = (np.arange(12 * 5 * 6 * 3) % 251).reshape(12, 5, 6, 3).astype(np.uint8)
LABELS = np.arange(12) % 3


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train"),
        ("X_train", "Y_train"),
        ("train_images", "train_labels"),
        ("images", "labels"),
        ("x", "y"),
        ("X", "y"),
        ("data", "target"),
        ("arr_0", "arr_1"),
        ("pixels", "species"),
        ("y0", "x0"),
    ],
)
def test_arrays_of_any_names_are_told_apart(tmp_path: Path, names: tuple[str, str]) -> None:
    data = load("npz", write(tmp_path / "a.npz", **dict(zip(names, (IMAGES, LABELS), strict=True))))
    assert (data.x_train == IMAGES).all()
    assert data.y_train.tolist() == LABELS.tolist()
    assert len(data.y_test) == 0
    if names != ("x_train", "y_train"):
        assert data.notes == (f"arrays: x_train is {names[0]}, y_train is {names[1]}",)


def test_the_parts_of_medmnist_are_read_and_the_unread_named(tmp_path: Path) -> None:
    parts = {f"{part}_images": IMAGES for part in ("train", "val", "test")}
    labels = {f"{part}_labels": LABELS[:, None].astype(np.uint8) for part in ("train", "val", "test")}
    data = load("npz", write(tmp_path / "a.npz", **parts, **labels))
    assert data.y_train.tolist() == LABELS.tolist()
    assert len(data.y_test) == 12
    assert data.notes[1] == "not read: val_images, val_labels"


@pytest.mark.parametrize("names", [("arr_0", "arr_1", "arr_2", "arr_3"), ("a", "b", "c")], ids=["four", "three"])
def test_names_that_say_nothing_are_refused_with_what_is_there(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = dict(zip(names, (IMAGES, LABELS, IMAGES, LABELS), strict=False))
    with pytest.raises(
        DataError, match=rf"lacks x_train and y_train, got {names[0]} uint8 \(12, 5, 6, 3\), {names[1]}"
    ):
        load("npz", write(tmp_path / "a.npz", **arrays))


def test_the_file_in_a_folder_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.npz", x=IMAGES, y=LABELS)
    with pytest.raises(DataError, match=rf"is a folder; give --data-dir the file, such as {path}"):
        load("npz", tmp_path)


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (IMAGES.astype(np.int64), "pixels: 0..255 is kept"),
        (IMAGES.astype(np.float32), "pixels: 0..255 is kept"),
        (IMAGES / 255, "pixels: 0..1 is scaled to 0..255"),
        (IMAGES / 127.5 - 1, "pixels: -1..1 is scaled to 0..255"),
        (IMAGES.astype(np.uint16) * 257, "pixels: values up to 64250 are read as 16 bits, and scaled to 0..255"),
        (
            IMAGES.transpose(0, 3, 1, 2),
            "channels: first in the file (n, channels, height, width), and moved to the end",
        ),
        (IMAGES.transpose(1, 2, 3, 0), "samples: the last axis of the images is that of the samples"),
    ],
    ids=["int64", "float", "0..1", "-1..1", "uint16", "channels first", "samples last"],
)
def test_images_of_other_types_and_axes_come_out_the_same(tmp_path: Path, images: Any, note: str) -> None:
    data = load("npz", write(tmp_path / "a.npz", x_train=images, y_train=LABELS))
    assert data.x_train.shape == IMAGES.shape
    assert np.abs(data.x_train.astype(int) - IMAGES).max() <= (1 if "-1..1" in note else 0)
    assert data.notes == (note,)


def test_both_parts_have_one_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x_train=IMAGES / 255, y_train=LABELS, x_test=IMAGES[:3] / 510, y_test=LABELS[:3])
    data = load("npz", path)
    assert data.x_test.tolist() == pytest.approx(np.rint(IMAGES[:3] / 2), abs=1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((IMAGES - 120.0) / 60, "as after standardising; save the pictures as they were before"),
        (np.where(IMAGES == 7, np.nan, IMAGES), "some pixels are NaN or infinite"),
        (IMAGES.astype(np.int64) * 1000, "pixels run up to 250000, more than 16 bits hold"),
        (IMAGES.astype(np.complex64), "pixels are complex64"),
        (IMAGES.astype(np.str_), "pixels are <U3"),
        (np.array([IMAGES[0], None], dtype=object), r"a\.npz: x_train holds Python objects.* as x_train\.toarray\(\)"),
    ],
)
def test_values_that_are_no_pixels_are_refused(tmp_path: Path, images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("npz", write(tmp_path / "a.npz", x_train=images, y_train=LABELS))


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(np.float64), LABELS.astype(np.uint8)[:, None], np.eye(3)[LABELS], np.eye(3, dtype=bool)[LABELS]],
)
def test_labels_of_other_forms_are_the_same_labels(tmp_path: Path, labels: Any) -> None:
    data = load("npz", write(tmp_path / "a.npz", x_train=IMAGES, y_train=labels))
    assert (data.y_train.tolist(), data.n_classes, data.class_names) == (LABELS.tolist(), 3, ())


@pytest.mark.parametrize("kind", [np.str_, np.bytes_])
def test_names_of_classes_are_kept(tmp_path: Path, kind: type) -> None:
    names: Any = np.array(["dog", "cat ", "eel"])[LABELS].astype(kind)
    data = load("npz", write(tmp_path / "a.npz", x_train=IMAGES, y_train=names, x_test=IMAGES[:2], y_test=names[:2]))
    assert (data.class_names, data.y_train[:3].tolist(), data.y_test.tolist()) == (
        ("cat", "dog", "eel"),
        [1, 0, 2],
        [1, 0],
    )


def test_names_may_stand_beside_the_labels_and_so_may_ids(tmp_path: Path) -> None:
    ids = np.array([f"{i:03}.dcm" for i in range(12)])
    names = np.array(["ape", "bee", "cat", "dog"])
    data = load("npz", write(tmp_path / "a.npz", x=IMAGES, y=LABELS + 1, class_names=names, paths=ids))
    assert (data.class_names, data.y_train[:4].tolist(), data.get_sample_id(7)) == (
        ("bee", "cat", "dog"),
        [0, 1, 2, 0],
        "007.dcm",
    )
    assert data.take(np.array([5, 7])).get_sample_id(1) == "007.dcm"
    with pytest.raises(DataError, match="paths has 3 entries for 12 training samples"):
        load("npz", write(tmp_path / "b.npz", x=IMAGES, y=LABELS, paths=ids[:3]))
    with pytest.raises(DataError, match=r"paths names '000\.dcm' twice; give each training sample a name of its own"):
        load("npz", write(tmp_path / "c.npz", x=IMAGES, y=LABELS, paths=ids[[0, *range(11)]]))
    with pytest.raises(DataError, match="label 3 has no name among the 2 given"):
        load("npz", write(tmp_path / "c.npz", x=IMAGES, y=LABELS + 1, class_names=names[:2]))


@pytest.mark.parametrize(
    ("labels", "names", "gap"),
    [
        (LABELS + 1, ("1", "2", "3"), r"the labels count from 1 \(1..3\)"),
        (LABELS * 100, ("0", "100", "200"), r"over 0..200 with gaps: no sample has 1, 2, 3 and 195 more"),
        (np.array([0, 1, 3])[LABELS], ("0", "1", "3"), "over 0..3 with gaps: no sample has 2;"),
        (np.array([-1, 1])[LABELS % 2], ("-1", "1"), r"8 labels are negative .* \(--classes present does\)"),
    ],
)
def test_classes_that_nobody_has_are_not_made_up(tmp_path: Path, labels: Any, names: tuple[str, ...], gap: str) -> None:
    path = write(tmp_path / "a.npz", x_train=IMAGES, y_train=labels, x_test=IMAGES[:4], y_test=labels[:4])
    with pytest.raises(DataError, match=gap):
        load("npz", path)
    data = load("npz", path, ClassFilter("present"))
    assert (data.n_classes, data.class_names) == (len(names), names)
    assert [data.get_class_name(label) for label in data.y_train.tolist()] == labels.astype(str).tolist()
    assert [data.get_class_name(label) for label in data.y_test.tolist()] == labels[:4].astype(str).tolist()
    noisy = data.with_noise("symmetric:1", 0).y_train
    assert set(noisy.tolist()) <= set(range(len(names)))
    assert "the classes that occur are numbered from 0: " in " ".join(data.notes)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS - 1, r"4 labels are negative \(-1\), which often stands for no label"),
        (LABELS + 0.5, "y_train is float64 with 0.5, 1.5, 2.5"),
        (np.where(LABELS == 1, np.nan, LABELS), "y_train is float64 with nan"),
        (np.zeros(12, dtype=np.int64), "all labels are 0; give samples of at least 2 classes"),
        (np.arange(12), "12 samples have 12 classes, as if the labels were numbers of samples"),
        (np.ones((12, 3)), "not one-hot; give one label for each sample"),
        (np.array(["cat", "", "dog"])[LABELS], "y_train is empty for 4 of 12 samples"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("npz", write(tmp_path / "a.npz", x_train=IMAGES, y_train=labels), ClassFilter("present"))


def test_test_classes_that_nobody_is_trained_on_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS + 1)
    with pytest.raises(DataError, match="y_test has the classes 3, which no training sample has"):
        load("npz", path)


def test_a_true_class_that_nobody_was_given_is_a_class(tmp_path: Path) -> None:
    data = load("npz", write(tmp_path / "a.npz", x=IMAGES, y=LABELS, y_train_clean=(LABELS + 1) % 4))
    assert data.n_classes == 4


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("npz", ClassFilter("2"), "--classes is 2, and npz takes all or present"),
        ("npz", ClassFilter(size=8), "--image-size is 8, for folders of images and not for npz"),
        ("digits", ClassFilter("2"), "--classes is 2, and digits takes all or present"),
    ],
)
def test_options_of_other_kinds_of_data_are_refused(
    tmp_path: Path, name: str, chosen: ClassFilter, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(name, write(tmp_path / "a.npz", x=IMAGES, y=LABELS), chosen)


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert guess_dataset(tmp_path / "DATA.NPZ") == "npz"
    assert guess_dataset(tmp_path / "data.npy") == "npz"
