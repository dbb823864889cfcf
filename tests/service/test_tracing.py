import re

import pytest

from mild_service import observability
from mild_service.observability import RequestTrace, phase


def test_a_phase_within_itself_counts_once() -> None:
    seen: list[str] = []
    trace = RequestTrace("r", lambda name, _: seen.append(name))
    token = observability.current_trace.set(trace)
    with phase("store"), phase("compute"), phase("store"):
        pass
    with phase("store"):
        pass
    observability.current_trace.reset(token)
    assert seen == ["compute", "store", "store"]
    assert trace.seconds["compute"] <= trace.seconds["store"]
    assert re.fullmatch(r"compute;dur=\d+\.\d\d, store;dur=\d+\.\d\d", trace.server_timing)


def test_time_counts_though_it_ends_in_an_error() -> None:
    trace = RequestTrace("r", lambda *_: None)
    token = observability.current_trace.set(trace)
    with pytest.raises(KeyError), phase("encode"):
        raise KeyError
    observability.current_trace.reset(token)
    assert list(trace.seconds) == ["encode"]


def test_outside_of_a_request_nothing_is_timed() -> None:
    with phase("store"):
        assert observability.current_trace.get() is None
