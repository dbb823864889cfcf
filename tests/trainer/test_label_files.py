"""Labels from files, as the experiments of others and people who mend labels write them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mild_trainer import noise
from mild_trainer.data import Dataset
from mild_trainer.data.label_files import replace_labels
from mild_trainer.errors import DataError
from mild_trainer.file_selection import read_source
from mild_trainer.recorded_bits import FileSource

TRUE = np.arange(12) % 3
NOISY = np.where(np.arange(12) < 4, (TRUE + 1) % 3, TRUE)
NAMES = ("cat", "dog", "eel")


def make_data(**changes: Any) -> Dataset:
    images = np.zeros((12, 2, 2, 3), dtype=np.uint8)
    return Dataset("pets", images, TRUE, images[:0], TRUE[:0], 3, **changes)


def write(path: Path, labels: list[Any]) -> Path:
    """Write labels in the form that the suffix stands for."""
    if path.suffix == ".json":
        path.write_text(json.dumps(labels))
    elif path.suffix == ".npy":
        np.save(path, np.array(labels))
    elif path.suffix == ".npz":
        np.savez(path, noisy=np.array(labels))
    elif path.suffix == ".pt":
        torch.save(torch.tensor(labels), path)
    else:
        path.write_text("".join(f"{label}\n" for label in (["label"] if path.suffix == ".csv" else []) + labels))
    return path


@pytest.mark.parametrize("suffix", [".json", ".npy", ".npz", ".pt", ".csv", ".txt"])
def test_noisy_labels_of_a_file_are_the_given_ones(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"noisy{suffix}", NOISY.tolist())
    data = replace_labels(make_data(), str(path), is_noise=True)
    assert data.y_train.tolist() == NOISY.tolist()
    assert data.clean is not None
    assert data.clean.sum() == 8
    assert data.notes == (f"labels are those of {path}, 4 of which differ from those of pets",)
    assert data.with_noise(f"file:{path}", 0).y_train.tolist() == NOISY.tolist()


def write_files(folder: Path) -> list[Path]:
    """The same labels in every form in which a file may have them: as numbers, and as names."""
    names = [NAMES[label] for label in NOISY]
    content = {
        "lines.txt": "".join(f"{label}\n" for label in NOISY),
        "floats.csv": "index;target\n" + "".join(f"{i};{label},0\n" for i, label in enumerate(NOISY)),
        "texts.json": json.dumps(list(map(str, NOISY))),
        "by_index.json": json.dumps({str(i): int(NOISY[i]) for i in reversed(range(12))}),
        "names.csv": "\ufeffindex,label\r\n" + "".join(f"{i},{names[i]}\r\n" for i in reversed(range(12))),
        "names.json": json.dumps(names),
        "clean.csv": "index,id,label,kept\n" + "".join(f"{i},,{name},true\n" for i, name in enumerate(names)),
    }
    for name, text in content.items():
        (folder / name).write_text(text, encoding="utf-8")
    np.save(folder / "one_hot.npy", np.eye(3)[NOISY])
    np.savez(folder / "several.npz", noisy_label=np.array(names), other=TRUE)
    torch.save(torch.tensor(NOISY), folder / "tensor.pt")
    return sorted(folder.iterdir())


def test_a_file_has_the_same_classes_wherever_it_is_given(tmp_path: Path) -> None:
    """To a data set, to predictions in a log, and to bits in an array."""
    (folder := tmp_path / "labels").mkdir()
    log, bits = tmp_path / "log.csv", tmp_path / "bits.npz"
    np.savez(bits, correct=np.tile(TRUE == NOISY, (3, 1)))
    for path in write_files(folder):
        is_named = path.stem in ("names", "clean", "several")
        data = make_data(class_names=NAMES if is_named else ())
        predicted = [NAMES[label] if is_named else label for label in TRUE]
        log.write_text("epoch,sample,predicted\n" + "".join(f"0,{i},{name}\n" for i, name in enumerate(predicted)))
        assert replace_labels(data, str(path), is_noise=True).y_train.tolist() == NOISY.tolist(), path
        for source in (log, bits):
            recorded = read_source(FileSource(source, labels=path))
            assert recorded.labels is not None
            assert recorded.labels.tolist() == NOISY.tolist(), (path, source)
            assert tuple(recorded.class_names or ()) == (NAMES if is_named else ())


def test_classes_of_a_log_are_numbered_by_name_as_those_of_data_sets(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,sample,predicted,label\n0,0,eel,eel\n0,1,cat,dog\n0,2,eel,cat\n")
    recorded = read_source(FileSource(log))
    assert recorded.labels is not None
    assert (recorded.labels.tolist(), recorded.class_names) == ([2, 1, 0], list(NAMES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,label\n0,1\n0,1\n", "index '0' is there twice"),
        ("index,label\n0,1\n1,-1\n", "entry 2 is the label -1, classes are numbered from 0; leave a label that is"),
        ("index,label\n0,\n1,NA\n", "label has 2 entries and no label"),
        ("id,label\na,1\nb,0\n", "names samples, such as 'a' in id, and .* does not; give the labels by index"),
        ("1\n0\n", "2 labels for 3 samples; give one each"),
    ],
)
def test_labels_that_are_not_those_of_the_bits_are_refused(tmp_path: Path, text: str, message: str) -> None:
    np.savez(tmp_path / "bits.npz", correct=np.ones((2, 3), dtype=bool))
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(FileSource(tmp_path / "bits.npz", labels=tmp_path / "labels.csv"))


def test_labels_by_index_do_not_fit_a_log_by_id(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,sample,predicted\n0,a,1\n0,b,0\n")
    (tmp_path / "labels.csv").write_text("index,label\n1,0\n0,1\n")
    with pytest.raises(DataError, match=r"names samples by index and .* by id, such as 'a'; give the labels by id"):
        read_source(FileSource(tmp_path / "log.csv", labels=tmp_path / "labels.csv"))


def test_samples_of_a_training_need_a_label_each(tmp_path: Path) -> None:
    (tmp_path / "noisy.csv").write_text("label\n" + "1\n" * 10 + "NA\n\n2\n")
    with pytest.raises(DataError, match="1 of 12 entries have no label, the first is entry 11; give each training"):
        replace_labels(make_data(), str(tmp_path / "noisy.csv"), is_noise=True)


def test_labels_may_be_lists_by_index_and_torch_lists(tmp_path: Path) -> None:
    by_index = tmp_path / "by_index.json"
    by_index.write_text(json.dumps({str(i): int(NOISY[i]) for i in reversed(range(12))}))
    torch.save(NOISY.tolist(), tmp_path / "list.pt")
    for path in (by_index, tmp_path / "list.pt"):
        assert replace_labels(make_data(), str(path), is_noise=True).y_train.tolist() == NOISY.tolist()


def test_labels_that_replace_others_say_nothing_of_the_truth(tmp_path: Path) -> None:
    path = write(tmp_path / "mended.npy", NOISY.tolist())
    assert replace_labels(make_data(), str(path), is_noise=False).clean is None
    known = replace_labels(make_data(y_train_clean=TRUE), str(path), is_noise=False)
    assert known.clean is not None
    assert known.clean.sum() == 8


def test_the_column_is_named_where_there_are_several(tmp_path: Path) -> None:
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save({"clean_label": TRUE, "aggre_label": TRUE, "worse_label": NOISY}, path)
    data = replace_labels(make_data(), f"{path}:worse_label", is_noise=True)
    assert data.y_train.tolist() == NOISY.tolist()
    with pytest.raises(
        DataError, match=r"columns clean_label, aggre_label, worse_label; name the one .* :?\S+:worse_label"
    ):
        replace_labels(make_data(), str(path), is_noise=True)
    with pytest.raises(DataError, match="has no column 'worst', only clean_label"):
        replace_labels(make_data(), f"{path}:worst", is_noise=True)
    torch.save({"clean_label": np.roll(TRUE, 1), "worse_label": NOISY}, path)
    with pytest.raises(DataError, match="its clean labels differ from the labels of pets at 12 of 12 samples"):
        replace_labels(make_data(), f"{path}:worse_label", is_noise=True)


def test_a_mended_clean_csv_without_ids_is_matched_by_index(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(12)
    file = tmp_path / "mended.csv"
    file.write_text("index,id,label,mark\n" + "".join(f"{i},,{NOISY[i]},\n" for i in order))
    assert replace_labels(make_data(), str(file), is_noise=False).y_train.tolist() == NOISY.tolist()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_mended_clean_csv_is_matched_by_path_and_name(tmp_path: Path, delimiter: str) -> None:
    paths = [f"{NAMES[TRUE[i]]}/{i}.png" for i in range(12)]
    data = make_data(class_names=NAMES, sample_ids=np.array(paths))
    rows = [["index", "path", "label", "kept"]]
    rows += [[str(i), paths[i], NAMES[NOISY[i]], "true"] for i in np.random.default_rng(0).permutation(12)]
    file = tmp_path / "mended.csv"
    file.write_text("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows))
    assert replace_labels(data, str(file), is_noise=False).y_train.tolist() == NOISY.tolist()
    file.write_text("\n".join(delimiter.join(row) for row in rows[:-1]))
    with pytest.raises(DataError, match=r"column path lacks 1 training samples, such as '\w+/\d+.png'"):
        replace_labels(data, str(file), is_noise=False)
    file.write_text("\n".join(delimiter.join(row) for row in [*rows, rows[1]]))
    with pytest.raises(DataError, match="is there twice"):
        replace_labels(data, str(file), is_noise=False)


def test_numbers_of_renumbered_classes_are_those_of_the_data_set(tmp_path: Path) -> None:
    data = make_data(class_names=("1", "2", "3"))
    path = write(tmp_path / "noisy.json", (NOISY + 1).tolist())
    assert replace_labels(data, str(path), is_noise=True).y_train.tolist() == NOISY.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (NOISY.tolist()[:-1], "11 labels for the 12 training samples of pets; give one each"),
        ((NOISY + 1).tolist(), r"1 of its labels are no classes of pets, such as 3; .* count from 1: subtract 1"),
        ((NOISY - 1).tolist(), "no classes of pets, such as -1; classes are 0, 1, 2"),
        ([*NOISY.tolist()[:-1], 0.5], "labels is float64 with 0.5"),
        ([*NOISY.tolist()[:-1], [1, 2]], "have different lengths; give one label for each sample"),
        (["cat"] * 12, "no classes of pets, such as cat"),
    ],
)
def test_labels_of_other_samples_or_classes_are_refused(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace_labels(make_data(), str(write(tmp_path / "noisy.json", labels)), is_noise=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, "does not exist; give a .json, .npy"),
        ("noisy.json", b"{", "is no JSON"),
        ("noisy.json", b"3", "holds a int; give a list"),
        ("noisy.npy", b"half", "is no .npy or .npz"),
        ("noisy.pt", b"half", "cannot be read"),
        ("noisy.csv", b"a,label\n1\n", "row 2 has 1 cells, the header has 2"),
        ("noisy.csv", b"", "is empty"),
        ("noisy.csv", b"\xff\xfe\xff", "is no CSV in UTF-8"),
        ("noisy.xlsx", b"", "ends in '.xlsx'"),
    ],
)
def test_files_without_labels_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        replace_labels(make_data(), str(tmp_path / name), is_noise=True)


def test_labels_that_agree_by_chance_alone_are_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "noisy.json", np.roll(TRUE, 1).tolist())
    assert (
        "warning: 100% of the labels of noisy.json differ"
        in replace_labels(make_data(), str(path), is_noise=True).notes[1]
    )


@pytest.mark.parametrize("spec", ["file:a/0.5_sym.json", "a/0.5_sym.json", "a.npz:noisy", "file:labels", "x.csv"])
def test_a_file_is_a_noise(spec: str) -> None:
    assert noise.parse_noise(spec) == ("file", 0.0)
    assert noise.get_label_file(spec) == spec.removeprefix("file:")
    assert noise.get_label_file("symmetric:0.4") is None
