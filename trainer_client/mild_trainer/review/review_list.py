"""The list of ``mild review``: a CSV of samples to check, and the marks that people add to it."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mild_core.audit import ANSWERS, Audit
from mild_core.inspect.suspicion import TieBreaks, rank_by_suspicion
from mild_trainer import clean_set
from mild_trainer.clean_set import CleanSet
from mild_trainer.data import files
from mild_trainer.errors import ReviewError

Order: TypeAlias = Literal["suspicious", "uncertain", "random"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ScoredSamples(CleanSet):
    """A clean set whose samples have scores, and what orders those of equal score, `ties`.

    Scores are NaN where a sample has none, and probabilities where the fit does not identify the sample.
    """

    scores: NDArray[np.floating]
    noisy_posterior: NDArray[np.floating]
    audit: Audit
    ties: TieBreaks


def rank_samples(samples: ScoredSamples, order: Order, seed: int = 0) -> NDArray[np.int64]:
    """Return the indices of all samples in the order in which to check them, shape (n_samples,).

    Samples that are checked already come last.

    Parameters
    ----------
    samples
        The samples with their scores.
    order
        ``suspicious``: the order of suspicion (`mild_core.inspect.suspicion`). ``uncertain``: by the distance of the
        probability of being mislabelled from one half, then the same. ``random``: in random order.
    seed
        Seed of a random order.
    """
    is_marked, _ = samples.audit.masks
    if order == "random":
        ranked = np.random.default_rng([seed, 3]).permutation(is_marked.size)
    else:
        ranked = rank_by_suspicion(samples.scores, samples.ties)
    if order == "uncertain":
        distance = np.nan_to_num(np.abs(samples.noisy_posterior - 0.5), nan=np.inf)
        ranked = ranked[np.argsort(distance[ranked], kind="stable")]
    return ranked[np.argsort(is_marked[ranked], kind="stable")]


def write_list(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write the rows of a list, with a header, to a new CSV file."""
    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            clean_set.write_rows(file, rows)
    except FileExistsError:
        raise make_exists_error(path) from None


def make_exists_error(path: Path) -> ReviewError:
    """Make the error for a list that exists already and must not be overwritten."""
    return ReviewError(f"{path} exists and may hold marks; give another --out, or remove it")


def read_marks(path: Path, n_samples: int) -> Audit:
    """Read the marks of a list of samples, or of a ``clean.csv``; rows without a mark are skipped.

    The columns ``index`` and ``mark`` are enough.

    A mark is ``clean``, ``wrong``, or ``unsure``, which counts as ``wrong``.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=files.find_separator(header))
            missing = {"index", "mark"} - set(reader.fieldnames or ())
            if missing:
                raise ReviewError(
                    f"{path} lacks the column {sorted(missing)[0]!r}, got {header.strip()[:60]!r}; give a list as mild "
                    "review writes it, with columns separated by commas, semicolons or tabs"
                )
            marks = [_parse_mark(path, reader.line_num, row) for row in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ReviewError(f"{path} is no CSV ({error}); give a list as mild review writes it") from error
    parsed_marks = [mark for mark in marks if mark is not None]
    if not parsed_marks:
        raise ReviewError(
            f"{path} holds 0 marks, at least 1 is needed; write clean, wrong or unsure into the column `mark`"
        )
    return Audit.from_marks([index for index, _ in parsed_marks], [is_clean for _, is_clean in parsed_marks], n_samples)


def _parse_mark(path: Path, line_number: int, row: dict[str, Any]) -> tuple[int, bool] | None:
    """Return the index of a row and whether it is marked as clean; None without a mark."""
    text = (row["mark"] or "").strip().lower()
    if not text:
        return None
    if text not in ANSWERS:
        raise ReviewError(
            f"{path} line {line_number}: mark is {text!r}; write clean, wrong or unsure, or leave it empty"
        )
    index = (row["index"] or "").strip().removesuffix(".0")  # as a data frame with gaps writes it
    if not (index.isascii() and index.isdigit()):
        raise ReviewError(f"{path} line {line_number}: index is {index!r}; give the sample's number")
    return int(index), ANSWERS[text]
