import pytest

from mild_core.alarms import find_alarms, find_held_out_alarms, find_plateau


@pytest.mark.parametrize(
    ("accuracies", "patience", "best"),
    [
        ([], 1, None),
        ([0.5], 1, None),
        ([0.5, 0.5], 1, 0.5),
        ([0.5, 0.502], 1, None),
        ([0.5, 0.5015], 1, 0.5),
        ([0.5, 0.5], 2, None),
        ([0.4, 0.6, 0.5, 0.55], 2, 0.6),
        ([0.4, 0.6, 0.5, 0.7], 2, None),
        ([0.7, 0.1, 0.2, 0.3], 3, 0.7),
    ],
)
def test_a_plateau_is_so_many_rounds_without_a_rise(accuracies: list[float], patience: int, best: float | None) -> None:
    assert find_plateau(accuracies, patience) == best


def test_every_accuracy_and_every_measure_has_its_alarm() -> None:
    flat = [0.5, 0.5, 0.5]
    assert find_alarms(
        0.899, 0.499, {"test accuracy": flat, "validation accuracy": flat, "other": [0.1, 0.2, 0.3]}
    ) == [
        "measured precision 0.899 is below 0.90",
        "measured recall 0.499 is below 0.50",
        "test accuracy is at a plateau: 2 rounds without a rise above 0.500",
        "validation accuracy is at a plateau: 2 rounds without a rise above 0.500",
    ]
    assert find_alarms(None, None, {"test accuracy": []}) == []


def test_held_out_labels_that_are_predicted_no_better_than_by_chance_carry_no_signal() -> None:
    (alarm,) = find_held_out_alarms(0.11, 500, 0.1, None)
    assert alarm.startswith("11.0% of the held-out labels are predicted, by chance 10.0%: the labels carry no signal")
    assert find_held_out_alarms(0.2, 500, 0.1, None) == []
    assert find_held_out_alarms(0.11, None, 0.1, None) == []
    assert len(find_held_out_alarms(0.1, None, 0.1, None)) == 1


def test_a_fit_that_finds_more_wrong_labels_than_held_out_labels_allow_is_contradicted() -> None:
    (alarm,) = find_held_out_alarms(0.95, 1000, None, 0.22)
    assert alarm.startswith("the fit finds 22.0% wrong labels or more, but 95.0% of the held-out labels are predicted")
    assert "so at most 6.6% are wrong, unless wrong labels can be predicted" in alarm
    assert find_held_out_alarms(0.95, 1000, None, 0.06) == []
    assert find_held_out_alarms(0.95, 1000, None, None) == []
