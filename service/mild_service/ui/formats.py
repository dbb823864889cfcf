"""Numbers and times as people read them; Jinja's filters."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
NONE = "–"
"""Stands where there is no number."""


def number(value: float | None) -> str:
    """A count, with thousands apart."""
    return NONE if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share."""
    return NONE if value is None else f"{100 * value:.{digits}f}%"


def score(value: float | None) -> str:
    """A metric's value: whole numbers as such, others with a digit or two."""
    return NONE if value is None else f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def sentence(text: str) -> str:
    """Words as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def interval(estimate: Mapping[str, float] | None, digits: int = 0) -> str:
    """The interval of an estimate of a share."""
    if estimate is None:
        return NONE
    return f"{100 * estimate['low']:.{digits}f}–{100 * estimate['high']:.{digits}f}%"


def ago(seconds: float) -> str:
    """How long ago something was, in its largest unit."""
    for size, name in _UNITS:
        if seconds >= size:
            n = int(seconds // size)
            return f"{n} {name}{'' if n == 1 else 's'} ago"
    return "just now"


def moment(at: float | None) -> str:
    """Unix time in seconds as a date and time of day in UTC."""
    return NONE if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine_moment(at: float) -> str:
    """Unix time in seconds as ISO 8601, for `<time datetime>`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A count with its noun: 1 round, 2 rounds."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


FILTERS: Mapping[str, Any] = {
    "number": number,
    "percent": percent,
    "score": score,
    "sentence": sentence,
    "interval": interval,
    "ago": ago,
    "moment": moment,
    "machine_moment": machine_moment,
    "plural": plural,
}
