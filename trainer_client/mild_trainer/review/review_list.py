"""The list of ``mild review``: samples in the order of checking, as CSV, and the marks that people add."""

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
"""Columns of a list; a file of marks needs the first and the last."""
_MARKS = {"clean": True, "wrong": False}


@dataclass(frozen=True, slots=True, eq=False)
class ScoredSamples:
    """Scores and selection of all samples of a run.

    Attributes
    ----------
    scores, noisy_posterior
        Shape (n_samples,); NaN where there is none.
    kept
        Shape (n_samples,), booleans: the clean set.
    audit
        Marks of samples that were checked before.
    """

    scores: NDArray[np.float32]
    noisy_posterior: NDArray[np.float32]
    kept: NDArray[np.bool_]
    audit: Audit


def rank_samples(samples: ScoredSamples, order: Order, seed: int = 0) -> NDArray[np.int64]:
    """Return all samples in the order of checking, shape (n_samples,); samples that were checked come last.

    Parameters
    ----------
    samples
        The samples with their scores.
    order
        ``suspicious``: by decreasing probability of being mislabelled, then dropped before kept, then by score;
        ``uncertain``: by the distance of the probability from one half; ``random``.
    seed
        Seed of a random order.
    """
    is_marked, _ = samples.audit.masks
    # Samples without scores come after those with scores.
    noisy = np.nan_to_num(samples.noisy_posterior.astype(np.float64), nan=-1.0)
    score = np.nan_to_num(samples.scores.astype(np.float64), nan=-np.inf)
    sort_keys = {
        "suspicious": (-score, samples.kept, -noisy),
        "uncertain": (-score, np.abs(noisy - 0.5)),
        "random": (np.random.default_rng([seed, 3]).random(is_marked.size),),
    }[order]
    return np.lexsort((*sort_keys, is_marked)).astype(np.int64)


def format_row(
    samples: ScoredSamples, index: int, name: str | None, given: int | None, suggested: int | None
) -> tuple[str, ...]:
    """Format one row of a list, with the `COLUMNS`; unknown values are empty."""
    mark = samples.audit.get_mark(index)
    return (
        str(index),
        name or "",
        "" if given is None else str(given),
        "" if suggested is None else str(suggested),
        _format_score(samples.scores[index]),
        _format_score(samples.noisy_posterior[index]),
        "yes" if samples.kept[index] else "no",
        "" if mark is None else "clean" if mark else "wrong",
    )


def write(path: Path, lines: Sequence[tuple[str, ...]]) -> None:
    """Write a list as CSV.

    Raises
    ------
    ReviewError
        If the file exists: it may hold marks.
    """
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *lines])
    except FileExistsError:
        raise make_exists_error(path) from None


def make_exists_error(path: Path) -> ReviewError:
    """Make the error of a list that exists already."""
    return ReviewError(f"{path} exists and may hold marks; give another --out, or remove it")


def write_set(path: Path, summary: dict[str, Any], indices: NDArray[np.int64]) -> None:
    """Write a clean set's indices as ``.npy``, and print a summary to stderr.

    Raises
    ------
    ReviewError
        If the suffix is not ``.npy``.
    """
    if path.suffix != ".npy":
        raise ReviewError(f"the set {path} ends in {path.suffix!r}; give a file that ends in .npy")
    np.save(path, indices, allow_pickle=False)
    rate = summary["estimated"]["noise_rate"]
    wrong = "" if rate is None else f", noise rate {rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
    print(f"{path}: {indices.size} samples that the marks leave, fit {summary['verdict']}{wrong}", file=sys.stderr)


def read_marks(path: Path, n_samples: int) -> Audit:
    """Read the marks ``clean`` and ``wrong`` of a list; empty marks are ignored.

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
            marks = [_parse_mark(path, reader.line_num, line) for line in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReviewError(f"{path} is no CSV ({error}); give a list as mild review writes it") from error
    parsed_marks = [mark for mark in marks if mark is not None]
    if not parsed_marks:
        raise ReviewError(f"{path} holds 0 marks, at least 1 is needed; write clean or wrong into the column `mark`")
    return Audit.from_marks([index for index, _ in parsed_marks], [clean for _, clean in parsed_marks], n_samples)


def _parse_mark(path: Path, number: int, line: dict[str, Any]) -> tuple[int, bool] | None:
    text = (line["mark"] or "").strip().lower()
    if not text:
        return None
    if text not in _MARKS:
        raise ReviewError(f"{path} line {number}: mark is {text!r}; write clean or wrong, or leave it empty")
    index = (line["index"] or "").strip()
    if not (index.isascii() and index.isdigit()):
        raise ReviewError(f"{path} line {number}: index is {index!r}; give the sample's number")
    return int(index), _MARKS[text]


def _format_score(value: np.floating) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
