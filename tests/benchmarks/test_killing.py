"""A trainer that is killed with signal 9 and goes on ends with the same bits, and so does what its service has."""

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI

from benchmarks.killing import train_with_kills
from benchmarks.outage import wait_for_end
from mild_client import MildClient
from mild_client.backends.record_log import RecordLog
from mild_client.backends.sync import sync_spools
from tests.live import serving

ARGUMENTS = ["--limit", "100", "--epochs", "2", "--rounds", "2", "--agree", "1", "--noise", "symmetric:0.4"]
ARGUMENTS += ["--deterministic", "--device", "cpu", "--mode", "offline", "--run-id", "killed"]
MOMENTS = ["epoch-0-1", "epoch-1-0"]


def test_a_killed_trainer_ends_with_the_same_sets_and_the_same_network(tmp_path: Path, app: FastAPI) -> None:
    moments = [*MOMENTS]

    def kill_twice(out: Path, ends_within: Callable[[float], bool]) -> None:
        if not moments:
            wait_for_end(ends_within)
            return
        moment = moments.pop(0)
        while moment not in [
            entry.record and entry.record.name for entry in RecordLog(out / "spool" / "killed").read()
        ]:
            assert not ends_within(0.002)

    whole = train_with_kills(ARGUMENTS, tmp_path / "whole", lambda _, ends_within: wait_for_end(ends_within))
    killed = train_with_kills(ARGUMENTS, tmp_path / "cut", kill_twice)
    assert (killed.n_kills, whole.n_kills) == (2, 0)
    assert killed.sets == whole.sets
    assert killed.model == whole.model
    with serving(app) as url:
        (synced,) = sync_spools(tmp_path / "cut", url)
        assert synced.is_done
        with MildClient(url) as client:
            state = client.get_run("killed")
    assert [each["num_epochs"] for each in state["rounds"]] == [2, 2, 0]
    assert state["attempt"] == 3
