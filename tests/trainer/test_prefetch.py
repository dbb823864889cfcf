import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mild_trainer.training import image_storage
from mild_trainer.training.image_storage import N_BUFFERS, THREAD_PREFIX, prefetch_images

CPU = torch.device("cpu")
IMAGES = torch.arange(40 * 12, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(40, 2, 3, 2)


def sent(indices: Tensor, sizes: list[int]) -> Iterator[Tensor]:
    return prefetch_images(IMAGES, indices, sizes, CPU)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    assert not threads()
    yield
    assert not threads()


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The parts that the thread has gathered so far."""
    parts: list[list[int]] = []
    fill = image_storage._Buffer.fill

    def noting(slot: image_storage._Buffer, images: Tensor, indices: Tensor) -> image_storage._Buffer:
        filled = fill(slot, images, indices)
        parts.append(indices.tolist())
        return filled

    monkeypatch.setattr(image_storage._Buffer, "fill", noting)
    return parts


@pytest.mark.parametrize("sizes", [[], [1], [4], [4, 4, 4, 4, 4, 5], [7, 1, 3], [5] * 8])
def test_parts_are_the_images_in_the_order_of_the_indices(sizes: list[int]) -> None:
    indices = torch.randperm(40, generator=torch.Generator().manual_seed(1))[: sum(sizes)]
    parts = [part.clone() for part in sent(indices, sizes)]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([IMAGES[:0], *parts]), IMAGES[indices])


def test_a_part_stays_until_the_next_is_asked_for() -> None:
    indices = torch.arange(40).flip(0)
    parts = sent(indices, [4] * 10)
    for number, part in enumerate(parts):
        assert threads()
        assert torch.equal(part, IMAGES[indices[4 * number : 4 * number + 4]])


def test_the_thread_gathers_ahead_and_no_further_than_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    last_with_room = threading.Event()
    fill = image_storage._Buffer.fill

    def noting(slot: image_storage._Buffer, images: Tensor, indices: Tensor) -> image_storage._Buffer:
        begun.append(int(indices[0]))
        if len(begun) == N_BUFFERS:
            last_with_room.set()
        return fill(slot, images, indices)

    monkeypatch.setattr(image_storage._Buffer, "fill", noting)
    parts = sent(torch.arange(40), [1] * 40)
    next(parts)
    assert last_with_room.wait(60), "the next parts are gathered though nobody has asked for them"
    next(parts)
    parts.close()  # type: ignore[attr-defined]  # a generator
    assert begun[:N_BUFFERS] == list(range(N_BUFFERS))
    assert len(begun) <= N_BUFFERS + 1


def test_nothing_is_begun_before_the_first_part_is_asked_for(gathered: list[list[int]]) -> None:
    parts = sent(torch.arange(4), [2, 2])
    assert not threads()
    assert [len(part) for part in parts] == [2, 2]
    assert gathered == [[0, 1], [2, 3]]


def test_the_thread_ends_with_what_abandons_the_parts(gathered: list[list[int]]) -> None:
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the loop is what is abandoned
        for _ in sent(torch.arange(40), [1] * 40):
            assert threads()
            raise KeyboardInterrupt
    assert not threads()
    assert len(gathered) <= N_BUFFERS


def test_nothing_holds_abandoned_parts_and_their_room() -> None:
    parts = sent(torch.arange(40), [4] * 10)
    room = weakref.ref(next(parts).untyped_storage())
    assert room() is not None
    gc.disable()
    try:
        del parts
        assert room() is None
        assert not threads()
    finally:
        gc.enable()


def test_an_error_in_the_thread_is_raised_where_its_part_is_asked_for() -> None:
    parts = sent(torch.tensor([3, 1, 40, 2]), [1] * 4)
    assert torch.equal(next(parts), IMAGES[3:4])
    assert torch.equal(next(parts), IMAGES[1:2])
    with pytest.raises(IndexError, match="out of range"):
        next(parts)
    assert not threads()
    with pytest.raises(StopIteration):
        next(parts)


def test_parts_that_were_gathered_for_an_evaluation_and_for_a_training_do_not_mix() -> None:
    with torch.inference_mode():
        for part in sent(torch.arange(40), [8] * 5):
            assert part.is_inference()
    weight = torch.ones((), requires_grad=True)
    for part in sent(torch.arange(40), [8] * 5):
        assert not part.is_inference()
        (part.float() * weight).sum().backward()  # type: ignore[no-untyped-call]  # as torch has it
    assert weight.grad is not None
    assert weight.grad == IMAGES.sum()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_parts_arrive_whole_on_a_busy_device_without_the_training_waiting_for_it() -> None:
    device, n = torch.device("cuda"), 4000
    images = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8)
    order = torch.randperm(n, device=device)
    busy = torch.randn(2048, 2048, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        parts = []
        for part in prefetch_images(images, order, [100] * 40, device):
            busy = (busy @ busy).tanh()  # what reads the part comes late
            parts.append(part.clone())
        abandoned = prefetch_images(images, order, [100] * 40, device)
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]  # a generator
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cat(parts).cpu(), images[order.cpu()])
