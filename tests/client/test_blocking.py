"""The blocking and the asynchronous client are the same calls: every one of them, byte for byte."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mild_client import AsyncMildClient, AsyncRun, Event, MildClient, Position, Retry, Run, RunSpec
from mild_client.api import Calls
from mild_client.errors import ClientError
from mild_client.run import create_run
from mild_core.types import EpochBits, SelectionOptions
from tests.client.wire import HANG_UP, VERSION, Reply, serving

BITS = EpochBits(9, np.array([255, 128], dtype=np.uint8), np.array([255, 128], dtype=np.uint8))
GIVEN: Mapping[str, Any] = {
    "spec": RunSpec("run", 9, num_classes=3, tags={"a": "b"}),
    "resume_from": Position(0, 3),
    "limit": 7,
    "cursor": "1700000000000:run",
    "run_id": "run",
    "tags": {"a": "é"},
    "status": "failed",
    "ttl_seconds": 60,
    "labels": np.arange(9),
    "indices": [1, 2],
    "clean": [True, False],
    "n": 5,
    "n_samples": 9,
    "round": 1,
    "members": np.array([1, 128], dtype=np.uint8),
    "planted": np.array([2, 0], dtype=np.uint8),
    "attempt": 2,
    "epoch": 4,
    "bits": BITS,
    "metrics": {"train_loss": 0.25},
    "allow_gaps": True,
    "samples_by": "ids",
    "columns": {"sample": "id"},
    "class_names": ["cat", "tench, tinca tinca"],
    "index": 3,
    "shard": 1,
    "of": 2,
    "ids": ["a", "b"],
    "until_epoch": 5,
    "changes": {"threshold": "fraction", "fraction": 0.5},
    "wait": 1.5,
    "correct": np.eye(3, dtype=bool),
    "observed": np.ones((3, 3), dtype=bool),
    "options": SelectionOptions(),
    "samples": np.arange(9),
    "predicted": np.arange(9),
    "records": [{"epoch": 0, "sample": 1, "correct": True}],
    "complete": True,
    "file": Path(__file__),
    "media_type": "text/csv",
    "used": np.array([3, 128], dtype=np.uint8),
    "core_version": "1.2.3",
    "picture_url": "https://pictures.example/{id}.png",
}
CALLS = sorted(name for name in dir(Calls) if not name.startswith("_"))
FLOWS = [name for name in CALLS if name != "events"]


RUN_CALLS = sorted(name for name in vars(AsyncRun) if not name.startswith("_"))


def arguments(name: str) -> dict[str, Any]:
    """Something for every parameter of a call: a call with a parameter that is not in the table fails."""
    parameters = list(inspect.signature(getattr(Calls, name)).parameters)[1:]
    return {parameter: GIVEN[parameter] for parameter in parameters}


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.anyio
async def test_both_clients_send_the_same_bytes_for_every_call(name: str) -> None:
    version = None if name in ("version", "limits") else VERSION
    with serving(Reply(503), HANG_UP, Reply.problem(418), version=version) as server:
        retry = Retry(jitter=lambda: 0.0)
        with MildClient(server.url, retry=retry) as client, pytest.raises(ClientError) as blocking:
            getattr(client, name)(**arguments(name))
        sent = list(server.sent)
        server.sent.clear()
        async with AsyncMildClient(server.url, retry=retry) as client_:
            with pytest.raises(ClientError) as awaiting:
                await getattr(client_, name)(**arguments(name))
        assert len(sent) == 3
        assert sent == server.sent
    assert str(blocking.value) == str(awaiting.value)
    assert type(blocking.value) is type(awaiting.value)


@pytest.mark.parametrize(
    ("kind", "calls", "names"),
    [
        (MildClient, Calls, CALLS),
        (AsyncMildClient, Calls, CALLS),
        (Run, AsyncRun, RUN_CALLS),
    ],
)
def test_every_call_is_there_with_its_documentation_and_parameters(kind: type, calls: type, names: list[str]) -> None:
    assert names
    for name in names:
        call, method = getattr(calls, name), getattr(kind, name)
        assert method.__doc__ == call.__doc__
        assert method.__doc__
        signature = inspect.signature(call)
        if (kind, name) == (MildClient, "events"):
            signature = signature.replace(return_annotation=Iterator[Event])
        assert inspect.signature(method) == signature


def test_a_run_has_the_documentation_and_parameters_of_its_plan() -> None:
    for kind in (MildClient, AsyncMildClient):
        assert kind.run.__doc__ == create_run.__doc__
        assert list(inspect.signature(kind.run).parameters)[1:3] == ["run_id", "num_samples"]
    assert [inspect.signature(kind.run).return_annotation for kind in (MildClient, AsyncMildClient)] == [Run, AsyncRun]
