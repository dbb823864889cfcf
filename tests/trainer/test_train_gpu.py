from pathlib import Path

import pytest
import torch

from mild_trainer.training import network
from studies import train_gpu


def test_says_that_there_is_no_cuda_device_and_measures_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert train_gpu.STUDY.main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rehearses_on_the_processor(tmp_path: Path) -> None:
    options = (
        "--device cpu --data-on host --model resnet8 --samples 130 --epochs 1 --workers 0 --matrix 64 --batch-size 64"
    )
    assert train_gpu.STUDY.main([*options.split(), "--out", str(tmp_path)]) == 0
    written = (tmp_path / "train_gpu.md").read_text()
    assert "as a rehearsal" in written
    assert "--data-on host`" in written
    assert "| ours | " in written


def test_counts_the_operations_of_a_pass() -> None:
    # 3x3 convolutions of 3 to 16 channels at 32x32, and so on: known as 12.5 million multiplications for ResNet-8.
    assert train_gpu.count_operations(network.build_network("resnet8", 3, 10)) == pytest.approx(6 * 12.5e6, rel=0.05)
