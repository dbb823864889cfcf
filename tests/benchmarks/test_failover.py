"""A master killed under load, once; the full size is ``python -m benchmarks.failover``."""

from benchmarks.failover import Load, run_failovers


def test_nothing_acknowledged_is_lost_with_a_master_and_all_goes_on_by_itself() -> None:
    log, rounds = run_failovers(Load(n_rounds=1, n_writers=3, n_samples=2000))
    assert log.wrong == []
    assert log.answers["201"] > 0
    assert len(rounds) == 1
