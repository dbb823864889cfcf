import pytest
import torch

from mild_trainer.settings import ModelName
from mild_trainer.training.network import build_network


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet8", 0.08), ("resnet20", 0.27), ("resnet18", 11.17), ("resnet34", 21.28), ("resnet50", 23.52)],
)
def test_has_the_published_number_of_weights(name: ModelName, millions: float) -> None:
    n_weights = sum(weights.numel() for weights in build_network(name, 3, 10).parameters())
    assert n_weights / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_maps_small_images_to_logits(name: ModelName, n_channels: int) -> None:
    model = build_network(name, n_channels, 7).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, n_channels, 8, 8)).shape == (2, 7)
        assert model(torch.zeros(1, n_channels, 28, 30)).shape == (1, 7)


def test_takes_images_of_224() -> None:
    with torch.inference_mode():
        assert build_network("resnet8", 3, 5).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 5)


def test_every_weight_learns() -> None:
    model = build_network("resnet50", 3, 4)
    torch.autograd.backward(model(torch.randn(4, 3, 16, 16)).square().sum())
    assert all(weights.grad is not None for weights in model.parameters())


def test_the_same_seed_draws_the_same_weights() -> None:
    torch.manual_seed(3)
    first = build_network("resnet8", 1, 10).state_dict()
    torch.manual_seed(3)
    again = build_network("resnet8", 1, 10).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
