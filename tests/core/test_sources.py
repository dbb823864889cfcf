"""Sources of samples: a selection reads a part at a time, and keeps little of it."""

import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from mild_core import bitmap, sources
from mild_core.audit import Annotations, Audit
from mild_core.bitmap import Bitmap
from mild_core.dynamics import BLOCK_BYTES
from mild_core.selection import select, select_from
from mild_core.sources import ArrayPart, ArraySource, SampleBlock, pick_samples, split_bytes
from mild_core.types import RoundBits, SelectionOptions

N_SAMPLES = 20_000_000
N_EPOCHS = 8
N_CLASSES = 10


class GeneratedSource:
    """One round whose samples are drawn when they are read; every third is mislabelled.

    Parameters
    ----------
    annotations
        Labels of no samples where the samples have labels, and an audit.
    late
        The epoch in which most mislabelled samples are memorised; `N_EPOCHS` for never.
    """

    is_shared = False

    def __init__(self, annotations: Annotations, late: int = N_EPOCHS) -> None:
        self.n_samples = N_SAMPLES
        self.round_lengths = [N_EPOCHS]
        self.planted_round: int | None = None
        self.members: Bitmap | None = None
        self.annotations = annotations
        self.late = late

    def split(self) -> "Sequence[GeneratedPart]":
        return [GeneratedPart(self, part) for part in split_bytes(bitmap.n_bytes(self.n_samples), BLOCK_BYTES)]


@dataclass(frozen=True)
class GeneratedPart:
    source: GeneratedSource
    extent: slice

    def read(self) -> SampleBlock:
        source, part = self.source, self.extent
        samples = slice(part.start * 8, min(part.stop * 8, source.n_samples))
        n_samples = samples.stop - samples.start
        rng = np.random.default_rng(part.start)
        learnt = np.minimum(rng.geometric(0.7, n_samples) - 1, 3).astype(np.uint8)
        mislabelled = slice(-samples.start % 3, None, 3)
        learnt[mislabelled] = source.late + rng.integers(-1, 1, learnt[mislabelled].size)
        correct = np.stack([bitmap.pack(learnt <= epoch) for epoch in range(N_EPOCHS)])
        audit = source.annotations.audit
        labels = None if source.annotations.labels is None else self.read_labels()
        if audit is not None:
            assert audit.random is not None
            audit = Audit(n_samples, audit.checked[part], audit.clean[part], audit.random[part])
        return SampleBlock([RoundBits(n_samples, correct)], labels, audit)

    def read_labels(self) -> NDArray[np.integer]:
        return np.arange(self.extent.start * 8, min(self.extent.stop * 8, self.source.n_samples)) % N_CLASSES


def draw_audit() -> Audit:
    """Draw and check some samples."""
    drawn = np.random.default_rng(0).choice(N_SAMPLES, 400, replace=False)
    return Audit.from_marks(drawn.tolist(), (drawn % 3 > 0).tolist(), N_SAMPLES, random=True)


@pytest.mark.parametrize(
    ("options", "late"),
    [
        (SelectionOptions(), N_EPOCHS),
        (SelectionOptions(threshold="fraction", fraction=0.65), N_EPOCHS - 1),
        (SelectionOptions(per_class=True), N_EPOCHS),
        (SelectionOptions(threshold="value", value=0.0, min_keep_class=0.1), N_EPOCHS),
        (SelectionOptions(threshold="fdr"), N_EPOCHS),
    ],
    ids=["by the fit", "by the first quarter", "by class", "by a value", "by a random audit"],
)
def test_a_selection_holds_three_bytes_of_a_sample(options: SelectionOptions, late: int) -> None:
    labels = np.zeros(0, dtype=np.int64) if options.needs_labels else None
    source = GeneratedSource(Annotations(labels, draw_audit() if options.threshold == "fdr" else None), late)
    tracemalloc.start()
    try:
        selection = select_from(source, options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.55 * N_SAMPLES < selection.n_selected < 0.7 * N_SAMPLES
    assert selection.early == (late < N_EPOCHS)
    assert peak < 16 * 2**20 + 3 * N_SAMPLES


def test_the_number_of_samples_is_a_json_value() -> None:
    bits = RoundBits(np.int64(9), bitmap.pack(np.ones((4, 9), dtype=bool)))  # type: ignore[arg-type]  # as it may be
    assert json.loads(json.dumps(select([bits]).summary()))["num_samples"] == 9


@pytest.mark.parametrize("indices", [[], [0], [5, 64, 65, 130], list(range(131)), [129, 130]])
@pytest.mark.parametrize("is_complete", [True, False])
def test_picked_samples_have_the_bits_that_they_had(
    monkeypatch: pytest.MonkeyPatch, indices: list[int], is_complete: bool
) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 4)
    rng = np.random.default_rng(0)
    correct, observed, masks = rng.random((3, 6, 131)) < 0.5
    planes = [bitmap.pack(correct)] if is_complete else [bitmap.pack(correct & observed), bitmap.pack(observed)]
    members, planted = (None, None) if is_complete else bitmap.pack(masks[:2])
    first = RoundBits(131, planes[0], None if is_complete else planes[1], members, "members", planted)
    second = RoundBits(131, bitmap.pack(masks))
    places = np.array(indices, dtype=np.int64)
    picked = pick_samples(ArraySource([first, second], Annotations()), places)
    assert [bits.expects for bits in picked] == ["members", "all"]
    for bits, whole in zip(picked, (first, second), strict=True):
        assert bits.n_samples == len(indices)
        for name in ("correct", "observed", "members", "planted"):
            plane, expected = getattr(bits, name), getattr(whole, name)
            assert (plane is None) == (expected is None), name
            if plane is not None:
                np.testing.assert_array_equal(plane, bitmap.pack(bitmap.unpack(expected, 131)[..., places]), name)


def test_only_parts_with_picked_samples_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 4)
    read: list[tuple[int, int]] = []
    read_part = ArrayPart.read

    def record(part: ArrayPart) -> SampleBlock:
        read.append((part.extent.start, part.extent.stop))
        return read_part(part)

    monkeypatch.setattr(ArrayPart, "read", record)
    source = ArraySource([RoundBits(131, bitmap.pack(np.ones((4, 131), dtype=bool)))], Annotations())
    pick_samples(source, np.array([64, 95, 130]))
    assert read == [(8, 12), (16, 17)]
