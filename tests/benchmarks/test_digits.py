from dataclasses import replace

import pytest

from benchmarks import digits
from benchmarks.digits import Outcome


def outcome(noise: str, seed: int, f1: list[float], loop: str = "ours") -> Outcome:
    n_rounds = len(f1)
    return Outcome(
        loop=loop,
        noise=noise,
        seed=seed,
        delivered=n_rounds - 1,
        precision=f1,
        recall=f1,
        f1=f1,
        test_accuracy=[0.8 + 0.01 * r for r in range(n_rounds)],
        fitted_noise=[None] * (n_rounds - 1) + [0.35],
        verdict=["weak"] * n_rounds,
        true_noise=0.36,
        seconds=1.0,
    )


def test_claims_hold_of_good_runs_and_not_of_one_that_falls() -> None:
    good = [outcome("symmetric:0.8", seed, [0.85, 0.9]) for seed in range(3)]
    assert all(claim.holds for claim in digits.claim("symmetric:0.8", good))
    falling = [*good, outcome("symmetric:0.8", 3, [0.95, 0.92])]
    missed = [claim.text for claim in digits.claim("symmetric:0.8", falling) if not claim.holds]
    assert missed == ["digits, symmetric:0.8: F1 of the set less that of round 1, least"]


def test_a_last_round_that_keeps_everyone_is_not_what_is_delivered() -> None:
    delivered = replace(outcome("symmetric:0.8", 0, [0.85, 0.9, 0.44]), delivered=1)
    assert all(claim.holds for claim in digits.claim("symmetric:0.8", [replace(delivered, fitted_noise=[0.36] * 3)]))


def test_the_table_has_a_row_for_each_loop_and_for_keeping_everything() -> None:
    runs = [outcome("pairflip:0.4", 0, [0.8, 0.9]), outcome("pairflip:0.4", 0, [0.7], loop="published")]
    rows = digits.table(runs)
    assert [row.split(" | ")[1] for row in rows[2:]] == ["ours", "published", "keep everything"]
    assert "0.900 (0.900 to 0.900)" in rows[2]
    assert "0.780 (0.780 to 0.780)" in rows[4]


def test_no_estimate_counts_as_the_largest_error() -> None:
    run = outcome("symmetric:0.4", 0, [0.9])
    assert run.noise_error == pytest.approx(0.01)
    run.fitted_noise[-1] = None
    assert run.noise_error == 1.0
