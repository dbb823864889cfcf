import asyncio
import secrets
from dataclasses import replace

from benchmarks import costs
from benchmarks.jobs import Load, Seen
from benchmarks.load import Outcome, burden, describe, environment
from benchmarks.serving import start_service


def test_a_few_jobs_for_a_few_seconds(store_url: str) -> None:
    load = Load(n_jobs=20, n_samples=500, seconds=3, period=0.3, round_epochs=5, n_watched=2)
    key = secrets.token_urlsafe(32)
    variables = {**environment(key), "MILD_STORE_NAMESPACE": f"load-{secrets.token_hex(4)}"}
    with start_service(store_url, variables) as service:
        outcome = asyncio.run(burden(load, service, key))
        spent = costs.report(service, key, load.n_samples, large=1000, repeated=20)
    assert outcome.seen.wrong == []
    kinds = {"open", "run", "selection", "selection, 304", "fit", "page", "finish"}
    assert outcome.seen.seconds.keys() == kinds | {"PUT of an epoch", "PUT of a shard", "POST of a log"}
    assert outcome.seen.n_events > 0
    assert any("PUT of an epoch" in line for line in describe(load, outcome)[1])
    assert any("GET of a selection, not modified" in line for line in spent)


def test_claims_are_missed_by_an_error_by_memory_that_grows_and_by_a_long_tail() -> None:
    seen = Seen(seconds={"PUT of an epoch": [0.01] * 98 + [0.05] * 2})
    fine = Outcome(seen, kib=[1000] * 100, cores=0.5)
    assert _list_verdicts(fine) == [True, True, True]
    lost = Seen(seen.seconds, wrong=["a run has 3 epochs, 4 were acknowledged"])
    assert _list_verdicts(replace(fine, seen=lost)) == [False, True, True]
    growing = [1000 + 2 * number for number in range(100)]
    assert _list_verdicts(replace(fine, kib=growing)) == [True, False, True]
    slow = Seen({"PUT of an epoch": [0.01] * 98 + [0.11] * 2})
    assert _list_verdicts(replace(fine, seen=slow)) == [True, True, False]


def _list_verdicts(outcome: Outcome) -> list[bool]:
    return [claim.holds for claim in outcome.claim()]
