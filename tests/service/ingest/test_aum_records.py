from dataclasses import replace

import pytest

from mild_service.errors import BadRecord
from mild_service.ingest.name_resolvers import NewSampleResolver
from tests.service.ingest.reading import LIMITS, read

HEADER = "sample_id,num_measurements,target_logit,target_val,other_logit,other_val,margin,aum\n"
ROWS = "a,1,0,2.5,1,3.0,-0.5,-0.5\na,2,0,4.0,1,3.0,1.0,0.25\nb,1,1,1.0,2,1.0,0.0,0.0\n"


def read_records(text: str) -> list[tuple[int, ...]]:
    return read("text/csv", text.encode(), limits=replace(LIMITS, resolver=NewSampleResolver(100, 100, 10_000)))


def test_a_positive_margin_is_a_correct_prediction_and_measurements_count_from_1() -> None:
    assert read_records(HEADER + ROWS) == [(2, 0, 0, 0, False), (3, 0, 1, 0, True), (4, 0, 0, 1, False)]


def test_numbers_name_samples_as_in_other_logs() -> None:
    rows = ROWS.replace("a,", "7,").replace("b,", "9,")
    assert [record[3] for record in read_records(HEADER + rows)] == [7, 7, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample_id,aum\na,0.25\n", r"line 1: it is the header of aum_values\.csv.*compressed=False"),
        (HEADER + ROWS.replace("a,1,", "a,0,"), "line 2, column num_measurements: got '0', a number of measurements"),
        (HEADER + ROWS.replace("-0.5,-0.5", "low,-0.5"), "line 2, column margin: got 'low', a number is needed"),
        (HEADER + ROWS.replace("-0.5,-0.5", ",-0.5"), "line 2, column correct: it is missing"),
    ],
)
def test_records_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadRecord, match=message):
        read_records(text)
