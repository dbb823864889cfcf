import asyncio
import secrets
from dataclasses import replace

from benchmarks import costs
from benchmarks.jobs import Load, RequestLog
from benchmarks.load import Outcome, describe, make_environment, run_jobs
from benchmarks.serving import start_service


def test_a_few_jobs_for_a_few_seconds(store_url: str) -> None:
    load = Load(n_jobs=20, n_samples=500, seconds=3, period=0.3, round_epochs=5, n_watched=2)
    key = secrets.token_urlsafe(32)
    variables = {**make_environment(key), "MILD_STORE_NAMESPACE": f"load-{secrets.token_hex(4)}"}
    with start_service(store_url, variables) as service:
        outcome = asyncio.run(run_jobs(load, service, key))
        lines = costs.measure_costs(service, key, load.n_samples, 20, large=1000)
    assert outcome.log.wrong == []
    kinds = {"open", "run", "selection", "selection, 304", "fit", "page", "finish"}
    assert outcome.log.seconds.keys() == kinds | {"PUT of an epoch", "PUT of a shard", "POST of a log"}
    assert outcome.log.n_events > 0
    assert any("PUT of an epoch" in line for line in describe(load, outcome)[1])
    assert any("GET of a selection, not modified" in line for line in lines)


def test_claims_are_missed_by_an_error_by_memory_that_grows_and_by_a_long_tail() -> None:
    log = RequestLog(seconds={"PUT of an epoch": [0.01] * 98 + [0.05] * 2})
    fine = Outcome(log, kib=[1000] * 100, cores=0.5)
    assert _list_verdicts(fine) == [True, True, True]
    lost = RequestLog(log.seconds, wrong=["a run has 3 epochs, 4 were acknowledged"])
    assert _list_verdicts(replace(fine, log=lost)) == [False, True, True]
    growing = [1000 + 2 * number for number in range(100)]
    assert _list_verdicts(replace(fine, kib=growing)) == [True, False, True]
    slow = RequestLog({"PUT of an epoch": [0.01] * 98 + [0.11] * 2})
    assert _list_verdicts(replace(fine, log=slow)) == [True, True, False]


def _list_verdicts(outcome: Outcome) -> list[bool]:
    return [claim.holds for claim in outcome.list_claims()]
