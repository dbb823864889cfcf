"""Picture files of every kind become the bytes that people see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mild_trainer.data import ClassFilter, Dataset, load
from mild_trainer.errors import DataError


def write_classes(root: Path, save: Callable[[int, Path], None], n: int = 3, suffix: str = ".png") -> Path:
    """Write `n` pictures of class ``dark`` and of class ``light``; `save` gets 0 or 1, and the path."""
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(n):
            save(label, root / name / f"{i}{suffix}")
    return root


def get_means(data: Dataset) -> list[int]:
    return [round(float(data.x_train[data.y_train == label].mean())) for label in (0, 1)]


def save_array(dtype: str, factor: float, offset: float = 0.0) -> Callable[[int, Path], None]:
    """Return a function that saves a grey picture of 60 or 180, of other type and scale; one pixel is 255."""

    def save(label: int, path: Path) -> None:
        grey = np.full((8, 8), 60.0 + 120 * label)
        grey[0, 0] = 255
        Image.fromarray((grey * factor + offset).astype(dtype)).save(path)

    return save


@pytest.mark.parametrize(
    ("dtype", "factor", "suffix", "note"),
    [
        ("uint8", 1, ".png", ""),
        ("uint16", 257, ".png", "values up to 65535 are read as 16 bits"),
        ("uint16", 4095 / 255, ".png", "values up to 4095 are read as 12 bits"),
        ("uint16", 1, ".png", "0..255 is kept"),
        ("uint16", 257, ".tif", "read as 16 bits"),
        (">u2", 257, ".tif", "read as 16 bits"),
        ("int32", 257, ".tif", "read as 16 bits"),
        ("float32", 1 / 255, ".tif", "0..1 is scaled to 0..255"),
        ("float32", 1, ".tif", "0..255 is kept"),
    ],
)
def test_grey_of_any_depth_keeps_its_brightness(
    tmp_path: Path, dtype: str, factor: float, suffix: str, note: str
) -> None:
    data = load("folder", write_classes(tmp_path / "set", save_array(dtype, factor), suffix=suffix))
    means = get_means(data)
    assert means == pytest.approx([63, 181], abs=1.5)
    assert note in " ".join(data.notes)
    assert bool(data.notes) == bool(note)


@pytest.mark.parametrize(
    ("dtype", "factor", "offset", "message"),
    [
        ("float32", 1 / 50, -2.5, r"pixels run from -1\.3 to 2\.6, as after standardising"),
        ("int32", 1000, 0, "pixels run up to 255000, more than 16 bits hold"),
        ("int32", 1, -100, "pixels run from -40 to 155"),
    ],
)
def test_grey_that_is_no_brightness_is_refused(
    tmp_path: Path, dtype: str, factor: float, offset: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load("folder", write_classes(tmp_path / "set", save_array(dtype, factor, offset), suffix=".tif"))


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".png"), ("RGB", ".png"), ("P", ".gif"), ("LA", ".png"), ("CMYK", ".jpg"), ("1", ".png")]
)
def test_every_mode_is_read_as_it_looks(tmp_path: Path, mode: str, suffix: str) -> None:
    def save(label: int, path: Path) -> None:
        Image.new("RGB", (16, 16), (255 * label,) * 3).convert(mode).save(path)

    data = load("folder", write_classes(tmp_path / "set", save, suffix=suffix))
    assert get_means(data) == [0, 255]
    assert data.x_train.shape == (6, 16, 16, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white_whatever_colour_lies_below(tmp_path: Path, mode: str) -> None:
    def save(label: int, path: Path) -> None:
        picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        picture.paste((0, 0, 0, 255), (0, 0, 8, 4 + 4 * (1 - label)))
        picture.convert(mode).save(path)

    data = load("folder", write_classes(tmp_path / "set", save))
    assert get_means(data) == pytest.approx([0, 127], abs=1)
    assert data.notes == ("3 of 6 pictures are transparent, and laid on white",)


def test_the_first_of_several_frames_is_read_and_it_is_said(tmp_path: Path) -> None:
    def save(label: int, path: Path) -> None:
        frames = [Image.new("L", (8, 8), 255 * (label ^ turn)) for turn in (0, 1)]
        frames[0].save(path, save_all=True, append_images=frames[1:])

    data = load("folder", write_classes(tmp_path / "set", save, suffix=".gif"))
    assert get_means(data) == [0, 255]
    assert data.notes == ("6 of 6 pictures are of several frames: the first is read",)


def test_photographs_are_brought_upright(tmp_path: Path) -> None:
    def save(label: int, path: Path) -> None:
        picture = Image.new("L", (16, 8))
        picture.paste(255, (0, 0, 8, 8))  # the left half
        exif = picture.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        picture.save(path, exif=exif)

    data = load("folder", write_classes(tmp_path / "set", save, suffix=".jpg"))
    assert data.x_train.shape == (6, 16, 8, 3)
    assert data.x_train[:, :7].mean() > 240
    assert data.x_train[:, 9:].mean() < 15


def test_sizes_are_brought_to_one_and_it_is_said(tmp_path: Path) -> None:
    def save(label: int, path: Path) -> None:
        Image.new("L", (400, 200) if path.stem == "0" else (300, 150)).save(path)

    root = write_classes(tmp_path / "set", save)
    data = load("folder", root)
    assert data.x_train.shape == (6, 32, 64, 3)
    assert data.notes[0].startswith("pictures of 2 sizes from 300x150 to 400x200 are brought to 64x32")
    asked = load("folder", root, ClassFilter(size=96))
    assert asked.x_train.shape == (6, 96, 96, 3)
    assert asked.notes == ("pictures of 2 sizes from 300x150 to 400x200 are brought to 96x96",)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".webp", ".bmp"])
def test_truncated_pictures_are_named_all_at_once(tmp_path: Path, suffix: str) -> None:
    def save(label: int, path: Path) -> None:
        noise = np.random.default_rng(label).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)

    root = write_classes(tmp_path / "set", save, suffix=suffix)
    for name in (f"dark/1{suffix}", f"light/2{suffix}"):
        path = root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError) as refused:
        load("folder", root)
    message = str(refused.value)
    assert "2 of 6 pictures are damaged" in message
    assert f"dark/1{suffix} cannot be read as an image" in message
    assert f"light/2{suffix} cannot be read as an image" in message
    assert message.endswith("replace or remove them")
