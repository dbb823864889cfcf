"""`mild features`: images through networks of every kind, into the file that a training on features reads."""

import base64
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from mild_trainer import cli
from mild_trainer.data import ClassFilter, load, open_images
from mild_trainer.errors import DataError
from mild_trainer.feature_extraction import ImagePreparation, compute_features, write_features
from mild_trainer.feature_models import FeatureModel, load_model, pool_features

ONNX = {
    "(n, 3, 16, 16)": (
        "CAg6hgEKPgoGaW1hZ2VzEghmZWF0dXJlcyIKUmVkdWNlTWVhbioNCgRheGVzQAJAA6ABByoPCghrZWVwZGltcxgAoAECEgRtZWFuWiEKBmltYWdl"
        "cxIXChUIARIRCgMSAW4KAggDCgIIEAoCCBBiGwoIZmVhdHVyZXMSDwoNCAESCQoDEgFuCgIIA0IECgAQDQ=="
    ),
    "(4, 16, 16, 3)": (
        "CAg6hAEKPgoGaW1hZ2VzEghmZWF0dXJlcyIKUmVkdWNlTWVhbioNCgRheGVzQAFAAqABByoPCghrZWVwZGltcxgAoAECEgRtZWFuWiAKBmltYWdl"
        "cxIWChQIARIQCgIIBAoCCBAKAggQCgIIA2IaCghmZWF0dXJlcxIOCgwIARIICgIIBAoCCANCBAoAEA0="
    ),
}
"""ONNX files of a mean over pixels, by the shape that they take."""
MODULE = """
import torch

def mean(): return torch.nn.Identity()
def flat(): return torch.nn.Flatten()
def strict():
    class Strict(torch.nn.Module):
        def forward(self, images):
            if images.shape[2] != 24:
                raise ValueError("only 24 pixels")
            return images
    return Strict()
def broken(): return torch.nn.Threshold(10.0, float("nan"))
def half(): return lambda images: images[::2]
def varying():
    return lambda images: images.mean(dim=(2, 3))[:, :1].expand(-1, len(images))
def nothing(): return lambda images: images.new_zeros(len(images), 0)
def waves(): return lambda images: images.mean(dim=(2, 3)) * 1j
def sparse(): return lambda images: images.mean(dim=(2, 3)).to_sparse()
def tokens(): return lambda images: images.flatten(2)[..., None]
def number(): return 1
def fails(): raise OSError("weights are lost")
def large():
    def forward(images):
        raise MemoryError("no 9 GB")
    return forward
def uncalled(): return torch.nn.Linear
network = torch.nn.Identity()
"""


