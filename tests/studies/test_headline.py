import pytest

from benchmarks.on_gpu import claim_passes
from mild_core.types import Observe, SelectionOptions
from mild_trainer.presets import make_settings
from mild_trainer.settings import PlantHow, TrainSettings
from mild_trainer.training.loop import run_rounds
from studies import headline, headline_budget


@pytest.mark.parametrize(
    ("observe", "plant", "how"),
    [("all", 0.02, "confused"), ("mixed", 0.02, "uniform"), ("members", 0.0, "confused")],
)
def test_the_budget_is_what_a_training_spends(observe: Observe, plant: float, how: PlantHow) -> None:
    settings = TrainSettings.for_dataset(
        "digits",
        noise="symmetric:0.8",
        limit=100,
        first_epochs=2,
        epochs=1,
        rounds=2,
        observe=observe,
        plant=plant,
        plant_how=how,
        agree=1.0,
        selection=SelectionOptions(threshold="fraction", fraction=0.6, evidence="latest"),
    )
    history = run_rounds(settings)
    later = [record.n_members for record in history.rounds[1:]]
    assert later
    assert headline_budget.count_passes(settings, 100, later) == history.compute_cost


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_ours_may_keep_all_samples_and_still_takes_a_fifth_of_a_protocol_that_finds_the_truth(
    share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    assert headline.STUDY.main(["--budget", "--share", str(share)]) == 0
    shares = [float(line.split("|")[5]) for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(shares) == 3
    assert claim_passes(max(shares)).holds


def test_a_training_needs_its_data() -> None:
    with pytest.raises(SystemExit, match="give --data-dir, or --budget"):
        headline.STUDY.main([])


@pytest.mark.parametrize(
    ("share", "first", "epochs", "rounds"),
    [(2.0, 70, 20, 27), (1.0, 70, 20, 27), (0.5, 35, 10, 27), (0.1, 8, 8, 7), (0.001, 8, 8, 1)],
)
def test_a_shortened_loop_takes_its_share_in_stages_that_can_be_fitted(
    share: float, first: int, epochs: int, rounds: int
) -> None:
    published = make_settings("paper-cifar10-sym80")
    short = headline.shorten(published, share)
    assert (short.first_epochs, short.epochs, short.rounds) == (first, epochs, rounds)
    assert first + (rounds - 1) * epochs <= max(share * 590, 8)
