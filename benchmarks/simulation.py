"""Two-Weibull mixtures of counts drawn from known parameters, and the least errors that a fit of them can have.

Each can be drawn in two ways from the same parameters: *truncated*, where a component ends with the top bin, as the
fits `anchored` and `grouped` assume; and *piled up*, where the mass beyond the last epoch is in the top bin, as
`censored` assumes.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.stats import norm, weibull_min

from mild_core.mixture.mixture import Mixture
from mild_core.mixture.weibull import FAMILIES, TINY, Floats, compute_component_masses, make_likelihood
from mild_core.types import Fit

Way: TypeAlias = Literal["truncated", "piled up"]
MATCHING: dict[Way, Fit] = {"truncated": "grouped", "piled up": "censored"}
"""The fit without narrow bounds that has the likelihood of the draw."""
SCALES = (0.7, 3.0)
"""Scales of the noisy component, of the number of epochs; those of the clean one lie below."""
SHAPES = ((0.6, 6.0), (3.0, 10.0))
"""Shapes of the clean and of the noisy component."""
_MEDIAN_OF_NORMAL = float(norm.ppf(0.75))
"""Median of the absolute value of a standard normal variable."""


@dataclass(frozen=True, slots=True)
class Truth:
    """True parameters; pairs hold the clean component first, scales are in epochs."""

    n_epochs: int
    weight: float
    scales: tuple[float, float]
    shapes: tuple[float, float]

    @property
    def beyond(self) -> float:
        """Share of the noisy component beyond the last epoch, which piles up in the top bin."""
        return float(weibull_min(self.shapes[1], scale=self.scales[1]).sf(self.n_epochs))

    def make_mixture(self, way: Way) -> Mixture:
        """Make the mixture that a perfect fit would return."""
        kind = MATCHING[way]
        scales, shapes = np.array(self.scales), np.array(self.shapes)
        (open_top,) = FAMILIES[kind].tops
        masses = compute_component_masses(np.log(scales), np.log(shapes), self.n_epochs + 1, open_top=open_top)
        means = masses @ np.arange(self.n_epochs + 1)
        weights = np.array([1 - self.weight, self.weight])
        return Mixture(kind, weights, scales, shapes, means, masses, np.nan, open_top)

    def draw_histograms(self, way: Way, n_samples: int, rng: np.random.Generator) -> Floats:
        """Draw the scores of clean and of mislabelled samples, shape (2, n_bins)."""
        n_noisy = rng.binomial(n_samples, self.weight)
        rows = []
        for size, scale, shape in zip((n_samples - n_noisy, n_noisy), self.scales, self.shapes, strict=True):
            component = weibull_min(shape, scale=scale)
            inside = component.cdf(self.n_epochs + 1) if way == "truncated" else 1.0
            scores = np.minimum(np.floor(component.ppf(rng.random(size) * inside)), self.n_epochs)
            rows.append(np.bincount(scores.astype(np.int64), minlength=self.n_epochs + 1))
        return np.array(rows, dtype=np.float64)


def draw_truth(rng: np.random.Generator, beyond: tuple[float, float]) -> Truth:
    """Draw a mixture of 8 to 300 epochs and 2 to 90% mislabelled, its scales and shapes within `SCALES` and `SHAPES`.

    The noisy component has the larger mean, and a share within `beyond` past the last epoch.
    """

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    while True:
        n_epochs = round(log_uniform(8, 300))
        # With a clean scale below half an epoch nearly all samples are in bin 0, which no fit can resolve.
        clean_scale = log_uniform(max(0.5, 0.02 * n_epochs), SCALES[0] * n_epochs)
        noisy_scale = log_uniform(*SCALES) * n_epochs
        clean_shape, noisy_shape = (log_uniform(*bounds) for bounds in SHAPES)
        truth = Truth(n_epochs, float(rng.uniform(0.02, 0.9)), (clean_scale, noisy_scale), (clean_shape, noisy_shape))
        if beyond[0] <= truth.beyond <= beyond[1] and np.diff(truth.make_mixture("piled up").means) > 0:
            return truth


def compute_attainable_errors(truth: Truth, way: Way, n_samples: int) -> tuple[float, float, float]:
    """Compute the median errors of both scales (relative) and of the weight that the Fisher information allows."""
    mixture = truth.make_mixture(way)
    likelihood = make_likelihood(mixture.kind, truth.n_epochs + 1, None, open_top=mixture.open_top)
    cell = likelihood(np.log(mixture.scales)[None, :, None], np.log(mixture.shapes)[None, :, None])
    by_weight = cell.value[0, 1] - cell.value[0, 0]
    of_each = mixture.weights[:, None]
    jacobian = np.concatenate((by_weight[None], *(of_each * slope[0] for slope in cell.first)))
    information = n_samples * (jacobian / np.maximum(mixture.densities.sum(axis=0), TINY)) @ jacobian.T
    unit = np.sqrt(np.maximum(information.diagonal(), TINY))
    variances = np.linalg.pinv(information / np.outer(unit, unit), rcond=1e-13, hermitian=True).diagonal() / unit**2
    weight, clean, noisy = (float(error) for error in _MEDIAN_OF_NORMAL * np.sqrt(variances[:3]))
    return clean, noisy, weight
