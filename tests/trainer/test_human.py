from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mild_core.errors import ParameterError
from mild_trainer import noise
from mild_trainer.data import Dataset, label_files
from mild_trainer.errors import DataError

CLEAN = np.arange(40) % 10
WORSE = (CLEAN + (np.arange(40) < 15)) % 10


@pytest.fixture
def cifar() -> Dataset:
    images = np.zeros((40, 2, 2, 3), dtype=np.uint8)
    return Dataset("cifar10", images, CLEAN, images[:5], CLEAN[:5], 10)


def label(data: Dataset, spec: str, folder: Path) -> Dataset:
    return label_files.replace_labels(data, str(label_files.find_noisy_labels(spec, folder)), is_noise=True)


def write(folder: Path, kind: str) -> None:
    columns = {"clean_label": CLEAN, "worse_label": WORSE, "random_label1": CLEAN}
    if kind == "pt":
        torch.save(columns, folder / "CIFAR-10_human.pt")
    else:
        stored = {f"c10_{name}": values.astype(np.uint8) for name, values in columns.items()}
        np.savez(folder / "cifar-n-labels.npz", **stored, c100_clean_label=WORSE)  # type: ignore[arg-type]  # arrays alone


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_takes_peoples_labels_and_keeps_the_truth(kind: str, cifar: Dataset, tmp_path: Path) -> None:
    write(tmp_path, kind)
    found = label(cifar, "cifar10n:worse", tmp_path)
    assert found.y_train.tolist() == WORSE.tolist()
    assert found.clean is not None
    assert found.clean.sum() == 25
    again = found.with_noise("cifar10n:worse", 0)
    assert again.y_train.tolist() == WORSE.tolist()


def test_labels_in_another_order_are_refused(cifar: Dataset, tmp_path: Path) -> None:
    write(tmp_path, "npz")
    turned = replace(cifar, y_train=np.roll(CLEAN, 1))
    with pytest.raises(DataError, match=r"differ from the labels of cifar10 at 40 of 40 samples, .* another order"):
        label(turned, "cifar10n:worse", tmp_path)
    with pytest.raises(DataError, match="40 labels for the 30 training samples"):
        label(cifar.take(np.arange(30)), "cifar10n:worse", tmp_path)


def test_what_is_missing_is_said_with_where_it_is_from(cifar: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no labels that people gave; put CIFAR-10_human\.pt of http"):
        label(cifar, "cifar10n:worse", tmp_path)
    write(tmp_path, "npz")
    with pytest.raises(DataError, match="has no column 'c10_aggre_label', only c10_clean_label, c10_worse_label"):
        label(cifar, "cifar10n:aggre", tmp_path)


def test_a_file_that_would_run_code_or_is_damaged_is_refused(cifar: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save({"clean_label": Path("harmful")}, path)
    with pytest.raises(DataError, match="cannot be read"):
        label(cifar, "cifar10n:worse", tmp_path)
    torch.save([1], path)
    with pytest.raises(DataError, match="has no column 'worse_label', only labels"):
        label(cifar, "cifar10n:worse", tmp_path)
    path.write_bytes(b"half of it")
    with pytest.raises(DataError, match="cannot be read"):
        label(cifar, "cifar10n:worse", tmp_path)


def test_labels_that_nobody_gave_are_refused_with_those_there_are() -> None:
    assert noise.parse_noise("cifar100n:noisy") == ("cifar100n", 0.0)
    with pytest.raises(ParameterError, match="cifar10n has aggre, random1, random2, random3, worse"):
        noise.parse_noise("cifar10n:best")
