"""An audit that calibrates the fit."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from mild_core import bitmap
from mild_core.audit import Annotations, Audit
from mild_core.errors import ParameterError
from mild_core.mixture.mixture import _FitProblem, fit_mixture
from mild_core.mixture.weibull import compute_component_masses
from mild_core.selection import select
from mild_core.types import RoundBits, SelectionOptions

N_BINS = 31


def overlapping(noise: float = 0.3, n_samples: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Counts of misclassified epochs and cleanness, of components that overlap so far that no fit tells them apart."""
    rng = np.random.default_rng(seed)
    masses = compute_component_masses(np.log([10.0, 22.0]), np.log([1.2, 3.2]), N_BINS, open_top=False)
    clean = rng.random(n_samples) >= noise
    drawn = [rng.choice(N_BINS, size=n_samples, p=row / row.sum()) for row in masses]
    return np.where(clean, *drawn), clean


def most_suspicious(z: np.ndarray, n_checked: int) -> np.ndarray:
    """Whom people check first: the highest scores."""
    checked = np.zeros(z.size, dtype=bool)
    checked[np.argsort(-z, kind="stable")[:n_checked]] = True
    return checked


def histograms(z: np.ndarray, clean: np.ndarray, checked: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(z[checked & part], minlength=N_BINS) for part in (clean, ~clean)]).astype(float)


@pytest.mark.parametrize("seed", range(3))
def test_marks_of_the_most_suspicious_samples_bring_the_noise_rate_closer(seed: int) -> None:
    z, clean = overlapping(seed=seed)
    counts = np.bincount(z, minlength=N_BINS).astype(float)
    unchecked = fit_mixture(counts)
    checked = fit_mixture(counts, checked_counts=histograms(z, clean, most_suspicious(z, 1500)))
    assert abs(checked.weights[1] - 0.3) < abs(unchecked.weights[1] - 0.3)
    assert checked.weights[1] == pytest.approx(0.3, abs=0.06)


def test_the_gradient_of_checked_samples_is_that_of_their_likelihood() -> None:
    z, clean = overlapping()
    counts = np.bincount(z, minlength=N_BINS).astype(float)
    problem = _FitProblem("grouped", N_BINS, None, histograms(z, clean, most_suspicious(z, 900)), open_top=False)
    objective, problems = problem.make_objective(counts[None]), np.array([0])
    theta = np.array([-0.4, np.log(8.0), np.log(20.0), 0.2, 1.0])

    def value(point: np.ndarray) -> float:
        return float(objective(point[None], problems).value[0])

    def gradient(point: np.ndarray) -> np.ndarray:
        slope: np.ndarray = objective(point[None], problems).gradient[0]
        return slope

    assert check_grad(value, gradient, theta) < 1e-6


def bits_of(z: np.ndarray) -> RoundBits:
    return RoundBits(z.size, bitmap.pack(np.arange(N_BINS - 1)[:, None] >= z[None, :]))


def test_checked_samples_follow_their_mark_and_the_cut_alone_is_kept_beside() -> None:
    z, clean = overlapping()
    checked = most_suspicious(z, 1500)
    audit = Audit(z.size, bitmap.pack(checked), bitmap.pack(checked & clean))
    selection = select([bits_of(z)], SelectionOptions(audit="fit"), Annotations(audit=audit))
    kept = bitmap.unpack(selection.bitmap, z.size)
    assert np.array_equal(kept[checked], clean[checked])
    cut_bitmap = bitmap.unpack(selection.cut_bitmap, z.size)
    assert np.array_equal(kept[~checked], cut_bitmap[~checked])
    assert not np.array_equal(kept, cut_bitmap)


def test_an_audit_has_no_say_unless_it_is_asked_for() -> None:
    z, clean = overlapping()
    audit = Audit(z.size, bitmap.pack(clean), bitmap.pack(clean))
    plain, measured = select([bits_of(z)]), select([bits_of(z)], SelectionOptions(), Annotations(audit=audit))
    assert np.array_equal(plain.bitmap, measured.bitmap)
    fitted = select([bits_of(z)], SelectionOptions(audit="fit"))
    assert np.array_equal(plain.bitmap, fitted.bitmap)


def test_estimates_know_the_marks() -> None:
    rng = np.random.default_rng(0)
    clean = rng.random(3000) >= 0.3
    z = np.where(clean, rng.poisson(2, 3000), N_BINS - 1 - rng.poisson(1, 3000))
    checked = most_suspicious(z, 800)
    audit = Audit(z.size, bitmap.pack(checked), bitmap.pack(checked & clean))
    selection = select([bits_of(z)], SelectionOptions(audit="fit"), Annotations(audit=audit))
    assert selection.verdict == "separable"
    rate = selection.fitted["noise_rate"]
    assert rate is not None
    assert rate.low <= 0.3 <= rate.high


def test_an_audit_of_other_samples_is_refused() -> None:
    z, _ = overlapping()
    with pytest.raises(ParameterError, match="audit is of 9 samples"):
        select([bits_of(z)], SelectionOptions(audit="fit"), Annotations(audit=Audit.empty(9)))
