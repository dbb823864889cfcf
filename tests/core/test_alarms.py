import pytest

from mild_core.alarms import find_alarms, find_plateau


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
