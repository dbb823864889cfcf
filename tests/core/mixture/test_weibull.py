from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import weibull_min

from mild_core.mixture import weibull

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray], weibull.Derivatives]
POINTS = np.array([0.0, 0.1, 1.0, 5.0, 40.0, 1e4])
CASES = [(4.0, 1.0), (30.0, 6.0), (0.5, 0.3), (100.0, 30.0)]


def logs(scale: float, shape: float) -> tuple[np.ndarray, np.ndarray]:
    return np.log([[scale]]), np.log([[shape]])


@pytest.mark.parametrize(("scale", "shape"), CASES)
def test_distribution_and_density_agree_with_scipy(scale: float, shape: float) -> None:
    with np.errstate(divide="ignore"):
        log_x = np.log(POINTS)
    expected = weibull_min(shape, scale=scale)
    np.testing.assert_allclose(weibull.compute_cdf(log_x, *logs(scale, shape))[0], expected.cdf(POINTS), atol=1e-12)
    density = weibull.compute_pdf_derivatives(log_x[1:], *logs(scale, shape)).value
    np.testing.assert_allclose(density[0], expected.pdf(POINTS[1:]), rtol=1e-9, atol=1e-250)


@pytest.mark.parametrize(("scale", "shape"), CASES)
@pytest.mark.parametrize("formula", [weibull.compute_cdf_derivatives, weibull.compute_pdf_derivatives])
def test_derivatives_agree_with_finite_differences(scale: float, shape: float, formula: Formula) -> None:
    log_x, (a, k), h = np.log(POINTS[1:]), logs(scale, shape), 1e-6
    here, right, left = formula(log_x, a, k), formula(log_x, a + h, k), formula(log_x, a - h, k)
    up, down = formula(log_x, a, k + h), formula(log_x, a, k - h)
    aa, kk, ak = here.second
    for exact, after, before in (
        (here.first[0], right.value, left.value),
        (here.first[1], up.value, down.value),
        (aa, right.first[0], left.first[0]),
        (ak, up.first[0], down.first[0]),
        (ak, right.first[1], left.first[1]),
        (kk, up.first[1], down.first[1]),
    ):
        np.testing.assert_allclose(exact, (after - before) / (2 * h), rtol=1e-4, atol=1e-6)
