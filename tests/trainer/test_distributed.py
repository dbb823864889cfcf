"""Two ranks train one network: in two gloo processes, and under torchrun as somebody would start it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from benchmarks.killing import FORKS
from mild_core.errors import ParameterError
from mild_core.types import SelectionOptions
from mild_trainer.data import load
from mild_trainer.settings import TrainSettings
from mild_trainer.training.distributed import SINGLE_PROCESS, Ranks, join_process_group
from mild_trainer.training.loop import run_rounds
from tests.gloo import WORLD, run_ranks

SETTINGS = TrainSettings.for_dataset(
    "digits",
    noise="symmetric:0.4",
    limit=201,
    epochs=3,
    rounds=2,
    agree=1.0,
    observe="mixed",
    use="weights",
    finish="mixmatch",
    finish_epochs=1,
    ema=0.9,
    deterministic=True,
    selection=SelectionOptions(evidence="latest", threshold="fraction", fraction=0.6),
)


def two_ranks(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    digits = load("digits")
    whole = run_rounds(SETTINGS, data=digits, out=folder / "whole", keep_bits=True)
    first = run_rounds(replace(SETTINGS, rounds=1, finish="none"), data=digits, out=folder / "cut")
    for _ in range(2):  # the second time only the finish is left to be done, as where it was interrupted
        run_rounds(SETTINGS, data=digits, out=folder / "cut", resume=True)
    assert first.rounds[0].selected.tobytes() == whole.rounds[0].selected.tobytes()
    outcome = {
        "sets": [record.selected.tolist() for record in whole.rounds],
        "finished": None if whole.finish_result is None else whole.finish_result.test_accuracy,
        "losses": [epoch.train_loss for record in whole.rounds for epoch in record.epochs],
        "observed": [bits.observed is None for record in whole.rounds for bits in record.bits],
    }
    (folder / f"outcome-{rank}.json").write_text(json.dumps(outcome))
    with pytest.raises(ParameterError, match="asked on rank 0"):
        Ranks.current().call_on_rank0(lambda: refuse(rank))


def refuse(rank: int) -> None:
    raise ParameterError(f"asked on rank {rank}")


def test_two_ranks_agree_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    run_ranks(two_ranks, tmp_path)
    first, second = (json.loads((tmp_path / f"outcome-{rank}.json").read_text()) for rank in range(WORLD))
    assert first == second
    assert all(first["observed"])  # padded, and uneven: everyone was seen by some rank
    from safetensors.torch import load_file

    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_share_is_padded_so_that_all_ranks_take_as_many_steps() -> None:
    order = torch.randperm(101)
    shares = [Ranks(rank, 4).shard_with_padding(order) for rank in range(4)]
    assert [len(share) for share in shares] == [26] * 4
    assert set(torch.cat(shares).tolist()) == set(range(101))
    assert [len(Ranks(rank, 4).shard_with_padding(torch.arange(3))) for rank in range(4)] == [2] * 4
    assert sorted(torch.cat([Ranks(rank, 4).shard(order) for rank in range(4)]).tolist()) == list(range(101))
    assert torch.equal(SINGLE_PROCESS.shard_with_padding(order), order)


def test_ranks_draw_their_own_crops_and_all_the_same_order() -> None:
    given = torch.Generator().manual_seed(5)
    drawn = [torch.rand(1, generator=Ranks(rank, 3).derive_generator(given)).item() for rank in range(3)]
    assert len(set(drawn)) == 3
    assert SINGLE_PROCESS.derive_generator(given) is given


def test_a_training_under_torchrun_writes_once(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    train = [
        "-m",
        "mild_trainer.cli",
        "train",
        "--mode",
        "disabled",
        "--out",
        str(tmp_path),
        "--oracle",
        "--limit",
        "120",
    ]
    found = subprocess.run(
        [*launch, *train, "--epochs", "1", "--rounds", "1", "--noise", "symmetric:0.4", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("round 0 epoch 0") == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rounds"][0]["members"] == 120
    assert {path.name for path in tmp_path.iterdir()} == {
        "README.md", "bits", "checkpoint.pt", "clean.csv", "clean.npy", "model.safetensors", "report.html",
        "summary.json",
    }  # fmt: skip


def test_no_thread_of_a_group_outlives_it(tmp_path: Path) -> None:
    process = FORKS.Process(target=train_alone_in_a_group, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert "gloo" in (tmp_path / "during").read_text()
    assert (tmp_path / "after").read_text() == ""


def train_alone_in_a_group(folder: Path) -> None:
    def tell_threads(when: str) -> None:
        names = ((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
        (folder / when).write_text(" ".join(name for name in names if "gloo" in name))

    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # noqa: TID251 (as torchrun)
    with join_process_group("cpu"):
        DistributedDataParallel(torch.nn.Linear(3, 3))(torch.ones(2, 3)).sum().backward()
        tell_threads("during")
    tell_threads("after")
