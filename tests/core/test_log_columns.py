import pytest

from mild_core.errors import ParameterError
from mild_core.log_columns import format_class_names, format_columns, parse_class_names, parse_columns


def test_columns_are_parsed_and_formatted() -> None:
    columns = {"sample": "id", "label": "a=b"}
    assert parse_columns(" sample = id,, label=a=b ") == columns
    assert parse_columns(format_columns(columns)) == columns
    assert format_columns({}) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id", "columns has 'id'; give FIELD=COLUMN with one of round, epoch"),
        ("samples=id", "columns has 'samples=id'"),
        ("sample=", "columns has 'sample='"),
        ("sample=a,sample=b", "columns names sample twice"),
        ("sample=a,label=a", "columns names a twice; name each once"),
    ],
)
def test_columns_of_another_form_are_refused(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_columns(text)


@pytest.mark.parametrize("columns", [{"sample": "a,label=b"}, {"sample": " id"}])
def test_columns_that_would_be_read_otherwise_are_refused(columns: dict[str, str]) -> None:
    with pytest.raises(ParameterError, match="cannot be sent; rename the column"):
        format_columns(columns)


def test_class_names_are_parsed_and_formatted() -> None:
    names = ["cat", "tench, tinca tinca", 'a "dog"']
    assert parse_class_names(format_class_names(names)) == names
    assert parse_class_names("cat, dog") == ["cat", "dog"]
    assert parse_class_names("") == []
    with pytest.raises(ParameterError, match=r"--class-names is '\"cat,dog', which is no line of CSV"):
        parse_class_names('"cat,dog', "--class-names")
