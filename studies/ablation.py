"""Every number that decides a selection: removed, halved and doubled, on the choosing half of the recordings.

Replaces one constant of `mild_core` at a time and selects from every sequence of the choosing half with the default
options. Trainings that are still learning count in the last column alone. A number that can be removed without a loss
has not earned its place. ``--only`` limits the table to constants whose name contains a text.
"""

import importlib
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import Pool
from typing import Any

import numpy as np

from benchmarks.claims import Benchmark, Report, format_table
from benchmarks.recordings import FOLDER, load_recordings
from benchmarks.selection import MIN_EPOCHS, Trace, sequences
from mild_core import bitmap, selection
from mild_core.mixture import tails, weibull
from mild_core.selection import select

_MODULES = ("forgetting", "learning", "proportions", "selection", "threshold", "verdict", "mixture.mixture")


@dataclass(frozen=True, slots=True)
class Constant:
    """One number that decides.

    Attributes
    ----------
    name
        What it is called in the table.
    value
        Its value.
    neutral
        The value that takes it out of all decisions; None if there is none.
    replace
        Sets it to another value.
    """

    name: str
    value: float
    neutral: float | None
    replace: Callable[[float], None]


def list_constants() -> Iterator[Constant]:
    """List the constants: those of modules, and the bounds and tails of the default fit."""
    neutral: dict[str, float | None] = {
        "MIN_BINS": None,
        "MIN_SAMPLES": 2,
        "MIN_DISTINCT": 2,
        "SEPARABLE_DISTANCE": -np.inf,
        "FORGETTING_LIMIT": np.inf,
        "SEPARABLE_FORGETTING": np.inf,
        "SEPARABLE_MEMORISATION": np.inf,
        "SINGLE_WEIGHT": 0.0,
        "SINGLE_CLEAN_MEAN": np.inf,
        "SINGLE_F1_GAIN": 0.0,
        "MIN_PLANTED": 1,
        "Z": 0.0,
        "LEARNING_Z": np.inf,
        "LEARNING_UNLEARNT": np.inf,
        "_OPEN_TOP_GAIN": 0.0,
    }
    for name, without in neutral.items():
        owners = [module for module in map(_import, _MODULES) if hasattr(module, name)]
        if owners:
            yield Constant(name, getattr(owners[0], name), without, _replace_in(owners, name))
    (_, scale_split), (clean_shape, _) = weibull.FAMILIES["tailed"].scale[0], weibull.FAMILIES["tailed"].shape[0]
    yield Constant("clean scale below, noisy above, of E", scale_split, None, _replace_scale_split)
    yield Constant("clean shape from", clean_shape, 0.1, _replace_bound(("anchored", "tailed"), 0, 0))
    for kind, low, high in (("anchored", 3.0, 10.0), ("tailed", 5.0, 30.0)):
        yield Constant(f"noisy shape from, {kind}", low, 0.1, _replace_bound((kind,), 1, 0))
        yield Constant(f"noisy shape to, {kind}", high, 1e3, _replace_bound((kind,), 1, 1))
    yield Constant("noisy tail's weight, of q", 0.5, 0.0, _replace_noisy_tail)


def _import(name: str) -> Any:
    return importlib.import_module(f"mild_core.{name}")


def _replace_in(modules: Sequence[Any], name: str) -> Callable[[float], None]:
    def set_value(value: float) -> None:
        for module in modules:
            setattr(module, name, value)

    return set_value


def _replace_scale_split(value: float) -> None:
    for kind in ("anchored", "tailed"):
        family = weibull.FAMILIES[kind]
        (low, _), (_, high) = family.scale
        weibull.FAMILIES[kind] = replace(family, scale=((low, value), (value, high)))


def _replace_bound(kinds: Sequence[str], component: int, side: int) -> Callable[[float], None]:
    def set_value(value: float) -> None:
        for kind in kinds:
            family = weibull.FAMILIES[kind]  # type: ignore[index]  # names of fits
            shape = [list(bounds) for bounds in family.shape]
            shape[component][side] = value
            weibull.FAMILIES[kind] = replace(family, shape=tuple(map(tuple, shape)))  # type: ignore[index,arg-type]  # pairs of bounds

    return set_value


