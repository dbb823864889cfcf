from benchmarks import faults


def test_what_is_broken_while_trainings_stream_loses_nothing() -> None:
    outcome = faults.cause_faults(n_rounds=len(faults.FAULTS), n_trainings=8, seed=1)
    assert outcome.ledger.wrong == [], outcome.log
    assert outcome.n_left == 0
    assert set(outcome.seconds) == set(faults.FAULTS)
    assert outcome.n_compared > outcome.ledger.n_acknowledged > 100
    assert outcome.n_answers > 0
