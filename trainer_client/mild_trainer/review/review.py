"""``mild review``: the samples of a run in the order in which people should check them, and what they found."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import Audit
from mild_trainer.errors import ReviewError

Order: TypeAlias = Literal["suspicious", "uncertain", "random"]

COLUMNS = ("index", "id", "given_label", "suggested_label", "score", "noisy_posterior", "kept", "mark")
"""Of a list; a file of marks needs the first and the last."""
_MARKS = {"clean": True, "wrong": False}


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What is known of all samples of a run.

    Attributes
    ----------
    scores, noisy_posterior
        Shape (n_samples,); NaN where there is none.
    kept
        Shape (n_samples,), booleans: the clean set.
    audit
        What was checked before.
    """

    scores: NDArray[np.float32]
    noisy_posterior: NDArray[np.float32]
    kept: NDArray[np.bool_]
    audit: Audit


def ranked(judged: Judged, order: Order, seed: int = 0) -> NDArray[np.int64]:
    """All samples in the order to check them in, shape (n_samples,); those that were checked come last.

    Parameters
    ----------
    judged
        The samples.
    order
        ``suspicious``: the likeliest to be mislabelled first, by their probability, then by their score, the dropped
        before the kept; ``uncertain``: the nearest to a probability of one half first; ``random``.
    seed
        Of a random order.
    """
    known, _ = judged.audit.masks
    # A sample without a figure was not judged: it comes behind those that were.
    noisy = np.nan_to_num(judged.noisy_posterior.astype(np.float64), nan=-1.0)
    score = np.nan_to_num(judged.scores.astype(np.float64), nan=-np.inf)
    keys = {
        "suspicious": (-score, judged.kept, -noisy),
        "uncertain": (-score, np.abs(noisy - 0.5)),
        "random": (np.random.default_rng([seed, 3]).random(known.size),),
    }[order]
    return np.lexsort((*keys, known)).astype(np.int64)


def row(judged: Judged, index: int, name: str | None, given: int | None, suggested: int | None) -> tuple[str, ...]:
    """One line of a list, in the order of `COLUMNS`; what is not known is empty."""
    mark = judged.audit.get_mark(index)
    return (
        str(index),
        name or "",
        "" if given is None else str(given),
        "" if suggested is None else str(suggested),
        _number(judged.scores[index]),
        _number(judged.noisy_posterior[index]),
        "yes" if judged.kept[index] else "no",
        "" if mark is None else "clean" if mark else "wrong",
    )


def write(path: Path, lines: Sequence[tuple[str, ...]]) -> None:
    """Write a list.

    Raises
    ------
    ReviewError
        If the file exists: it may hold marks.
    """
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *lines])
    except FileExistsError:
        raise exists(path) from None


def exists(path: Path) -> ReviewError:
    """What is said of a list that is there already."""
    return ReviewError(f"{path} exists and may hold marks; give another --out, or remove it")


def write_set(path: Path, summary: dict[str, Any], indices: NDArray[np.int64]) -> None:
    """Write a set's indices as ``.npy``, and say on stderr what it is.

    Raises
    ------
    ReviewError
        If the file is named otherwise.
    """
    if path.suffix != ".npy":
        raise ReviewError(f"the set {path} ends in {path.suffix!r}; give a file that ends in .npy")
    np.save(path, indices, allow_pickle=False)
    rate = summary["estimated"]["noise_rate"]
    wrong = "" if rate is None else f", noise rate {rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
    print(f"{path}: {indices.size} samples that the marks leave, fit {summary['verdict']}{wrong}", file=sys.stderr)


def read_marks(path: Path, n_samples: int) -> Audit:
    """Read the marks of a list: lines whose mark is ``clean`` or ``wrong``; empty marks are passed over.

    Raises
    ------
    ReviewError
        If a column is missing, a line cannot be read, or there is no mark.
    SampleIndexError
        If an index lies outside ``0..n_samples-1``.
    InvalidInput
        If a sample is marked both ways.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file)
            missing = {"index", "mark"} - set(reader.fieldnames or ())
            if missing:
                raise ReviewError(
                    f"{path} lacks the column {sorted(missing)[0]!r}; give a list as mild review writes it"
                )
            marks = [_mark(path, reader.line_num, line) for line in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReviewError(f"{path} is no CSV ({error}); give a list as mild review writes it") from error
    found = [mark for mark in marks if mark is not None]
    if not found:
        raise ReviewError(f"{path} holds 0 marks, at least 1 is needed; write clean or wrong into the column `mark`")
    return Audit.from_marks([index for index, _ in found], [clean for _, clean in found], n_samples)


def _mark(path: Path, number: int, line: dict[str, Any]) -> tuple[int, bool] | None:
    text = (line["mark"] or "").strip().lower()
    if not text:
        return None
    if text not in _MARKS:
        raise ReviewError(f"{path} line {number}: mark is {text!r}; write clean or wrong, or leave it empty")
    index = (line["index"] or "").strip()
    if not (index.isascii() and index.isdigit()):
        raise ReviewError(f"{path} line {number}: index is {index!r}; give the sample's number")
    return int(index), _MARKS[text]


def _number(value: np.floating) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
