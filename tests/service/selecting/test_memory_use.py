"""Estimates of memory against measured peaks, with the store and the threads of the service."""

import tracemalloc
from collections.abc import Awaitable, Callable, Iterator

import numpy as np
import pyarrow.ipc  # noqa: F401  # loaded here, not within a measured peak
import pytest
from starlette.responses import Response

from mild_core import bitmap
from mild_core.inspect.sample_table import build_sample_table
from mild_core.types import EpochBits, RunSpec, SelectionOptions
from mild_service.admission import Admission
from mild_service.config import Settings
from mild_service.models import Run
from mild_service.observability import Telemetry
from mild_service.routes.samples import _SCORE_CHARS
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.evidence import Evidence
from mild_service.selecting.memory_use import MemoryUse
from mild_service.store import PackedEpoch, Store
from mild_service.web import media_types
from mild_service.web.responses import (
    SELECTION_TYPES,
    Representation,
    encode_lists,
    encode_npy_rows,
    estimate_pieces,
    estimate_set,
    make_response,
    make_set_response,
    split_array,
)

pytestmark = pytest.mark.anyio

_FACTOR = 4.0
"""Most that an estimate may exceed a peak; it never lies more than 5% below."""


async def measure_peak(work: Awaitable[object]) -> int:
    """Most bytes that are allocated at a time while `work` runs."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await work
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def assert_estimate(estimate: int, peak: int) -> None:
    assert 0.95 * peak <= estimate <= _FACTOR * peak, f"estimated {estimate}, measured {peak}"


async def record(store: Store, n_samples: int, n_epochs: int, is_observed: bool) -> Run:
    rng = np.random.default_rng(0)
    run, _ = await store.runs.open(RunSpec("large", n_samples, ttl_seconds=600))
    is_noisy = rng.random(n_samples) < 0.3
    for epoch in range(n_epochs):
        correct = bitmap.pack(rng.random(n_samples, dtype=np.float32) < np.where(is_noisy, 0.1, 0.3 + 0.7 * epoch / 20))
        observed = bitmap.pack(rng.random(n_samples, dtype=np.float32) < 0.8) if is_observed else None
        bits = EpochBits(n_samples, correct if observed is None else correct & observed, observed)
        await store.epochs.commit(run, 0, epoch, PackedEpoch.from_bits(bits), 1, False)
    return run


@pytest.mark.parametrize(("n_epochs", "is_observed"), [(20, False), (20, True)])
async def test_the_estimates_of_a_large_run_are_right(
    store: Store, settings: Settings, n_epochs: int, is_observed: bool
) -> None:
    settings = settings.model_copy(update={"executor": "threads"})
    run = await record(store, 6_000_000, n_epochs, is_observed)
    telemetry = Telemetry()
    computer = SelectionComputer(store, telemetry, settings, Admission(settings, telemetry))
    evidence = await computer.evidence.gather(run, 0, SelectionOptions())
    use = MemoryUse.of_evidence(evidence, settings.compute_workers)
    assert not use.is_small or not is_observed
    assert_estimate(use.set_bytes, await measure_peak(computer.compute(evidence)))
    assert_estimate(use.detail_bytes, await measure_peak(computer.compute_details(evidence)))
    selection = await computer.compute_details(evidence)
    assert_estimate(use.table_bytes, await measure_peak(build_table(computer, evidence, selection)))
    await computer.aclose()


async def build_table(computer: SelectionComputer, evidence: Evidence, selection: object) -> object:
    rounds = await computer.evidence.load_bits(evidence)
    return build_sample_table(rounds, selection, None)  # type: ignore[arg-type]  # of the computer


@pytest.mark.parametrize("media_type", SELECTION_TYPES)
@pytest.mark.parametrize("share", [0.1, 1.0])
async def test_the_estimate_of_an_answer_is_right(media_type: str, share: float) -> None:
    n_samples = 1_000_000
    kept = bitmap.pack(np.random.default_rng(0).random(n_samples) < share)

    async def encode() -> Response:
        return await make_set_response(Representation(media_type, "identity"), {}, kept, n_samples)

    assert_estimate(estimate_set(kept, n_samples, media_type), await measure_peak(encode()))


@pytest.mark.parametrize("media_type", [media_types.JSON, media_types.NPY])
@pytest.mark.parametrize("n_samples", [200_000, 1_000_000])
async def test_the_estimate_of_scores_is_right(media_type: str, n_samples: int) -> None:
    columns = np.random.default_rng(0).normal(size=(2, n_samples)).astype(np.float32)
    make_pieces: Callable[[], Iterator[bytes]]
    if media_type == media_types.NPY:
        make_pieces, estimate = lambda: encode_npy_rows(list(columns)), estimate_pieces(2 * n_samples, 4)
    else:
        make_pieces, estimate = (
            lambda: encode_lists({}, {"scores": split_array(columns[0]), "b": split_array(columns[1])}),
            estimate_pieces(2 * n_samples, _SCORE_CHARS),
        )

    async def encode() -> Response:
        return await make_response(Representation(media_type, "identity"), make_pieces)

    assert_estimate(estimate, await measure_peak(encode()))


def test_a_bitmap_takes_a_fortieth_of_a_list() -> None:
    bits, listed = (estimate_set(bitmap.full(10**6), 10**6, name) for name in (media_types.BITMAP, media_types.JSON))
    assert 40 * bits < listed
