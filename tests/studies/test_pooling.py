import numpy as np
import pytest

from benchmarks.recordings import Recording, Round
from benchmarks.truth import auc
from mild_core import bitmap
from mild_core.selection import select
from mild_core.types import RoundBits
from studies.pooling import list_overlaps
from studies.pooling_ways import DEFAULT, WAYS, Trace

N, EPOCHS = 1200, 20


@pytest.fixture(scope="module")
def recording() -> Recording:
    """Two rounds; in the second, members are learnt early and the others late, whatever their labels."""
    rng = np.random.default_rng(0)
    clean = rng.random(N) < 0.6
    members = clean ^ (rng.random(N) < 0.1)
    learnt = np.where(clean, rng.gamma(2, 2, (2, N)), rng.gamma(40, 0.5, (2, N)))
    learnt[1] += np.where(members, -3, 3)
    correct = np.arange(EPOCHS)[None, :, None] >= learnt[:, None, :]
    correct &= clean | (rng.random(correct.shape) < 0.8)  # mislabelled samples are forgotten again
    rounds = tuple(
        Round(bitmap.pack(members_of_round), bitmap.pack(bits), bitmap.pack(bits))
        for members_of_round, bits in zip((np.ones(N, dtype=bool), members), correct, strict=True)
    )
    return Recording("simulated_s0", N, bitmap.pack(clean), bitmap.from_indices(range(5), N), rounds)


def test_the_first_way_is_the_selection_but_for_broken_labels(recording: Recording) -> None:
    ours = select([RoundBits(N, r.correct_eval, members=r.members) for r in recording.rounds])
    judgement = WAYS[DEFAULT](Trace.of(recording, 2))
    np.testing.assert_allclose(judgement.suspicion[5:], (ours.scores[5:] / ours.epochs + 1) / 2, atol=1e-6)
    assert (judgement.kept == bitmap.unpack(ours.bitmap, N))[5:].mean() > 0.99


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_tells_kinds_that_stand_apart(recording: Recording, way: str) -> None:
    trace = Trace.of(recording, 2)
    judgement = WAYS[way](trace)
    assert auc(judgement.suspicion, trace.clean) > 0.95
    assert (judgement.kept == trace.clean).mean() > 0.9


def test_the_truth_is_of_others(recording: Recording) -> None:
    """A sample's own count is left out: among samples that are all alike, knowing the truth helps nothing."""
    rng = np.random.default_rng(1)
    bits = bitmap.pack(rng.random((EPOCHS, N)) < 0.5)
    noise = Recording("noise_s0", N, recording.clean, None, (Round(bitmap.full(N), bits, bits),))
    trace = Trace.of(noise, 1)
    assert auc(WAYS["likelihood ratios, known from the truth"](trace).suspicion, trace.clean) < 0.55


def test_sets_are_held_against_their_members(recording: Recording) -> None:
    (second,) = list_overlaps(recording)
    assert second.number == 1
    assert second.by_chance < 0.6 < second.agreement
