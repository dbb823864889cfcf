"""Mixture fits on 50,000 scores against the peers' fits of the same values.

The scores are misclassified epochs of 100, from a clean and a noisy Weibull component (40% noisy). Ours start from the
scores themselves: the histogram is part of the time. The peers are reliability's ``Fit_Weibull_Mixture`` and
surpyval's ``MixtureModel``, both of which fit a density; `density` must reach their likelihood. Then the time from
packed bits to a selection, for growing numbers of samples. Needs ``pip install -e ".[bench]"``.
"""

import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.stats import weibull_min

from benchmarks.claims import Benchmark, Claim, Report, format_table
from benchmarks.timing import time_interleaved
from mild_core import bitmap
from mild_core.mixture.mixture import Mixture, fit_mixture
from mild_core.selection import select
from mild_core.types import Fit, RoundBits

N_EPOCHS = 100
BARS = {("density", "reliability"): 300, ("density", "surpyval"): 100, ("anchored", "reliability"): 100}
BARS |= {("anchored", "surpyval"): 40, ("tailed", "reliability"): 100, ("tailed", "surpyval"): 40}


def scores(n_samples: int) -> np.ndarray:
    """Misclassified epochs, shape (n_samples,)."""
    rng = np.random.default_rng(0)
    noisy = rng.random(n_samples) < 0.4
    drawn = np.where(
        noisy,
        weibull_min(6.0, scale=75.0).rvs(n_samples, random_state=1),
        weibull_min(1.2, scale=15.0).rvs(n_samples, random_state=2),
    )
    return np.clip(np.floor(drawn), 0, N_EPOCHS).astype(np.int64)


def ours(values: np.ndarray, kind: Fit) -> Mixture:
    return fit_mixture(np.bincount(values, minlength=N_EPOCHS + 1).astype(np.float64), kind)


def peers(values: np.ndarray) -> dict[str, tuple[Callable[[], object], Callable[[], float]]]:
    """Each peer's fit, and its log-likelihood."""
    import surpyval
    from reliability.Fitters import Fit_Weibull_Mixture

    positive = np.where(values == 0, 0.1, values.astype(np.float64))

    def reliability_fit() -> object:
        return Fit_Weibull_Mixture(failures=positive, show_probability_plot=False, print_results=False)

    def surpyval_fit() -> object:
        return surpyval.MixtureModel(dist=surpyval.Weibull, m=2).fit(x=positive)

    return {
        "reliability": (reliability_fit, lambda: float(reliability_fit().loglik)),  # type: ignore[attr-defined] # untyped peer
        "surpyval": (surpyval_fit, lambda: -float(surpyval_fit().neg_ll())),  # type: ignore[attr-defined] # untyped peer
    }


def packed(n_samples: int) -> RoundBits:
    """A round whose counts are those of `scores`."""
    return RoundBits(n_samples, bitmap.pack(np.arange(N_EPOCHS)[:, None] >= scores(n_samples)[None, :]))


def measure(options: Namespace) -> Report:
    values = scores(50_000)
    others = peers(values)
    kinds: tuple[Fit, ...] = ("density", "tailed", "anchored", "grouped", "censored")
    works: list[Callable[[], object]] = [partial(ours, values, kind) for kind in kinds]
    works += [fit for fit, _ in others.values()]
    times = dict(zip([*kinds, *others], time_interleaved(works, options.repeats, warm=1), strict=True))
    likelihood = ours(values, "density").log_likelihood
    claims = [
        Claim(f"fit `{kind}` is faster than that of {peer}", times[peer] / times[kind], "at least", bar, "{:.0f} x")
        for (kind, peer), bar in BARS.items()
    ]
    for name, (_, log_likelihood) in others.items():
        nats = likelihood - log_likelihood()
        claims.append(
            Claim(f"`density` is as likely as the fit of {name}", nats, "at least", -0.01, "{:.2f} nats more")
        )
    sizes = (50_000, 500_000, 1_000_000)
    rounds = [packed(n) for n in sizes]
    growth = time_interleaved([partial(select, [bits]) for bits in rounds], options.repeats)
    text = [
        *format_table(
            ("fit of 50,000 scores", "milliseconds"), [(name, f"{t * 1e3:.1f}") for name, t in times.items()]
        ),
        "",
        *format_table(
            ("packed bits to a selection, 100 epochs", "milliseconds", "nanoseconds a sample"),
            [(f"{n:,} samples", f"{t * 1e3:.1f}", f"{t / n * 1e9:.0f}") for n, t in zip(sizes, growth, strict=True)],
        ),
    ]
    return Report("Fits", claims, f"Medians of {options.repeats} interleaved runs.", text)


BENCHMARK = Benchmark(
    "fit",
    "docs/method.md#fitted-the-mixture",
    measure,
    options={"repeats": 5},
    short={"repeats": 2},
    packages=("numpy", "scipy", "reliability", "surpyval"),
)


if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