class Mean(nn.Module):
    """Means of the channels over all pixels, as `torch.nn.Identity` gives after pooling."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of seven pictures of 20 x 20 pixels in two classes, one of them for testing, and of a module."""
    rng = np.random.default_rng(0)
    for name, n in (("train/cat", 3), ("train/dog", 3), ("test/cat", 1)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    (tmp_path / "own_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return tmp_path


def extract(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["features", *words])
    assert result.exit_code == code, result.output
    return result.output


def standardised_means(folder: Path, side: int = 16) -> NDArray[np.float32]:
    images = open_images("folder", folder, ClassFilter(size=side))
    [(_, first), *_] = images.iter_batches(6)
    values = first.astype(np.float64).mean(axis=(1, 2)) / 255
    means: NDArray[np.float32] = ((values - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)
    return means


def write_model(kind: str, folder: Path) -> str:
    """Write a network that gives the means of the channels; return what --model takes."""
    path = folder / f"network.{kind.split()[0]}"
    if kind == "pt":
        torch.jit.trace(Mean(), torch.zeros(2, 3, 16, 16)).save(str(path))  # type: ignore[no-untyped-call]
    elif kind == "pt2":
        torch.export.save(torch.export.export(Mean(), (torch.zeros(4, 3, 16, 16),)), path)
    elif kind.startswith("onnx"):
        path.write_bytes(base64.b64decode(ONNX[kind.removeprefix("onnx ")]))
    else:
        return "own_networks:mean"
    return str(path)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["function", "pt", "pt2", *(f"onnx {shape}" for shape in ONNX)])
def test_a_network_of_every_kind_gives_the_same_features(kind: str, folder: Path) -> None:
    model = write_model(kind, folder)
    printed = extract(".", "--model", model, "--image-size", "16", "--batch-size", "4")
    assert "features.npz: 3 features of 6 training and 1 test images of 16x16 pixels" in printed
    assert "pictures of 20x20 are brought to 16x16" in printed
    data = load("features", folder / "features.npz")
    np.testing.assert_allclose(data.x_train, standardised_means(folder), rtol=1e-4, atol=1e-5)
    assert data.x_test.shape == (1, 3)


def test_labels_names_and_paths_follow_and_a_training_reads_them_by_itself(folder: Path) -> None:
    (folder / "out [1]").mkdir()
    out = "out [1]/f.npz"
    printed = extract(".", "--model", "own_networks:mean", "--out", out, "--image-size", "16")
    data = load("features", folder / out)
    assert data.class_names == ("cat", "dog")
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.sample_ids is not None
    assert data.sample_ids[0] == "train/cat/0.png"
    words = shlex.split(printed.partition(". Next: ")[2])
    assert words[words.index("train") :] == ["train", "--data-dir", out]
    words = [*words[words.index("train") :], "--local", "--epochs", "2", "--rounds", "1", "--out", "run"]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert "train/dog/2.png" in (folder / "run/clean.csv").read_text()


@pytest.mark.usefixtures("folder")
def test_short_memory_and_impossible_sizes_have_remedies_of_their_own() -> None:
    model = [".", "--model", "own_networks:large"]
    assert (
        "own_networks:large has not enough memory for images of shape (6, 3, 16, 16) (no 9 GB); give a smaller "
        "--batch-size or --image-size" in extract(*model, "--image-size", "16", code=2)
    )
    assert "image_size is 100000; give a number in 0..4096" in extract(*model, "--image-size", "100000", code=2)
    assert "--std is '1,0,1'; give one number above 0" in extract(*model, "--std", "1,0,1", code=2)


def test_a_network_that_fails_at_its_own_size_is_not_given_another() -> None:
    def fail(images: Tensor) -> Tensor:
        raise ValueError("an odd layer")

    preparation = ImagePreparation(16, torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    with pytest.raises(
        DataError, match=r"fails on images of shape \(2, 3, 16, 16\) \(an odd layer\); that is the size"
    ):
        compute_features(FeatureModel(fail, side=16), preparation, np.zeros((2, 16, 16, 3), dtype=np.uint8), "own")


@pytest.mark.usefixtures("folder")
def test_arrays_are_enlarged_and_grey_ones_are_taken_as_rgb() -> None:
    images = np.full((6, 5, 5), 51, dtype=np.uint8)
    truth = np.array([0, 1, 0, 1, 0, 1])
    np.savez("images.npz", x_train=images, y_train=truth[::-1], y_train_clean=truth, class_names=["a", "b"])
    extract("images.npz", "--model", "own_networks:mean", "--mean", "0", "--std", "0.5", "--image-size", "24")
    with np.load("features.npz") as file:
        np.testing.assert_allclose(file["x_train"], np.full((6, 3), 0.4), rtol=1e-5)
        assert file["y_train_clean"].tolist() == truth.tolist()
        assert file["class_names"].tolist() == ["a", "b"]
        assert "x_test" not in file


def test_a_limit_draws_evenly_and_keeps_the_places(folder: Path) -> None:
    extract(".", "--model", "own_networks:mean", "--limit", "4", "--image-size", "16")
    data = load("features", folder / "features.npz")
    assert data.y_train.tolist() == [0, 0, 1, 1]
    assert data.sample_ids is not None
    everyone = open_images("folder", folder, ClassFilter()).data.sample_ids
    assert everyone is not None
    places = [everyone.tolist().index(name) for name in data.sample_ids]
    np.testing.assert_allclose(data.x_train, standardised_means(folder)[places], rtol=1e-4, atol=1e-5)


def test_a_folder_of_transformers_says_size_and_statistics(folder: Path) -> None:
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    network = transformers.ViTModel(config).eval()  # type: ignore[no-untyped-call]
    network.save_pretrained(folder / "vit")
    settings = '{"size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 1.0]}'
    (folder / "vit" / "preprocessor_config.json").write_text(settings)
    printed = extract(".", "--model", "vit")
    assert "8 features of 6 training and 1 test images of 16x16 pixels" in printed
    [(_, images), *_] = open_images("folder", folder, ClassFilter(size=16)).iter_batches(6)
    values = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / torch.tensor([0.25, 0.5, 1]).view(3, 1, 1)
    with torch.no_grad():
        wanted = network(pixel_values=values).last_hidden_state.mean(dim=1)
    np.testing.assert_allclose(load("features", folder / "features.npz").x_train, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model nothing.onnx", "--model nothing.onnx is not there; give MODULE:FUNCTION"),
        ("--model own_networks.py", "--model own_networks.py is no model file; give MODULE:FUNCTION"),
        (
            "--model elsewhere:mean",
            "(No module named 'elsewhere'); give MODULE:FUNCTION that returns a torch module (M",
        ),
        ("--model own_networks:median", "own_networks has no function 'median'; give"),
        ("--model own_networks:number", "returns int; make it return a torch module"),
        ("--model own_networks:uncalled", "returns the class Linear; make it return a torch module"),
        ("--model own_networks:network", "is no function but Identity; name a function that returns a torch module"),
        ("--model own_networks:fails", "cannot be loaded (weights are lost); give"),
        ("--model own_networks:strict --image-size 16", "(only 24 pixels); give the --image-size that it was made for"),
        ("--model own_networks:broken --image-size 16", "x_train[0, 0] is nan, and features have to be finite"),
        ("--model own_networks:varying --batch-size 4", "x_train[4] has 2 features, and rows before it have 4; give"),
        ("--model own_networks:nothing", "gives torch.float32 of shape (6, 0); make it return real features"),
        ("--model own_networks:waves", "gives torch.complex64 of shape (6, 3); make it return real features"),
        ("--model own_networks:sparse", "gives what is no dense array (can't convert Sparse layout"),
        ("--model own_networks:mean --threads -1", "threads is -1"),
        ("--model own_networks:mean --seed -5 --limit 4", "seed is -5"),
        ("--model own_networks:half --image-size 16", "gives 3 rows for 6 images; make it return one for each"),
        ("--model own_networks:mean --out features.csv", "--out features.csv ends in '.csv'; give a file that ends"),
        ("--model own_networks:mean --out no/f.npz", "is in a folder that does not exist; give a file in a folder"),
        ("--model own_networks:mean --mean 1,2", "--mean is '1,2'; give one number, or one for red, green and blue"),
        ("--model own_networks:mean --dataset features", "is a folder; give --data-dir the .npz file"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_leaves_no_file(words: str, message: str, folder: Path) -> None:
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    printed = extract(".", *words.split(), code=2)
    assert message in printed
    assert printed.splitlines()[-1].startswith("error: ")
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize(("kind", "library"), [("network.onnx", "onnxruntime"), ("vit", "transformers")])
def test_a_library_that_is_not_installed_is_named(
    kind: str, library: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "vit").mkdir()
    (folder / "network.onnx").touch()
    monkeypatch.setattr("mild_trainer.feature_models.find_spec", lambda name: None if name == library else name)
    printed = extract("train", "--model", kind, code=2)
    assert f"--model {kind} needs {library}, which is not installed; pip install '" in printed


def test_a_file_that_is_there_stays_until_the_new_one_is_complete(folder: Path) -> None:
    (folder / "features.npz").write_text("the last one")
    Image.open(folder / "train/dog/2.png").save(folder / "train/dog/2.jpg")
    (folder / "train/dog/2.jpg").write_bytes((folder / "train/dog/2.jpg").read_bytes()[:300])
    printed = extract(".", "--model", "own_networks:mean", code=2)
    assert "1 of " in printed
    assert "2.jpg cannot be read as an image" in printed
    assert (folder / "features.npz").read_text() == "the last one"
    assert not list(folder.glob("*.part"))


def test_pictures_are_read_in_batches(folder: Path) -> None:
    sizes = [(name, len(images)) for name, images in open_images("folder", folder, ClassFilter()).iter_batches(4)]
    assert sizes == [("x_train", 4), ("x_train", 2), ("x_test", 1)]


def test_features_are_written_in_blocks_of_rows(tmp_path: Path, folder: Path) -> None:
    source = open_images("folder", folder, ClassFilter())
    rows = np.random.default_rng(0).standard_normal((7, 5))
    blocks = [("x_train", rows[:4]), ("x_train", rows[4:6]), ("x_test", rows[6:])]
    assert write_features(tmp_path / "f.npz", source.data, iter(blocks)) == 5
    data = load("features", tmp_path / "f.npz")
    assert np.array_equal(np.concatenate([data.x_train, data.x_test]), rows.astype(np.float32))


def test_maps_and_tokens_become_means_over_positions() -> None:
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    assert torch.equal(pool_features({"maps": (maps, None)}), maps.mean(dim=(2, 3)))
    assert torch.equal(pool_features(maps.flatten(2)), maps.flatten(2).mean(dim=1))
    for outputs in (torch.zeros(3), (), None):
        with pytest.raises(DataError, match="make it return real features of shape"):
            pool_features(outputs)


def test_a_network_is_loaded_for_inference(folder: Path) -> None:
    (folder / "own_networks.py").write_text("import torch\ndef drop(): return torch.nn.Dropout(0.9)\n")
    model = load_model("own_networks:drop", torch.device("cpu"))
    assert torch.equal(model.compute(torch.ones(2, 3)), torch.ones(2, 3))
