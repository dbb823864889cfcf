import json
import logging
import re
from collections.abc import Iterator

import pytest

from mild_service import observability


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """The root logger is everybody's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(form: observability.LogFormat, capsys: pytest.CaptureFixture[str], request_id: str | None = "r7") -> str:
    """What is written of one warning."""
    observability.configure_logging("info", form)
    token = observability.current_trace.set(
        observability.RequestTrace(request_id, lambda *_: None) if request_id else None
    )
    try:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            extra = {"route": "/runs/{run_id}", "status": 500, "path": 'a "b" = c\nd'}
            logging.getLogger("mild").warning("it %s", "broke", exc_info=True, extra=extra)
        logging.getLogger("mild").debug("not this")
    finally:
        observability.current_trace.reset(token)
    return capsys.readouterr().err


def test_json_is_a_line_a_record_with_all_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said("json", capsys).splitlines()
    fields = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", fields.pop("time"))
    assert "ValueError: first\nsecond" in fields.pop("traceback")
    assert fields == {
        "level": "warning", "logger": "mild", "message": "it broke", "request_id": "r7", "route": "/runs/{run_id}",
        "status": 500, "path": 'a "b" = c\nd',
    }  # fmt: skip


def test_logfmt_is_a_line_a_record_whatever_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said("logfmt", capsys).splitlines()
    pairs = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"]+)(?: |$)', line))
    assert (pairs["level"], pairs["status"], pairs["request_id"]) == ("warning", "500", "r7")
    assert json.loads(pairs["message"]) == "it broke"
    assert json.loads(pairs["path"]) == 'a "b" = c\nd'
    assert "ValueError" in json.loads(pairs["traceback"])


def test_text_names_the_request_before_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = said("text", capsys).splitlines()
    time, _, rest = first.partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert rest == "WARNING: mild: it broke [request r7]"
    assert second.startswith("Traceback")


def test_what_belongs_to_no_request_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert "request" not in said("text", capsys, request_id=None).splitlines()[0]
