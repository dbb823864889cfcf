from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import weibull_min

from mild_core import weibull

Gradient = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
POINTS = np.array([0.0, 0.1, 1.0, 5.0, 40.0, 1e4])
CASES = [(4.0, 1.0), (30.0, 6.0), (0.5, 0.3), (100.0, 30.0)]


def logs(scale: float, shape: float) -> tuple[np.ndarray, np.ndarray]:
    return np.log([[scale]]), np.log([[shape]])


@pytest.mark.parametrize(("scale", "shape"), CASES)
def test_distribution_and_density_agree_with_scipy(scale: float, shape: float) -> None:
    with np.errstate(divide="ignore"):
        log_x = np.log(POINTS)
    expected = weibull_min(shape, scale=scale)
    np.testing.assert_allclose(weibull.distribution(log_x, *logs(scale, shape))[0], expected.cdf(POINTS), atol=1e-12)
    density, _, _ = weibull.density_gradient(log_x[1:], *logs(scale, shape))
    np.testing.assert_allclose(density[0], expected.pdf(POINTS[1:]), rtol=1e-9, atol=1e-250)


@pytest.mark.parametrize(("scale", "shape"), CASES)
@pytest.mark.parametrize("gradient", [weibull.distribution_gradient, weibull.density_gradient])
def test_gradients_agree_with_finite_differences(scale: float, shape: float, gradient: Gradient) -> None:
    log_x, (a, k), h = np.log(POINTS[1:]), logs(scale, shape), 1e-6
    _, by_scale, by_shape = gradient(log_x, a, k)
    numeric = (gradient(log_x, a + h, k)[0] - gradient(log_x, a - h, k)[0]) / (2 * h)
    np.testing.assert_allclose(by_scale, numeric, rtol=1e-4, atol=1e-7)
    numeric = (gradient(log_x, a, k + h)[0] - gradient(log_x, a, k - h)[0]) / (2 * h)
    np.testing.assert_allclose(by_shape, numeric, rtol=1e-4, atol=1e-7)
