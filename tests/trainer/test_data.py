import gzip
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mild_trainer.data import Dataset, load, published
from mild_trainer.errors import DataError


def cifar_batch(n_samples: int = 10_000, **more: object) -> bytes:
    images = np.zeros((n_samples, 3072), dtype=np.uint8)
    images[:, :1024], images[:, 1024:2048] = 10, 20
    labels = [i % 10 for i in range(n_samples)]
    return pickle.dumps({b"data": images, b"labels": labels, **{k.encode(): v for k, v in more.items()}}, protocol=2)


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 MB that no test changes."""
    path = tmp_path_factory.mktemp("cifar") / "batch"
    path.write_bytes(cifar_batch())
    return path


@pytest.fixture
def cifar10(tmp_path: Path, whole_batch: Path) -> Path:
    """The unpacked folder, all of it as it should be."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).symlink_to(whole_batch)
    return folder


def put_in_place(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(root: Path, suffix: str = "") -> None:
    for part, n_samples in (("train", 30), ("t10k", 10)):
        images = np.arange(n_samples * 12, dtype=np.uint8).reshape(n_samples, 3, 4)
        write_idx(root / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", np.arange(n_samples, dtype=np.uint8) % 10)


def arrays(n_train: int = 12, n_test: int = 6, **more: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    return {
        "x_train": np.zeros((n_train, 5, 6), dtype=np.uint8),
        "y_train": np.arange(n_train) % 3,
        "x_test": np.zeros((n_test, 5, 6), dtype=np.uint8),
        "y_test": np.arange(n_test) % 3,
        **more,
    }


def write_npz(path: Path, content: dict[str, NDArray[np.generic]]) -> Path:
    np.savez(path, **content)  # type: ignore[arg-type]  # numpy: as if one were allow_pickle
    return path


def write_images(root: Path, held_out: str = "test", size: tuple[int, int] = (6, 4)) -> None:
    for part in ("train", held_out):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", size, (50 * label, i, 7)).save(root / part / name / f"{i}.png")
            (root / part / name / "notes.txt").write_text("not an image")


def test_the_digits_are_split_by_class_and_always_alike(digits: Dataset) -> None:
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert np.bincount(digits.y_test).min() >= 35
    assert (load("digits").y_train == digits.y_train).all()
    assert digits.clean is None  # nobody has checked them
    broken = digits.with_noise("symmetric:0.4", seed=0).clean
    assert broken is not None
    assert broken.mean() == pytest.approx(0.64, abs=0.02)


def test_cifar10_is_read_in_order_from_the_folder_or_its_parent(cifar10: Path) -> None:
    for place in (cifar10.parent, cifar10):
        data = load("cifar10", place)
        assert data.x_train.shape == (50_000, 32, 32, 3)
        assert data.x_test.shape == (10_000, 32, 32, 3)
        assert data.x_train[0, 0, 0].tolist() == [10, 20, 0]
        assert data.y_train[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, n_samples in (("train", 50_000), ("test", 10_000)):
        batch = {
            b"data": np.zeros((n_samples, 3072), dtype=np.uint8),
            b"fine_labels": [i % 100 for i in range(n_samples)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    data = load("cifar100", tmp_path)
    assert (data.n_samples, data.n_classes, int(data.y_train.max())) == (50_000, 100, 99)


def test_a_cifar_batch_of_another_length_is_refused(cifar10: Path) -> None:
    put_in_place(cifar10 / "data_batch_1", cifar_batch(9_999))
    with pytest.raises(DataError, match=r"data_batch_1 takes 10000 images of 3072 bytes, got \(9999, 3072\)"):
        load("cifar10", cifar10)


def test_a_cifar_batch_without_labels_is_refused(cifar10: Path) -> None:
    put_in_place(cifar10 / "data_batch_1", cifar_batch(labels=None))
    with pytest.raises(DataError, match="lacks the array 'data' or the list 'labels'"):
        load("cifar10", cifar10)


def test_a_missing_cifar_batch_is_named_with_where_to_get_it(cifar10: Path) -> None:
    (cifar10 / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"data_batch_4 is missing; unpack https://www.cs.toronto.edu"):
        load("cifar10", cifar10)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({b"data": 1})[:-3]])
def test_a_damaged_pickle_is_refused(cifar10: Path, content: bytes) -> None:
    put_in_place(cifar10 / "data_batch_1", content)
    with pytest.raises(DataError, match="data_batch_1"):
        load("cifar10", cifar10)


class Trap:
    """A pickle that would run something when loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('run')",)


def test_a_pickle_that_would_run_something_is_refused_before_it_does(cifar10: Path) -> None:
    put_in_place(cifar10 / "data_batch_1", pickle.dumps({b"data": Trap()}))
    with pytest.raises(DataError, match=r"asks for builtins.exec"):
        load("cifar10", cifar10)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read_plain_and_zipped(tmp_path: Path, suffix: str) -> None:
    write_mnist(tmp_path, suffix)
    data = load("mnist", tmp_path)
    assert data.x_train.shape == (30, 3, 4, 1)
    assert data.x_train[1, 0, :, 0].tolist() == [12, 13, 14, 15]
    assert data.y_test.tolist() == list(range(10))
    assert data.n_classes == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin like an idx file"),
        (bytes((0, 0, 13, 3)) + bytes(12), "does not begin like an idx file"),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 30, 3, 4) + bytes(7), "announces 360 values"),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load("mnist", tmp_path)


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, ".gz")
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match="cannot be read"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "folder"])
def test_a_folder_has_to_be_given_and_to_be_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="--data-dir"):
        load(name, None)
    with pytest.raises(DataError, match="nowhere does not exist; give the folder that holds"):
        load(name, tmp_path / "nowhere")


def test_an_npz_is_read_with_its_true_labels(tmp_path: Path) -> None:
    truth = np.zeros(12, dtype=np.int64)
    data = load("npz", write_npz(tmp_path / "mine.npz", arrays(y_train_clean=truth)))
    assert (data.name, data.n_classes, data.x_train.shape) == ("mine", 3, (12, 5, 6, 1))
    assert data.clean is not None
    assert data.clean.tolist() == [True, False, False] * 4


def test_an_npz_may_hold_colour_and_no_truth(tmp_path: Path) -> None:
    colour = {name: np.zeros((n, 5, 6, 3), dtype=np.uint8) for name, n in (("x_train", 12), ("x_test", 6))}
    data = load("npz", write_npz(tmp_path / "mine.npz", {**arrays(), **colour}))
    assert data.x_train.shape == (12, 5, 6, 3)
    assert data.clean is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": np.zeros((12, 5), dtype=np.uint8)}, r"of shape \(12, 5\), one row of values .* save pictures as"),
        ({"x_train": np.zeros((12, 5, 6, 1, 1), dtype=np.uint8)}, r"of shape \(12, 5, 6, 1, 1\)"),
        ({"x_train": np.zeros((11, 5, 6), dtype=np.uint8)}, "x_train: 11 images have 12 labels; give one each"),
        ({"x_test": np.zeros((6, 5, 7), dtype=np.uint8)}, r"test samples \(5, 7, 1\)"),
        ({"y_train_clean": np.zeros(3, dtype=np.int64)}, "3 true labels for 12 training samples"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(
    tmp_path: Path, changed: dict[str, NDArray[np.generic]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load("npz", write_npz(tmp_path / "mine.npz", {**arrays(), **changed}))


def test_an_npz_without_an_array_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mine.npz", {"x_train": np.zeros(1)})
    with pytest.raises(DataError, match=r"lacks y_train, got x_train float64 \(1,\); save x_train, y_train"):
        load("npz", path)


def test_a_damaged_or_absent_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(DataError, match="--data-dir"):
        load("npz", None)
    with pytest.raises(DataError, match="does not exist"):
        load("npz", path)
    path.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(DataError, match="cannot be read"):
        load("npz", path)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_image_folders_are_read_by_class(tmp_path: Path, held_out: str) -> None:
    write_images(tmp_path, held_out)
    Image.new("L", (12, 8), 99).save(tmp_path / "train" / "dog" / "a-grey-one.JPG")
    data = load("folder", tmp_path)
    assert data.x_train.shape == (7, 4, 6, 3)
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.x_train[5, 0, 0].tolist() == [50, 2, 7]
    assert data.x_train[6].std() < 2
    assert data.clean is None


def test_image_folders_need_classes_and_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        load("folder", tmp_path)
    write_images(tmp_path)
    (tmp_path / "test" / "eel").mkdir()
    Image.new("L", (6, 4)).save(tmp_path / "test" / "eel" / "0.png")
    with pytest.raises(DataError, match="train has the classes cat, dog, test has cat, dog, eel"):
        load("folder", tmp_path)
    for path in (tmp_path / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="holds no images"):
        load("folder", tmp_path)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/1.png cannot be read as an image"):
        load("folder", tmp_path)


def test_a_limit_takes_evenly_from_the_classes_and_by_seed(digits: Dataset) -> None:
    some = replace(digits, y_train_clean=digits.y_train).take_balanced(100, seed=0)
    assert np.bincount(some.y_train).tolist() == [10] * 10
    assert (some.x_train == digits.take_balanced(100, seed=0).x_train).all()
    assert (some.x_train != digits.take_balanced(100, seed=1).x_train).any()
    assert some.y_train_clean is not None
    assert len(some.y_train_clean) == 100
    assert digits.take_balanced(5000, seed=0) is digits


def test_a_limit_below_the_classes_is_refused(digits: Dataset) -> None:
    with pytest.raises(DataError, match="--limit is 9, below the 10 classes"):
        digits.take_balanced(9, seed=0)


def test_a_limit_works_without_a_truth(tmp_path: Path) -> None:
    data = load("npz", write_npz(tmp_path / "mine.npz", arrays()))
    assert data.take_balanced(6, seed=0).y_train_clean is None


def test_broken_labels_are_judged_by_the_truth_that_is_known(tmp_path: Path, digits: Dataset) -> None:
    noisy = digits.with_noise("pairflip:0.4", seed=0)
    assert noisy.clean is not None
    assert noisy.clean.mean() == pytest.approx(0.6, abs=0.001)
    unknown = load("npz", write_npz(tmp_path / "mine.npz", arrays()))
    assert unknown.with_noise("none", seed=0).clean is None
    broken = unknown.with_noise("pairflip:0.5", seed=0)
    assert broken.clean is not None
    assert broken.clean.sum() == 6


def test_normalisation_is_that_of_the_training_bytes(digits: Dataset) -> None:
    mean, std = digits.compute_channel_statistics()
    assert mean == pytest.approx([digits.x_train.mean()], rel=1e-5)
    assert std == pytest.approx([digits.x_train.std()], rel=1e-5)


def test_a_constant_channel_is_not_divided_by_zero(tmp_path: Path) -> None:
    _, std = load("npz", write_npz(tmp_path / "mine.npz", arrays())).compute_channel_statistics()
    assert std.tolist() == [1.0]


@pytest.mark.skipif(not Path("data/cifar-10-batches-py").is_dir(), reason="no CIFAR-10 in data/")
def test_the_published_cifar10_is_read() -> None:
    data = published.load_cifar("cifar10", Path("data"))
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert data.y_train[:5].tolist() == [6, 9, 9, 4, 1]
