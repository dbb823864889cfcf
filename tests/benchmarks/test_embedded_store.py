from benchmarks import embedded_store


def test_an_embedded_store_that_is_broken_while_trainings_stream_loses_nothing() -> None:
    outcome = embedded_store.cause_faults(n_kills=3, n_others=1, n_trainings=4, seed=1)
    assert outcome.ledger.wrong == [], outcome.log
    assert set(outcome.seconds) == set(embedded_store.FAULTS)
    assert min(outcome.n_compared, outcome.ledger.n_acknowledged) > 40
    assert outcome.n_unavailable > 0
    n_before, n_after = outcome.n_files
    assert n_after <= n_before + embedded_store.FILE_MARGIN
