"""A run's handle against the real application: it keeps count, resumes as told, and finishes nothing by accident."""

import logging

import anyio
import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from mild_client import AsyncMildClient, IntermediaryError, MildClient, Retry, RunExists, RunMissing
from mild_client.errors import Conflict, LocalStateError, NotFound, ServiceUnreachable, StaleAttempt
from mild_client.run import Resume
from mild_core import bitmap
from mild_core.errors import ParameterError
from mild_core.types import EpochBits, SelectionOptions
from tests.client.wire import HANG_UP, VERSION, Reply, serving

N = 600


@pytest.fixture
def client(service: httpx.Client) -> MildClient:
    return MildClient("http://service", http=service)


def status(client: MildClient) -> str:
    return str(client.get_run("a")["status"])


def put_and_fail(client: MildClient, epochs: list[EpochBits], error: BaseException) -> None:
    with client.run("a", num_samples=N) as run:
        for bits in epochs:
            run.put_epoch(bits)
        raise error


def test_two_rounds_without_a_number(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N, num_classes=10, selection=SelectionOptions(cost_ratio=2.0)) as run:
        for number in range(2):
            assert (run.run_id, run.round, run.epoch, run.attempt) == ("a", number, 0, 1)
            for epoch, bits in enumerate(epochs):
                assert run.epoch == epoch
                run.put_epoch(bits, metrics={"train_loss": 1 / (epoch + 1)})
            provisional = run.selection(number)
            finished = run.finish()
            assert provisional["provisional"]
            assert finished["indices"] == provisional["indices"] == np.flatnonzero(run.selected()).tolist()
    state = client.get_run("a")
    assert (state["status"], state["round"], state["selection"]["cost_ratio"]) == ("finished", 2, 2.0)
    assert state["rounds"][0]["metrics"]["11"] == {"train_loss": 1 / 12}


def test_the_best_round_is_asked_for_by_that_word(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N) as run:
        for accuracy in (0.6, 0.5):
            run.put_epoch(epochs[0], metrics={"validation_accuracy": accuracy})
            for bits in epochs[1:]:
                run.put_epoch(bits)
            run.finish()
        best = run.selection(round="best")
        assert (best["round"], run.selection()["round"]) == (0, 1)
        assert best["indices"] == np.flatnonzero(run.selected("best")).tolist()
        run.put_epoch(epochs[0])
        run.finish()
        with pytest.raises(Conflict) as caught:
            run.selection(round="best")
    assert caught.value.code == "rounds-not-comparable"


def test_arrays_are_as_good_as_packed_bits(client: MildClient, epochs: list[EpochBits]) -> None:
    correct = bitmap.unpack(epochs[0].correct, N)
    observed = np.arange(N) % 2 == 0
    with client.run("a", num_samples=N) as run:
        run.put_members(bitmap.full(N))
        run.put_planted(bitmap.pack(np.arange(N) < 3))
        run.put_epoch(correct)
        run.put_epoch(correct & observed, observed)
        run.put_metrics(1, {"test_accuracy": 0.5})
        run.log_predictions(2, np.arange(N), np.where(correct, 3, 4), np.full(N, 3))
        assert run.epoch == 3
        for wrong in (correct[1:], correct.astype(np.uint8) + 1, epochs[0].correct):
            with pytest.raises(ParameterError, match=r"give booleans of shape \(600,\)"):
                run.put_epoch(wrong)
        with pytest.raises(ParameterError, match="observed has shape"):
            run.put_epoch(correct, correct[1:])
    client.put_epoch("a", 0, 0, epochs[0])  # the same content: it is a no-op
    (round_,) = client.get_run("a")["rounds"]
    assert (round_["epochs"], round_["num_planted"]) == ([0, 1, 2], 3)


def test_an_exception_leaves_the_round_open_and_says_so(client: MildClient, epochs: list[EpochBits]) -> None:
    with pytest.raises(ZeroDivisionError):
        put_and_fail(client, epochs[:1], ZeroDivisionError())
    state = client.get_run("a")
    assert (state["status"], state["rounds"][0]["state"]) == ("failed", "open")


