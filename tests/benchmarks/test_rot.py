from functools import partial

import anyio

from benchmarks import rot


def test_damaged_values_files_and_archives_give_no_wrong_set() -> None:
    outcome = anyio.run(partial(rot.damage_run, 20, 1))
    assert outcome.wrong == []
    assert sum(count for (_, result), count in outcome.counts.items() if result == "damages") == 20
    assert outcome.counts["values in the running store", "restored by PUT"] == 8
    assert outcome.counts["archives", "refused at the import"] == 4
