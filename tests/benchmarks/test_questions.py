import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from benchmarks.questions import OTHERS, SIMPLE, Loop, of_long_tails, of_metrics, of_rounds, partly_wrong, ranking
from benchmarks.recordings import recordings
from benchmarks.selection import Trace, sequences
from mild_core.scores import score_samples


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return partly_wrong(sequences(recordings(0)))


def test_a_ranking_is_that_of_other_peoples_code(traces: list[Trace]) -> None:
    trace = traces[0]
    found = ranking(trace, SIMPLE)
    values, clean = score_samples(trace.rounds, SIMPLE).values[trace.judged], trace.clean[trace.judged]
    assert found.auc == pytest.approx(roc_auc_score(~clean, values))
    assert found.f1 == pytest.approx(max(f1_score(clean, values <= cut) for cut in np.unique(values)))


def test_only_trainings_of_one_round_with_right_and_wrong_labels_are_compared(traces: list[Trace]) -> None:
    assert len(traces) > 50
    for trace in traces:
        assert len(trace.rounds) == 1
        assert trace.clean.any()
        assert not trace.clean.all()


def test_every_other_metric_and_every_long_tail_has_a_line(traces: list[Trace]) -> None:
    assert [line.split("`")[1] for line in of_metrics(traces)[2:]] == list(OTHERS)
    tails = [trace.name for trace in traces if "_tail" in trace.name]
    lines = "\n".join(of_long_tails(traces))
    assert tails
    assert all(name in lines for name in tails)


def test_loops_of_unequal_length_make_one_table() -> None:
    short, long = Loop("none", 0, [None], [1.0]), Loop("symmetric:0.4", 1, [0.5, 0.4, 0.4], [0.8, 0.9, 0.95])
    lines = of_rounds([short, long])
    assert {line.count("|") for line in lines if line.startswith("|")} == {6}
    assert "+0.050 in the mean" in lines[-1]
