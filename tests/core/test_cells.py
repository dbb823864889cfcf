import pytest

from mild_core.cells import parse_cell, parse_column


@pytest.mark.parametrize(
    ("text", "separator", "value"),
    [
        ("", ",", None),
        ("NA", ",", None),
        ("7", ",", 7),
        ("-1", ",", -1),
        ("007", ",", 7),
        ("2.0", ",", 2.0),
        ("2,0", ";", 2.0),
        ("2,0", ",", "2,0"),
        ("1e3", ",", 1000.0),
        ("cat", ",", "cat"),
        ("0x1f", ",", "0x1f"),
        ("1_000", ",", "1_000"),
    ],
)
def test_a_cell_is_a_number_a_text_or_empty(text: str, separator: str, value: object) -> None:
    assert parse_cell(text, separator) == value


def test_a_column_with_a_text_is_one_of_texts() -> None:
    assert parse_column(["1", "", "2.0"]) == [1, None, 2.0]
    assert parse_column(["1", "", "cat", "2.0"]) == ["1", None, "cat", "2.0"]
