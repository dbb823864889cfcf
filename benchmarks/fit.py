"""Mixture fits of 50,000 scores, compared with the peers' fits of the same values.

The scores are misclassified epochs of 100, from a clean and a noisy Weibull component (40% noisy). Our time includes
the histogram of the scores. The peers are reliability's ``Fit_Weibull_Mixture`` and surpyval's ``MixtureModel``, both
of which fit a density; `density` must reach their likelihood. Then the time from packed bits to a selection, for
several numbers of samples. Needs ``pip install -e ".[bench]"``.
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


def draw_scores(n_samples: int) -> np.ndarray:
    """Draw the misclassified epochs of samples, shape (n_samples,)."""
    rng = np.random.default_rng(0)
    noisy = rng.random(n_samples) < 0.4
    values = np.where(
        noisy,
        weibull_min(6.0, scale=75.0).rvs(n_samples, random_state=1),
        weibull_min(1.2, scale=15.0).rvs(n_samples, random_state=2),
    )
    return np.clip(np.floor(values), 0, N_EPOCHS).astype(np.int64)


def fit_ours(values: np.ndarray, kind: Fit) -> Mixture:
    return fit_mixture(np.bincount(values, minlength=N_EPOCHS + 1).astype(np.float64), kind)


def list_peers(values: np.ndarray) -> dict[str, tuple[Callable[[], object], Callable[[], float]]]:
    """List a function for each peer's fit, and one for its log-likelihood."""
    import surpyval
    from reliability.Fitters import Fit_Weibull_Mixture

    positive = np.where(values == 0, 0.1, values.astype(np.float64))

    def fit_reliability() -> object:
        return Fit_Weibull_Mixture(failures=positive, show_probability_plot=False, print_results=False)

    def fit_surpyval() -> object:
        return surpyval.MixtureModel(dist=surpyval.Weibull, m=2).fit(x=positive)

    return {
        "reliability": (fit_reliability, lambda: float(fit_reliability().loglik)),  # type: ignore[attr-defined] # untyped peer
        "surpyval": (fit_surpyval, lambda: -float(fit_surpyval().neg_ll())),  # type: ignore[attr-defined] # untyped peer
    }


def make_round(n_samples: int) -> RoundBits:
    """Make a round with the counts of `draw_scores`."""
    return RoundBits(n_samples, bitmap.pack(np.arange(N_EPOCHS)[:, None] >= draw_scores(n_samples)[None, :]))


def measure(options: Namespace) -> Report:
    values = draw_scores(50_000)
    peers = list_peers(values)
    kinds: tuple[Fit, ...] = ("density", "tailed", "anchored", "grouped", "censored")
    works: list[Callable[[], object]] = [partial(fit_ours, values, kind) for kind in kinds]
    works += [fit for fit, _ in peers.values()]
    times = dict(zip([*kinds, *peers], time_interleaved(works, options.repeats, warm=1), strict=True))
    likelihood = fit_ours(values, "density").log_likelihood
    claims = [
        Claim(f"fit `{kind}` is faster than that of {peer}", times[peer] / times[kind], "at least", bar, "{:.0f} x")
        for (kind, peer), bar in BARS.items()
    ]
    for name, (_, log_likelihood) in peers.items():
        nats = likelihood - log_likelihood()
        claims.append(
            Claim(f"`density` is as likely as the fit of {name}", nats, "at least", -0.01, "{:.2f} nats more")
        )
    sizes = (50_000, 500_000, 1_000_000)
    rounds = [make_round(n) for n in sizes]
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
