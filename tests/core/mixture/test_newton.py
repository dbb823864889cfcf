from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from mild_core.mixture.newton import Objective, QuadraticModel, minimise

FREE = np.array([-np.inf, -np.inf]), np.array([np.inf, np.inf])


def of(function: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Objective:
    def objective(theta: np.ndarray, _: NDArray[np.intp]) -> QuadraticModel:
        value, gradient, hessian = function(theta)
        return QuadraticModel(value, gradient, hessian, np.ones_like(theta))

    return objective


def rosenbrock(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = t.T
    rise = y - x * x
    gradient = np.stack((-2 * (1 - x) - 400 * x * rise, 200 * rise), axis=1)
    hessian = np.empty((len(t), 2, 2))
    hessian[:, 0, 0] = 2 - 400 * rise + 800 * x * x
    hessian[:, 0, 1] = hessian[:, 1, 0] = -400 * x
    hessian[:, 1, 1] = 200
    return (1 - x) ** 2 + 100 * rise**2, gradient, hessian


def test_problems_reach_their_minimum_together_from_different_starts() -> None:
    starts = np.array([[-1.2, 1.0], [2.0, -3.0], [0.0, 0.0], [1.0, 1.0]])
    theta, value = minimise(of(rosenbrock), starts, *FREE)
    np.testing.assert_allclose(theta, 1.0, atol=1e-3)
    assert (value <= rosenbrock(starts)[0]).all()


def test_a_minimum_outside_the_bounds_is_met_at_the_bound() -> None:
    low, high = np.array([-2.0, -2.0]), np.array([0.5, 2.0])
    theta, _ = minimise(of(rosenbrock), np.array([[-1.0, 0.0]]), low, high)
    np.testing.assert_allclose(theta, [[0.5, 0.25]], atol=1e-4)


def test_a_step_descends_where_the_curvature_is_negative() -> None:
    def double_well(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value = ((t**2 - 1) ** 2).sum(axis=1)
        return value, 4 * t * (t**2 - 1), np.stack([np.diag(row) for row in 12 * t**2 - 4])

    theta, value = minimise(of(double_well), np.array([[0.1, -0.1]]), *FREE)
    np.testing.assert_allclose(theta, [[1.0, -1.0]], atol=1e-4)
    assert value == pytest.approx(0, abs=1e-7)


def test_what_has_no_minimum_is_given_up() -> None:
    def slope(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return -t.sum(axis=1), -np.ones_like(t), np.stack([np.eye(2)] * len(t))

    theta, _ = minimise(of(slope), np.zeros((1, 2)), *FREE)
    assert np.isfinite(theta).all()
    assert (theta > 10).all()
