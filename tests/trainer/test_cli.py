import csv
import json
import re
import shlex
import subprocess
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.core
import typer.main
from numpy.typing import NDArray
from typer.testing import CliRunner

from mild_core.types import SelectionOptions
from mild_trainer import cli
from mild_trainer.data import load
from mild_trainer.settings import TrainSettings

QUICK = ["--limit", "150", "--epochs", "2", "--rounds", "2", "--noise", "symmetric:0.4"]
DOCUMENT = Path("docs/trainer.md")


@pytest.fixture
def run() -> CliRunner:
    return CliRunner(env={"COLUMNS": "100", "TERM": "dumb"})


def train_options() -> dict[str, typer.core.TyperOption]:
    """The options of ``mild train`` by name."""
    options = typer.main.get_group(cli.app).commands["train"].params
    return {option.name: option for option in options if isinstance(option, typer.core.TyperOption) and option.name}


def bits(n_epochs: int = 20, n_samples: int = 400) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bits of samples of which the first three quarters are clean, and who is."""
    clean = np.arange(n_samples) < 0.75 * n_samples
    rng = np.random.default_rng(0)
    return rng.random((n_epochs, n_samples)) < np.where(clean, 0.92, 0.06), clean


def test_trains_in_the_process_and_writes_what_it_found(run: CliRunner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run.invoke(cli.app, ["train", *QUICK, "--local", "--oracle", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "round 0 epoch 1: loss" in result.output
    assert "all labels" in result.output
    assert "true clean" in result.output
    summary = json.loads((out / "summary.json").read_text())
    first = summary["rounds"][0]
    assert {"members", "precision", "recall", "f1", "fitted_noise", "true_noise", "test_accuracy"} <= set(first)
    assert first["members"] == 150
    assert summary["baseline"]["test_accuracy"] == first["test_accuracy"]
    assert summary["oracle"]["test_accuracy"] > 0
    assert summary["noise"] == {"spec": "symmetric:0.4", "actual": pytest.approx(0.36, abs=0.1)}
    assert summary["settings"]["limit"] == 150
    assert "<svg" in (out / "report.html").read_text()


def test_goes_on_where_it_was_told_to(run: CliRunner, tmp_path: Path) -> None:
    arguments = ["train", *QUICK, "--local", "--out", str(tmp_path)]
    assert run.invoke(cli.app, arguments).exit_code == 0
    resumed = run.invoke(cli.app, [*arguments, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert not re.search(r"round \d+ epoch \d+:", resumed.output)


def test_reads_its_settings_from_the_environment(run: CliRunner, tmp_path: Path) -> None:
    environment = {
        "MILD_LIMIT": "100",
        "MILD_EPOCHS": "1",
        "MILD_ROUNDS": "1",
        "MILD_LOCAL": "1",
        "MILD_OUT": str(tmp_path),
        "MILD_NOISE": "pairflip:0.4",
        "MILD_FLIP": "true",
        "MILD_CUTOUT": "3",
    }
    result = run.invoke(cli.app, ["train"], env=environment)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "summary.json").read_text())["settings"]
    assert (settings["limit"], settings["noise"]) == (100, "pairflip:0.4")
    assert (settings["flip"], settings["cutout"]) == (True, 3)
    assert '"cutout": 3' in (tmp_path / "README.md").read_text()


def test_the_demo_runs_through_an_embedded_service(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["demo", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"][0]["selection"]["run_id"].startswith("digits-")
    assert summary["settings"]["noise"] == "symmetric:0.4"
    assert summary["oracle"] is not None
    assert result.output.index("Against the true labels, ") < result.output.index("digits, noise symmetric:0.4")
    assert (tmp_path / "report.html").exists()
    clean_set, _, command, address = result.output.splitlines()[-4:]
    assert str(tmp_path / "clean.npy") in clean_set
    assert len(np.load(tmp_path / "clean.npy")) == summary["rounds"][0]["selection"]["num_selected"]
    assert address == "    http://127.0.0.1:8000"
    assert command.startswith("    ")
    assert serves(command)


def serves(line: str) -> bool:
    """Whether a printed command line of the service starts it; on a free port."""
    arguments = [*shlex.split(line), "--port", "0"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as service:
        assert service.stdout is not None
        is_listening = any("listening on" in text for text in service.stdout)
        service.terminate()
    return is_listening


@pytest.mark.parametrize("how", [["--local"], [], ["--mode", "offline"]])
def test_without_a_known_truth_the_table_comes_after_what_is_not_known(
    how: list[str], run: CliRunner, tmp_path: Path
) -> None:
    result = run.invoke(cli.app, ["train", *QUICK, "--noise", "none", *how, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    checks = "--draw 100" if not how else "--order random --limit 100"
    unknown, step, table = map(
        result.output.index, ("is not known: no label was checked.", f"{tmp_path} {checks}", "digits, labels as given")
    )
    assert unknown < step < table


@pytest.mark.parametrize("how", [["--local"], [], ["--mode", "offline"]])
def test_a_training_ends_with_its_clean_set(how: list[str], run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["train", *QUICK, *how, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    last = json.loads((tmp_path / "summary.json").read_text())["rounds"][-1]["selection"]
    clean = np.load(tmp_path / "clean.npy")
    assert (clean.dtype, clean.shape) == (np.int64, (last["num_selected"],))
    assert np.all(np.diff(clean) > 0)
    assert 0 <= clean[0] <= clean[-1] < 150
    line = f"The clean set: {tmp_path / 'clean.npy'}, the indices of {len(clean)} of 150 samples; "
    last_line = result.output.splitlines()[-1]
    assert last_line.startswith(f"{line}{tmp_path / 'clean.csv'} has a line for each. Next: ")
    assert last_line.endswith(f"review {tmp_path}")
    rows = list(csv.DictReader((tmp_path / "clean.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows if row["kept"] == "true"] == clean.tolist()
    assert len(rows) == 150
    probabilities = [float(row["noisy_posterior"]) for row in rows if row["noisy_posterior"]]
    assert last["verdict"] == "insufficient" or len(probabilities) == 150
    digits = load("digits")
    assert [int(row["label"]) for row in rows] != [digits.y_train[int(row["id"])] for row in rows]
    assert all(row["suggested"] != row["label"] for row in rows)
    assert any(row["suggested"] for row in rows)


def test_the_demo_needs_no_service(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["demo", "--local", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "mild-service" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--noise", "salt:0.1"], "error: noise is 'salt:0.1'"),
        (["--epochs", "0"], "error: epochs is 0; give a number in 1..10000"),
        (["--observe", "members", "--plant", "0.02"], "error: plant is 0.02 and observe is members"),
        (["--dataset", "cifar10"], "error: cifar-10-batches-py is read from a folder and none was given"),
        (["--dataset", "mnist", "--data-dir", "/no/such/folder"], "error: /no/such/folder does not exist"),
        (["--threshold", "value"], "error: threshold 'value' needs `value`"),
        (["--resume"], "checkpoint.pt does not exist"),
        (["--url", "http://localhost:8000"], "error: --local and --url exclude each other; give one"),
        (["--run-id", "a/b"], "error: --run-id is 'a/b'; give 1 to 64 letters"),
    ],
)
def test_what_goes_wrong_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, run: CliRunner, tmp_path: Path
) -> None:
    result = run.invoke(cli.app, ["train", "--local", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_out_folder_that_is_a_file_is_one_line(run: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    result = run.invoke(cli.app, ["train", *QUICK, "--out", str(path)])
    assert result.exit_code == 2
    assert result.stderr == f"error: --out {path} is a file; give a folder\n"


def test_nothing_to_resume_leaves_nothing_behind(run: CliRunner, tmp_path: Path) -> None:
    result = run.invoke(cli.app, ["train", "--resume", "--out", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "checkpoint.pt does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_something_else_is_not_resumed(run: CliRunner, tmp_path: Path) -> None:
    local = ["train", "--limit", "100", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path)]
    assert run.invoke(cli.app, [*local, "--local", "--run-id", "one"]).exit_code == 0
    other = run.invoke(cli.app, [*local, "--local", "--resume", "--run-id", "two"])
    assert "checkpoint of run 'one', --run-id is 'two'" in other.stderr
    service = run.invoke(cli.app, [*local, "--resume"])
    assert "checkpoint of run 'one', which selects in its own process; go on with it with --local" in service.stderr
    assert not (tmp_path / "service").exists()


def test_a_run_of_a_service_is_resumed_with_a_service_and_not_repeated(run: CliRunner, tmp_path: Path) -> None:
    arguments = ["train", "--limit", "100", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path), "--run-id", "nd1"]
    assert run.invoke(cli.app, arguments).exit_code == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    again = run.invoke(cli.app, arguments)
    assert again.stderr == (
        f"error: --out {tmp_path} holds a finished training; give another folder for a new training, or --resume to "
        "go on with this one\n"
    )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    local = run.invoke(cli.app, [*arguments, "--resume", "--local"])
    assert "checkpoint of run 'nd1', which a service selects for; leave --local out" in local.stderr
    assert run.invoke(cli.app, [*arguments, "--resume"]).exit_code == 0


def test_every_setting_has_an_option_a_variable_and_a_row_in_the_document() -> None:
    options = train_options()
    names = {f.name for f in fields(TrainSettings) if f.name != "selection"} | {
        f.name
        for f in fields(SelectionOptions)
        if f.name != "alpha"  # a training cannot be selected by an audit
    }
    assert names <= set(options)
    documented = DOCUMENT.read_text()
    assert options.pop("help_all").opts == ["--help-all"]
    for name, option in options.items():
        assert option.envvar == f"MILD_{name.upper()}"
        row = rf"^\| `{re.escape(option.opts[0])}`.*\| `MILD_{name.upper()}` \|"
        assert re.search(row, documented, re.MULTILINE), f"{option.opts[0]} lacks its row in {DOCUMENT}"


def test_the_help_names_the_defaults_that_the_document_names() -> None:
    documented = DOCUMENT.read_text()
    for name in {f.name for f in fields(TrainSettings)} - {"selection", "data_dir", "labels"}:
        option = train_options()[name]
        shown = option.show_default if isinstance(option.show_default, str) else str(option.default)
        row = next(line for line in documented.splitlines() if f"`MILD_{name.upper()}` |" in line)
        assert row.split("|")[3].strip() == shown, option.opts[0]


def test_a_selection_from_a_file_is_printed_as_json(run: CliRunner, tmp_path: Path) -> None:
    correct, clean = bits()
    np.save(tmp_path / "bits.npy", correct)
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npy")])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["indices"] == np.flatnonzero(clean).tolist()
    assert found["num_selected"] == 300
    assert "measured" not in found
    assert len(result.stdout.splitlines()) < 100  # the indices are on one line


def test_a_selection_from_a_file_is_written_as_indices(run: CliRunner, tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", bits()[0])
    out = tmp_path / "clean.npy"
    arguments = ["select", str(tmp_path / "bits.npy"), "--out", str(out)]
    plain, result = run.invoke(cli.app, arguments), run.invoke(cli.app, [*arguments, "--json"])
    assert (plain.exit_code, result.exit_code) == (0, 0), result.output
    written = np.load(out)
    assert written.dtype == np.int64
    printed = run.invoke(cli.app, ["select", str(tmp_path / "bits.npy")])
    assert written.tolist() == json.loads(printed.stdout)["indices"]
    assert "indices" not in json.loads(result.stdout), "the file has them"
    assert (plain.stdout, plain.stderr) == (result.stderr, ""), "the same sentences, where there is no JSON to pipe"
    assert result.stderr == (
        "How many of the 300 kept labels are wrong is not known: no label was checked.\n"
        "Verdict: weak. The fit finds two groups of samples, but not all signs that one of them has the wrong labels. "
        "The set may be worse than keeping everything: a random audit bounds both.\n"
        f"The clean set: {out}, the indices of 300 of 400 samples\n"
    )
    refused = run.invoke(cli.app, ["select", str(tmp_path / "bits.npy"), "--out", str(tmp_path / "clean.txt")])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "give a file that ends in .csv or .npy" in refused.stderr


@pytest.mark.parametrize("as_mask", [True, False])
def test_a_selection_is_measured_where_the_truth_is_known(run: CliRunner, tmp_path: Path, as_mask: bool) -> None:
    correct, clean = bits()
    labels = np.zeros(clean.size, dtype=np.int64)
    truth = clean if as_mask else np.where(clean, 0, 1)
    observed = np.ones_like(correct)
    observed[3] = False
    np.savez(tmp_path / "bits.npz", correct=correct, observed=observed, labels=labels, clean=truth)
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["measured"] == {
        "precision": 1.0,
        "recall": 1.0,
        "f1": 1.0,
        "auc": 1.0,
        "known": 400,
        "basis": "the true labels of all samples",
    }


def test_planted_samples_of_a_file_are_not_selected(run: CliRunner, tmp_path: Path) -> None:
    correct, clean = bits()
    planted = np.zeros(clean.size, dtype=np.uint8)
    planted[np.flatnonzero(~clean)[:20]] = 1
    np.savez(tmp_path / "bits.npz", correct=correct, planted=planted)
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert result.exit_code == 0, result.output
    kept = set(json.loads(result.stdout)["indices"])
    assert not kept & set(np.flatnonzero(planted).tolist())
    assert kept <= set(np.flatnonzero(clean).tolist())
    assert len(kept) >= np.count_nonzero(clean) - 5
    planted = (np.arange(clean.size) < 20).astype(np.uint8)  # learnt like all others: labels may carry no signal
    np.savez(tmp_path / "bits.npz", correct=correct, planted=planted)
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert json.loads(result.stdout)["verdict"] == "unimodal"
    assert set(json.loads(result.stdout)["indices"]) == set(np.flatnonzero(planted == 0).tolist())


@pytest.mark.parametrize(("name", "begins"), [("fit.png", b"\x89PNG"), ("fit.svg", b"<?xml"), ("fit.pdf", b"%PDF")])
def test_a_selection_from_a_file_can_be_drawn(run: CliRunner, tmp_path: Path, name: str, begins: bytes) -> None:
    np.save(tmp_path / "bits.npy", bits()[0])
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npy"), "--plot", str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_selected"] == 300
    assert (tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize(("name", "message"), [("fit.exe", "ends in .png"), ("no/such/folder.png", "No such file")])
def test_a_picture_that_cannot_be_drawn_is_one_line(run: CliRunner, tmp_path: Path, name: str, message: str) -> None:
    np.save(tmp_path / "bits.npy", bits()[0])
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npy"), "--plot", str(tmp_path / name)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"bits": np.zeros((2, 3), dtype=bool)}, "holds bits and no `correct`"),
        ({"correct": np.zeros(3, dtype=bool)}, r"correct is bool of shape \(3,\)"),
        ({"correct": np.full((2, 3), 2)}, "of 0 and 1"),
        ({"correct": np.full((2, 3), 0.5)}, "of 0 and 1"),
        ({"correct": np.full((2, 3), "1")}, "of 0 and 1"),
        ({"correct": np.zeros((2, 3), bool), "observed": np.zeros((1, 3), bool)}, r"observed is \(1, 3\)"),
        ({"correct": np.zeros((2, 3), bool), "clean": np.zeros(2, bool)}, r"clean has shape \(2,\) for 3 samples"),
        ({"correct": np.zeros((2, 3), bool), "planted": np.zeros(2, bool)}, r"planted is bool of shape \(2,\) for 3"),
        ({"correct": np.zeros((2, 3), bool), "planted": np.arange(3)}, r"for 3 samples; give a 0 or 1 for each"),
        (
            {"correct": np.zeros((2, 3), bool), "clean": np.arange(3), "labels": np.arange(2)},
            "2 labels for 3 samples; give one each",
        ),
    ],
)
def test_a_file_without_bits_is_refused(
    arrays: dict[str, NDArray[np.generic]], message: str, run: CliRunner, tmp_path: Path
) -> None:
    np.savez(tmp_path / "bits.npz", **arrays)  # type: ignore[arg-type]  # numpy: as if one were allow_pickle
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert result.exit_code == 2
    assert re.search(message, result.stderr)


def test_floats_are_bits_and_labels_say_that_there_are_few_samples(run: CliRunner, tmp_path: Path) -> None:
    correct = (np.arange(30)[:, None] >= np.arange(20)).astype(float)
    np.savez(tmp_path / "bits.npz", correct=correct, labels=np.zeros(20, int))
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert result.exit_code == 0
    assert (json.loads(result.stdout)["num_samples"], json.loads(result.stdout)["epochs"]) == (20, 30)


def test_a_file_with_labels_is_cut_by_class(run: CliRunner, tmp_path: Path) -> None:
    correct = np.arange(20)[:, None] >= np.where(np.arange(90) < 60, np.arange(90) % 7, 18)
    arrays = {"correct": correct, "labels": np.arange(90) % 3}
    np.savez(tmp_path / "bits.npz", **arrays)  # type: ignore[arg-type]  # numpy: as if one were allow_pickle
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz"), "--min-keep-class", "1", "--per-class"])
    assert result.exit_code == 0, result.output
    assert [found["kept"] for found in json.loads(result.stdout)["classes"]] == [30, 30, 30]
    np.savez(tmp_path / "bits.npz", **{**arrays, "labels": np.arange(90) / 3})  # type: ignore[arg-type]  # as above
    refused = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz"), "--per-class"])
    assert "labels is float64 with 0.33" in refused.stderr


def write_audited(path: Path, **changed: Any) -> None:
    """Bits of 400 samples, 100 of them mislabelled, and a random audit of 150 of them; None leaves an array out."""
    correct, clean = bits()
    index = np.random.default_rng(0).choice(400, 150, replace=False)
    arrays = {"correct": correct, "audit_index": index, "audit_clean": clean[index], "audit_random": np.array(True)}
    np.savez(path, **{name: array for name, array in {**arrays, **changed}.items() if array is not None})


@pytest.mark.parametrize("drawn", [np.array(True), np.array([1]), np.ones(150, dtype=bool)], ids=["one", "1", "each"])
def test_a_random_audit_in_a_file_controls_the_error(
    run: CliRunner, tmp_path: Path, drawn: NDArray[np.generic]
) -> None:
    write_audited(tmp_path / "bits.npz", audit_random=drawn)
    result = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz"), "--threshold", "fdr", "--alpha", "0.2"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["threshold"]["rule"] == "fdr"
    assert (answer["guarantee"]["alpha"], answer["guarantee"]["drawn"]) == (0.2, 150)
    assert answer["guarantee"]["holds"]
    assert answer["bounds"]["precision"] > 0.6
    assert answer["measured"]["known"] == 150
    assert set(np.flatnonzero(bits()[1])) <= set(answer["indices"])


def test_checked_labels_that_somebody_chose_measure_and_guarantee_nothing(run: CliRunner, tmp_path: Path) -> None:
    write_audited(tmp_path / "bits.npz", audit_random=None)
    answer = json.loads(run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")]).stdout)
    assert (answer["measured"]["known"], answer["guarantee"], answer["bounds"]) == (150, None, None)
    refused = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz"), "--threshold", "fdr"])
    assert refused.exit_code == 2
    assert "got 150 checked samples and 0 drawn ones; draw 100 or more" in refused.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"audit_index": None}, "has no audit_index; give both audit_index"),
        ({"audit_clean": None}, "has no audit_clean; give both audit_index"),
        (
            {"audit_index": np.ones(150)},
            r"audit_index is float64 of shape \(150,\); give the checked samples",
        ),
        (
            {"audit_clean": np.ones(2, bool)},
            r"audit_clean is bool of shape \(2,\) for 150 checked samples",
        ),
        ({"audit_random": np.full(150, 2)}, r"for 150 checked samples; give a 0 or 1 for each, or one for all of them"),
        ({"audit_index": np.arange(300, 450)}, r"sample index 400 is outside 0\.\.399"),
    ],
)
def test_an_audit_that_cannot_be_read_is_refused(
    changed: dict[str, Any], message: str, run: CliRunner, tmp_path: Path
) -> None:
    write_audited(tmp_path / "bits.npz", **changed)
    refused = run.invoke(cli.app, ["select", str(tmp_path / "bits.npz")])
    assert refused.exit_code == 2
    assert re.search(message, refused.stderr)


def test_a_file_that_is_absent_or_damaged_is_refused(run: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "bits.npy"

    def said(path: Path) -> str:
        return run.invoke(cli.app, ["select", str(path)]).stderr

    assert f"{path} does not exist; save an array `correct`" in said(path)
    log = tmp_path / "log.csv"
    assert f"{log} does not exist; give the path of a prediction log" in said(log)
    path.write_bytes(b"half of it")
    assert f"{path} is no .npy or .npz; save an array `correct`" in said(path)
    np.save(path, bits()[0])
    path.write_bytes(path.read_bytes()[:500])
    assert "cannot be read" in said(path)
    path.unlink()
    assert f"the folder {tmp_path} holds no log; give a file" in said(tmp_path)


def test_the_document_and_the_help_name_every_array_of_a_file_of_bits(run: CliRunner) -> None:
    section = DOCUMENT.read_text().partition("## Selecting from a file")[2].partition("\n## ")[0]
    shown = run.invoke(cli.app, ["select", "--help"]).output
    names = ("correct", "observed", "planted", "labels", "clean", "audit_index", "audit_clean", "audit_random")
    for name in names:
        assert f"| `{name}` |" in section
        assert f"`{name}`" in shown


def test_the_version_is_that_of_the_package(run: CliRunner) -> None:
    result = run.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{metadata.version('mild-selection')}\n")


def test_main_is_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["mild", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