def _replace_noisy_tail(value: float) -> None:
    tails._SHARE = np.array([1.0, value])[:, None]


@contextmanager
def _restored() -> Iterator[None]:
    """Restore all constants afterwards."""
    families, share = dict(weibull.FAMILIES), tails._SHARE
    before = [(constant, constant.value) for constant in list_constants()]
    try:
        yield
    finally:
        for constant, value in before:
            constant.replace(value)
        weibull.FAMILIES.update(families)
        tails._SHARE = share


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the choosing half comes to.

    Attributes
    ----------
    mean, worst
        Gap in F1 to the best cut in hindsight.
    dropped
        Mean share that is dropped where nothing is wrong.
    wrong
        Number of sequences that are called ``separable`` without noise, with a gap above 0.05, or while still learning.
    """

    mean: float
    worst: float
    dropped: float
    wrong: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}, {self.worst:.3f}, {self.dropped:.1%}, {self.wrong}"


def decide(traces: Sequence[Trace]) -> Outcome:
    """Select from every sequence with the default options."""
    gaps, dropped, wrong = [], [], 0
    for trace in traces:
        chosen = select(trace.rounds)
        kept = bitmap.unpack(chosen.bitmap, chosen.n_samples) & trace.judged
        gap = trace.hindsight() - trace.f1(kept)
        is_clean, is_learning = bool(trace.clean[trace.judged].all()), trace.name.startswith("learning")
        wrong += chosen.verdict == "separable" and (is_clean or is_learning or gap > 0.05)
        if not is_learning:
            gaps.append(gap)
            if is_clean:
                dropped.append(1 - kept.sum() / trace.judged.sum())
    return Outcome(float(np.mean(gaps)), max(gaps), float(np.mean(dropped)), wrong)


_traces: list[Trace] = []


def _decide_with(change: tuple[str, float] | None) -> Outcome:
    """Decide with one constant changed."""
    if not _traces:
        for folder in (FOLDER, FOLDER / "families"):
            _traces.extend(
                t for t in sequences(load_recordings("choosing", folder)) if t.rounds[0].n_epochs >= MIN_EPOCHS
            )
        selection._estimate_curves = lambda *_: None  # decides nothing, and takes long
    with _restored():
        if change is not None:
            next(constant for constant in list_constants() if constant.name == change[0]).replace(change[1])
        return decide(_traces)


def _vary(value: float) -> tuple[float, float]:
    """Return half of a value and twice the value; whole numbers stay whole."""
    return (value // 2 if isinstance(value, int) else value / 2), value * 2


def measure(options: Namespace) -> Report:
    constants = [constant for constant in list_constants() if options.only in constant.name]
    changes: list[tuple[str, float] | None] = [None]
    for constant in constants:
        values = _vary(constant.value)
        changes += [(constant.name, value) for value in [constant.neutral, *values] if value is not None]
    with Pool(2) as pool:
        outcomes = dict(zip(changes, pool.imap(_decide_with, changes), strict=True))
    rows = []
    for constant in constants:
        tried = (constant.neutral, *_vary(constant.value))
        cells = ["" if value is None else str(outcomes[constant.name, value]) for value in tried]
        rows.append((constant.name, f"{constant.value:g}", *cells))
    about = (
        f"As it is: {outcomes[None]}. Figures: mean and worst gap in F1 to the best cut in hindsight, share dropped "
        "where nothing is wrong, number of sequences that are `separable` where that is wrong."
    )
    text = format_table(("number", "value", "removed", "halved", "doubled"), rows)
    return Report("Every number that decides", [], about, text)


STUDY = Benchmark("ablation", "docs/method.md#constants", measure, options={"only": ""}, packages=("numpy",))


if __name__ == "__main__":
    sys.exit(STUDY.main())
