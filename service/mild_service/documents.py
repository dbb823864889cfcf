"""Selections as JSON's own values, as they are stored and answered."""

from dataclasses import asdict
from typing import Any

import orjson

from mild_core.results import Selection


def fit_document(selected: Selection) -> dict[str, Any]:
    """What a set was read off, for JSON."""
    summary = selected.summary()
    histogram = selected.histogram and {
        "origin": selected.histogram.origin,
        "width": selected.histogram.width,
        "counts": selected.histogram.counts,
    }
    return {
        "histogram": histogram,
        "densities": selected.densities,
        "curves": selected.curves and asdict(selected.curves),
        **{name: summary[name] for name in ("metric", "components", "threshold", "verdict", "reasons", "estimated")},
    }


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """JSON's own types, so that a fresh answer and a cached one are the same bytes."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
    return plain