def test_a_block_that_just_ends_finishes_nothing(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(epochs[0])
    state = client.get_run("a")
    assert (state["status"], state["rounds"][0]["state"]) == ("running", "open")


@pytest.mark.parametrize("resume", ["allow", "must"])
def test_a_run_goes_on_behind_its_last_epoch(resume: Resume, client: MildClient, epochs: list[EpochBits]) -> None:
    with pytest.raises(KeyboardInterrupt):
        put_and_fail(client, epochs[:5], KeyboardInterrupt())
    with client.run("a", num_samples=N, resume=resume) as run:
        assert (run.round, run.epoch, run.attempt) == (0, 5, 2)
        assert status(client) == "running"
        for bits in epochs[5:]:
            run.put_epoch(bits)
        run.finish()
        run.put_epoch(epochs[0])
    assert status(client) == "running"  # there is an epoch that no set was made of
    with client.run("a", num_samples=N, resume=resume) as run:
        assert (run.round, run.epoch, run.attempt) == (1, 1, 3)


def test_epochs_behind_a_gap_are_written_again(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(epochs[0])
        client.put_epoch("a", 0, 2, epochs[2])
    with client.run("a", num_samples=N, resume="allow") as run:
        assert run.epoch == 1
    assert client.get_run("a")["rounds"][0]["epochs"] == [0]


def test_a_new_run_may_be_opened_with_allow_and_never_and_not_with_must(client: MildClient) -> None:
    with pytest.raises(
        RunMissing, match="there is no run 'a' to resume; check the name, or open it with resume='allow'"
    ):
        client.run("a", num_samples=N, resume="must").__enter__()
    with pytest.raises(NotFound):
        client.get_run("a")
    resumes: tuple[Resume, ...] = ("allow", "never", "must")
    for resume in resumes:  # a run that has nothing in it is as good as new
        with client.run("a", num_samples=N, resume=resume) as run:
            assert (run.epoch, run.attempt) == (0, 1)


def test_never_leaves_a_run_that_has_epochs_alone(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(epochs[0])
        with pytest.raises(RunExists, match="run 'a' exists already and is at round 0, epoch 1; choose another run id"):
            client.run("a", num_samples=N).__enter__()
        run.put_epoch(epochs[1])
        assert run.attempt == 1


def test_another_size_is_a_conflict_and_another_word_no_choice(client: MildClient, epochs: list[EpochBits]) -> None:
    with client.run("a", num_samples=N) as run:
        run.put_epoch(epochs[0])
    with pytest.raises(Conflict, match="600"):
        client.run("a", num_samples=601, resume="allow").__enter__()
    with pytest.raises(ParameterError, match="resume is 'maybe'; choose one of allow, must, never"):
        client.run("a", num_samples=N, resume="maybe")  # type: ignore[arg-type]  # wrong on purpose


def be_replaced(client: MildClient, epochs: list[EpochBits], write_on: bool) -> None:
    with client.run("a", num_samples=N) as older:
        older.put_epoch(epochs[0])
        with client.run("a", num_samples=N, resume="must") as newer:
            newer.put_epoch(epochs[1])
        if write_on:
            older.put_epoch(epochs[1])
        raise ZeroDivisionError


@pytest.mark.parametrize(("write_on", "error"), [(True, StaleAttempt), (False, ZeroDivisionError)])
def test_whoever_was_replaced_is_refused_and_marks_nothing(
    write_on: bool, error: type[Exception], client: MildClient, epochs: list[EpochBits]
) -> None:
    with pytest.raises(error):
        be_replaced(client, epochs, write_on)
    assert status(client) == "running"


def test_a_server_that_is_no_service_has_no_run_to_open() -> None:
    with (
        serving(Reply(404)) as server,
        MildClient(server.url, retry=Retry(first_deadline=0.0)) as client,
        pytest.raises(IntermediaryError, match="status 404"),
    ):
        client.run("a", num_samples=N).__enter__()


def test_a_run_that_is_not_open_is_not_written_to(client: MildClient, epochs: list[EpochBits]) -> None:
    with pytest.raises(LocalStateError, match="not open; write to it in a `with` block"):
        client.run("a", num_samples=N).put_epoch(epochs[0])


def test_what_failed_is_told_though_the_service_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    state = Reply(body=b'{"attempt": 1, "round": 0, "status": "running"}')
    no_run = Reply.problem(404, "run-not-found")
    pauses: list[float] = []
    retry = Retry(deadline=0.0, first_deadline=0.0, sleep=pauses.append, clock=lambda: sum(pauses))
    with serving(no_run, state, HANG_UP) as server, MildClient(server.url, retry=retry) as client:
        with pytest.raises(ZeroDivisionError), client.run("a", num_samples=N):
            raise ZeroDivisionError
        n_sent = len(server.sent)
        assert n_sent > 2
        assert [r.getMessage() for r in caplog.records if "marked" in r.getMessage()]
        with pytest.raises(ServiceUnreachable), client.run("a", num_samples=N) as run:
            run.finish()
        assert len(server.sent) == n_sent + 1  # who cannot be reached is not asked to note it


def test_an_old_client_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    no_run = Reply.problem(404, "run-not-found")
    state = Reply(body=b'{"attempt": 1, "round": 0, "status": "running"}')
    for oldest, n_warnings in (("0.1.0", 0), ("0.10", 1), ("0.0.99", 0)):
        caplog.clear()
        version = {**VERSION, "oldest_client": oldest}
        with serving(no_run, state, no_run, state, version=version) as server, MildClient(server.url) as client:
            for _ in range(2):
                client.run("a", num_samples=N).__enter__()
        told = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(told) == n_warnings
        assert all("the service supports clients from 0.10 on; install a newer one" in r.getMessage() for r in told)
        assert {s.header("User-Agent") for s in server.sent} == {"mild-client/0.1.0"}


async def put_and_fail_awaiting(client: AsyncMildClient, bits: EpochBits) -> None:
    async with client.run("a", num_samples=N) as run:
        await run.put_epoch(bits)
        raise ZeroDivisionError


@pytest.mark.anyio
async def test_the_asynchronous_handle_does_the_same(app: FastAPI, epochs: list[EpochBits]) -> None:
    async with app.router.lifespan_context(app):
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        async with AsyncMildClient("http://service", http=http) as client:
            with pytest.raises(ZeroDivisionError):
                await put_and_fail_awaiting(client, epochs[0])
            assert (await client.get_run("a"))["status"] == "failed"
            async with client.run("a", num_samples=N, resume="must") as run:
                assert (run.run_id, run.round, run.epoch, run.attempt) == ("a", 0, 1, 2)
                for bits in epochs[1:]:
                    await run.put_epoch(bits)
                selection = await run.finish()
                assert np.flatnonzero(await run.selected()).tolist() == selection["indices"]
            assert (await client.get_run("a"))["status"] == "finished"
        assert not http.is_closed
        await http.aclose()


@pytest.mark.anyio
async def test_a_cancelled_task_says_that_it_failed(app: FastAPI, epochs: list[EpochBits]) -> None:
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        client = AsyncMildClient("http://service", http=http)
        with anyio.CancelScope() as scope:
            async with client.run("a", num_samples=N) as run:
                await run.put_epoch(epochs[0])
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert (await client.get_run("a"))["status"] == "failed"
