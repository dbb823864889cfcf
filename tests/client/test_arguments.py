"""What people pass: numpy and torch scalars, lists, tensors and tables, ids of all sorts, and metrics that are NaN."""

import inspect
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow
import pytest
import torch

from mild_client import BackgroundBackend, HttpBackend, LocalSelector, MildClient, Position, RunSpec, SelectionOptions
from mild_client.api import Calls
from mild_client.arguments import to_bitmap, to_classes, to_epoch_body, to_integer, to_json, to_metrics, to_spec
from mild_client.backends.sync import sync_spools
from mild_client.errors import ClientError, StaleAttempt
from mild_core import bitmap
from mild_core.errors import InvalidInput, MildError, ParameterError, SampleIndexError
from mild_core.types import EpochBits
from tests.client.test_blocking import GIVEN
from tests.client.wire import Reply, serving

N = 64
LABELS = np.arange(N) % 10
MASK = np.arange(N) % 3 > 0


@pytest.fixture
def client(service: httpx.Client) -> MildClient:
    return MildClient("http://service", http=service)


class Frame:
    """A table of one column, as pandas and polars convert it."""

    def __init__(self, column: np.ndarray[Any, Any]) -> None:
        self._column = column

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
        return self._column[:, None]


def forms(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The same values as people have them."""
    return {
        "array": array,
        "list": array.tolist(),
        "tensor": torch.from_numpy(array),
        "arrow": pyarrow.array(array),
        "frame": Frame(array),
    }


FORMS = list(forms(LABELS))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_values_is_stored_as_the_same(form: str, client: Any) -> None:
    labels, mask, few = (forms(values)[form] for values in (LABELS, MASK, np.flatnonzero(MASK)))
    spec = {"num_samples": np.int64(N), "num_classes": LABELS.max() + 1, "ttl_seconds": torch.tensor(3600)}
    with client.run("a", **spec, tags={"fold": np.int64(3)}, selection={"p": np.float32(0.25)}) as run:
        client.put_labels("a", labels)
        run.put_planted(few)
        client.put_members("a", np.int64(0), few)
        run.put_epoch(mask, metrics={"train_loss": torch.tensor(0.5), "n": np.int64(3), "lr": np.float32(0.5)})
        run.put_epoch(forms(MASK.astype(np.int64))[form], observed=forms(np.ones(N, dtype=bool))[form])
        run.log_predictions(np.int64(2), forms(np.arange(N))[form], predicted=labels, labels=labels)
        audited = client.put_audit("a", few, forms(np.ones(int(MASK.sum()), dtype=bool))[form])
        state = client.get_run("a")
        assert (state["num_samples"], state["num_classes"], state["tags"]) == (N, 10, {"fold": "3"})
        assert state["selection"]["p"] == 0.25
        assert state["rounds"][0]["metrics"]["0"] == {"train_loss": 0.5, "n": 3, "lr": 0.5}
        assert (client.members("a", N, np.int64(0)) == bitmap.pack(MASK)).all()
        assert (client.planted("a", N) == bitmap.pack(MASK)).all()
        assert audited["num_known"] == MASK.sum()
        assert client.get_round("a", torch.tensor(0))["round"] == 0
        assert client.sample("a", np.int64(3), round=np.int64(0))["index"] == 3
        chosen = client.selection(
            "a", np.int64(0), np.int64(1), changes={"p": np.float32(0.5), "min_keep": np.float64(1)}
        )
        assert chosen == client.selection("a", 0, 1, changes={"p": 0.5, "min_keep": 1.0})
    rows = [[True] * N, MASK.tolist()]
    assert client.select(rows, options=SelectionOptions(p=np.float32(0.5)))["num_samples"] == N  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["local", "http", "background"])
def test_every_backend_takes_every_form(kind: str, form: str, client: Any, tmp_path: Path) -> None:
    folder = str(tmp_path / "spool")
    backend: Any = {
        "local": LambdaBackend(lambda: LocalSelector(str(tmp_path / "bits"))),
        "http": LambdaBackend(lambda: HttpBackend(client)),
        "background": LambdaBackend(lambda: BackgroundBackend(mode="offline", folder=folder)),
    }[kind].create()
    backend.open(RunSpec("a", num_samples=np.int64(N), num_classes=LABELS.max() + 1))  # type: ignore[arg-type]
    backend.put_labels(forms(LABELS)[form])
    backend.put_planted(forms(np.flatnonzero(~MASK))[form])
    backend.put_members(0, forms(np.ones(N, dtype=bool))[form])
    backend.put_epoch(np.int64(0), np.int64(0), forms(MASK)[form])
    backend.put_epoch(0, 1, EpochBits(N, MASK, np.ones(N, dtype=bool)))  # type: ignore[arg-type]
    backend.put_metrics(np.int64(0), np.int64(0), {"train_loss": np.float32(0.5), "test_loss": float("nan")})
    assert bitmap.popcount(backend.finish(0).selected) > 0
    if kind == "background":
        backend.close()
        assert [spool.n_unsent for spool in sync_spools(folder, dry_run=True)] == [8]


class LambdaBackend:
    """A backend that is made when it is asked for."""

    def __init__(self, create: Callable[[], Any]) -> None:
        self.create = create


@pytest.mark.parametrize(
    "run_id", ["exp#1", "exp?y", "other/../exp", "..", "a/b", "", " a", "é", "a" * 65, "a\n", 7, None]
)
def test_no_call_takes_an_id_that_is_none(run_id: Any) -> None:
    with serving() as server, MildClient(server.url) as client:
        for name in dir(Calls):
            function = inspect.signature(getattr(Calls, name)) if not name.startswith("_") else None
            if function is None or "run_id" not in function.parameters:
                continue
            arguments = {each: GIVEN[each] for each in function.parameters if each in GIVEN} | {"run_id": run_id}
            with pytest.raises(ParameterError, match=r"run_id is .*; give 1 to 64 letters"):
                for _ in getattr(client, name)(**arguments) or ():
                    pass
        for opening in (
            lambda: client.run(run_id, num_samples=8, resume="allow"),
            lambda: client.open_run(RunSpec(run_id, 8)),
            lambda: HttpBackend(client).open(RunSpec(run_id, 8)),
            lambda: LocalSelector().open(RunSpec(run_id, 8)),
            lambda: BackgroundBackend(mode="offline").open(RunSpec(run_id, 8)),
        ):
            with pytest.raises(ParameterError, match=r"run_id is .*; give 1 to 64 letters"):
                opening()
        assert not [sent for sent in server.sent if b"limits" not in sent.line]


def test_only_one_function_puts_ids_into_paths() -> None:
    """A path that is formatted by hand would hold what the caller has written, as it is."""
    for package in ("mild_client", "mild_trainer"):
        for module in Path("trainer_client", package).rglob("*.py"):
            assert module.name == "requests.py" or not re.search(r"f[\"']/runs/\{", module.read_text()), module


@pytest.mark.parametrize("position", ["1/../..", -1, 1.5, None, "latest", [1], np.arange(3)])
def test_no_call_takes_a_position_that_is_none(position: Any, client: Any) -> None:
    client.open_run(RunSpec("a", 8))
    bits = EpochBits(8, np.zeros(1, dtype=np.uint8), np.zeros(1, dtype=np.uint8))
    calls: tuple[Callable[[], object], ...] = (
        lambda: client.put_epoch("a", position, 0, bits),
        lambda: client.put_epoch("a", 0, position, bits),
        lambda: client.put_shard("a", 0, 0, position, 2, bits),
        lambda: client.put_members("a", position, bits.correct),
        lambda: client.put_metrics("a", 0, position, {"train_loss": 1.0}),
        lambda: client.finish("a", position),
        lambda: client.get_epoch("a", 0, position),
        lambda: client.sample("a", position),
        lambda: client.log_predictions("a", position, [0], [0], [0]),
    )
    for call in calls:
        with pytest.raises(ParameterError, match="; give a whole number of at least 0"):
            call()
    with pytest.raises(ParameterError, match="round is 'last'; give a number, 'latest' or 'best'"):
        client.selection("a", "last")


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "text labels": (lambda c: c.put_labels("a", ["cat"] * N), r"labels has type .*'cat'.*numpy\.unique"),
    "fractions": (lambda c: c.put_labels("a", LABELS + 0.5), "give class numbers"),
    "NaN labels": (lambda c: c.put_labels("a", np.full(N, np.nan)), "give class numbers"),
    "one-hot labels": (lambda c: c.put_labels("a", np.eye(N)), "argmax"),
    "labels without order": (lambda c: c.put_labels("a", {0: 1}), "a mapping has no order"),
    "ragged labels": (lambda c: c.put_labels("a", [[1], [1, 2]]), "cannot be read as an array"),
    "ids of numbers": (lambda c: c.put_sample_ids("a", range(N)), "the id of sample 0 is 0, which is no text"),
    "one text of ids": (lambda c: c.put_sample_ids("a", "abc"), "give a list with one text"),
    "a mask of numbers": (lambda c: c.put_members("a", 0, MASK.astype(int)), "which fits indices and a mask"),
    "negative indices": (lambda c: c.put_members("a", 0, [-1]), "indices of at least 0"),
    "a mask of another size": (lambda c: c.put_members("a", 0, [True]), r"members has shape \(1,\)"),
    "indices of floats": (lambda c: c.put_audit("a", [0.5], [True]), "give sample indices"),
    "marks of another length": (lambda c: c.put_audit("a", [1, 2], [True]), r"clean has shape \(1,\)"),
    "predictions that are a mask": (
        lambda c: c.log_predictions("a", 0, np.arange(N), MASK, LABELS),
        "a mask of right predictions goes to put_epoch",
    ),
    "a file that is not there": (lambda c: c.push("a", "no/such.csv"), "there is no log no/such.csv"),
    "a folder": (lambda c: c.push("a", "/tmp", media_type="text/csv"), "is a folder"),
    "no path": (lambda c: c.push("a", 3), "file is 3; give a path"),
    "an option as text": (lambda c: c.run("b", num_samples=8, selection={"p": "much"}), "p is 'much'; give a number"),
    "an unknown option": (lambda c: c.run("b", num_samples=8, selection={"q": 1}), "the selection is"),
    "tags that are none": (lambda c: c.run("b", num_samples=8, tags=["x"]), "tags are"),
    "no samples": (lambda c: c.run("b", num_samples=0), "num_samples is 0; give a whole number of at least 1"),
    "a size as text": (lambda c: c.run("b", num_samples="8"), "num_samples is '8'"),
    "a choice": (lambda c: c.run("b", num_samples=8, observe="some"), "observe is 'some'; choose one of"),
    "a change that is NaN": (lambda c: c.patch_run("a", ttl_seconds=math.nan), "cannot be sent"),
    "a change that is no JSON": (lambda c: c.patch_run("a", ttl_seconds=object()), "cannot be sent as JSON"),
    "bits without shape": (lambda c: c.select(MASK), r"correct has shape \(64,\)"),
    "an address that is none": (lambda c: MildClient(None), "url is None"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_remedy_before_anything_is_sent(name: str, client: Any) -> None:
    call, message = REFUSED[name]
    client.open_run(RunSpec("a", N, num_classes=10))
    before = client.get_run("a")
    with pytest.raises(InvalidInput, match=message):
        call(client)
    after = client.get_run("a")
    assert {**after, "updated_at": 0} == {**before, "updated_at": 0}


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float32("nan"), torch.tensor(math.nan), torch.ones(2), "low", None]
)
def test_a_metric_that_cannot_be_stored_is_dropped_with_a_warning(
    value: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(MASK, metrics={"train_loss": value, "lr": 0.5})
        run.put_epoch(MASK, metrics={"train_loss": value})
        run.put_metrics(0, {"train_loss": value})
        HttpBackend(client).put_metrics(0, 0, {"train_loss": value})
        assert run.epoch == 2
        run.put_epoch(MASK)
    (round_,) = client.get_run("a")["rounds"]
    assert (round_["epochs"], round_["metrics"]) == ([0, 1, 2], {"0": {"lr": 0.5}})
    dropped = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert len(dropped) == 4
    assert all("train_loss" in text for text in dropped)


@pytest.mark.parametrize("metrics", [{"Train/Loss": 1.0}, {3: 1.0}, [1.0], 5, {"a" * 65: 1.0}])
def test_metrics_of_a_name_that_the_service_refuses_are_dropped(
    metrics: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(MASK, metrics=metrics)
        assert run.epoch == 1
    assert client.get_run("a")["rounds"][0]["metrics"] == {}
    assert "dropped; " in caplog.text


def test_metrics_that_the_service_refuses_leave_no_epoch_half_done(caplog: pytest.LogCaptureFixture) -> None:
    opened = Reply(
        body=b'{"attempt": 1, "round": 0, "rounds": [{"round": 0, "num_epochs": 0, "epochs": [], "partial": []}]}'
    )
    replies = [opened, opened, opened, Reply(), Reply.problem(409, "metrics-conflict"), Reply(), Reply.problem(422)]
    with serving(*replies) as server, MildClient(server.url) as client:
        run = client.run("a", num_samples=8, resume="allow").__enter__()
        run.put_epoch([True] * 8, metrics={"train_loss": 1.0})
        run.put_epoch([True] * 8, metrics={"train_loss": 1.0})
        assert run.epoch == 2
    assert caplog.text.count("the metrics of epoch") == 2


def test_metrics_of_a_trainer_that_was_replaced_say_so(client: Any) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(MASK)
        client.open_run(RunSpec("a", N), Position(0, 1))
        with pytest.raises(StaleAttempt):
            run.put_metrics(0, {"train_loss": 1.0})


def test_answers_of_something_else_are_an_error_of_the_client() -> None:
    with serving(Reply(body=b'{"run_id": "a"}')) as server, MildClient(server.url) as client:
        for call in (
            lambda: client.fit("a", 0),
            lambda: client.suggestions("a"),
            lambda: client.sample_ids("a"),
            lambda: client.post_records("a", [{"epoch": 0, "sample": 1, "correct": True}]),
            lambda: client.open_run(RunSpec("a", 8)),
        ):
            with pytest.raises(ClientError, match="check that the address is the service's"):
                call()


@pytest.mark.parametrize(
    "value", [3, 3.0, np.int8(3), np.float64(3), torch.tensor(3), np.array([3]), torch.tensor([3.0])]
)
def test_a_whole_number_of_any_type_is_an_integer(value: Any) -> None:
    assert to_integer(value, "epoch") == 3
    assert type(to_integer(value, "epoch")) is int


def test_labels_of_any_numeric_type_are_read() -> None:
    assert to_classes(np.array([1, 2], dtype=object), "labels").tolist() == [1, 2]  # the nullable integers of pandas
    assert to_classes([True, False], "labels").tolist() == [1, 0]
    assert to_classes([1.0, 2.0], "labels").tolist() == [1, 2]
    assert to_classes([], "labels").tolist() == []
    with pytest.raises(ParameterError, match="labels has type object"):
        to_classes([1, None], "labels")


def test_a_set_is_a_bitmap_a_mask_or_indices() -> None:
    expected = bitmap.pack(MASK).tolist()
    for samples in (
        bitmap.pack(MASK),
        bitmap.pack(MASK).tobytes(),
        MASK,
        np.flatnonzero(MASK),
        set(np.flatnonzero(MASK)),
    ):
        assert to_bitmap(samples, "members", N).tolist() == expected
    assert to_bitmap([], "members", N).tolist() == [0] * 8
    with pytest.raises(SampleIndexError, match=r"64 is outside 0\.\.63"):
        to_bitmap([64], "members", N)


def test_bits_are_checked_before_they_are_stored() -> None:
    with pytest.raises(ParameterError, match="those of 8 samples, the run has 64"):
        to_epoch_body(EpochBits(8, bitmap.full(8)), n_samples=N)
    with pytest.raises(MildError, match="correct but not observed"):
        to_epoch_body(MASK, ~MASK, N)
    with pytest.raises(ParameterError, match="observed has shape"):
        to_epoch_body(MASK, MASK[1:], N)


def test_a_specification_has_values_of_python_afterwards() -> None:
    spec = to_spec(RunSpec("a", np.int64(8), selection=SelectionOptions(fraction=np.float32(0.5))))  # type: ignore[arg-type]
    assert type(spec.num_samples) is int
    assert type(spec.selection.fraction) is float


def test_values_of_any_library_become_json() -> None:
    value = {"a": np.arange(2), 1: (torch.tensor(3), Path("x"), {np.str_("b")}), "c": np.bool_(True), "d": None}
    assert to_json(value) == {"a": [0, 1], "1": [3, "x", ["b"]], "c": True, "d": None}


def test_metrics_keep_what_can_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert to_metrics({"a": 1, "b": math.nan, "c": True}) == {"a": 1.0, "c": 1.0}
    assert caplog.messages == ["the metric 'b' is nan and is dropped; only finite numbers are stored"]
