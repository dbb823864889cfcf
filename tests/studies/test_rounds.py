from studies.rounds import Course, choices, table

COURSE = Course(
    noise="pairflip:0.4",
    seed=0,
    f1=[0.80, 0.85, 0.84, 0.83, 0.90],
    test_accuracy=[0.5, 0.6, 0.6, 0.6, 0.7],
    validation_accuracy=[0.40, 0.50, 0.50, 0.50, 0.55],
)


def test_every_way_to_choose_ends_with_its_round() -> None:
    assert list(choices(COURSE).values()) == [0, 4, 3, 1, 4, 4]
    rising = Course("none", 0, f1=[0.9, 0.8], test_accuracy=[0.5, 0.6], validation_accuracy=[0.5, 0.6])
    assert list(choices(rising).values()) == [0, 1, 1, 1, 1, 0]


def test_the_table_shows_what_each_choice_is_worth() -> None:
    rows = table([COURSE])
    assert rows[4] == "| pairflip:0.4 | the last before the plateau's stop | 3.0 | 0.830 (0.830) | 0.600 |"
    assert rows[5] == "| pairflip:0.4 | `round=best` at the plateau's stop | 1.0 | 0.850 (0.850) | 0.600 |"
