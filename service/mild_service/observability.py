"""Prometheus metrics, timing of the phases of a request, and log formats (text, JSON, logfmt).

Run ids are never metric labels, since their number is unbounded. Every log line carries the id of its request.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Telemetry:
    """Prometheus metrics of the service, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("mild_http_requests", "Requests answered.", ["method", "route", "status"])
        self.seconds = histogram("mild_http_request_seconds", "Time to answer a request.", ["method", "route"])
        self.received_bytes = counter("mild_http_received_bytes", "Bytes of requests' bodies.", ["route"])
        self.sent_bytes = counter("mild_http_sent_bytes", "Bytes of answers' bodies.", ["route"])
        self.phase_seconds = histogram(
            "mild_phase_seconds", "Time of the parts of requests; `store` is one exchange with the store.", ["phase"]
        )
        self.problems = counter("mild_problems", "Requests refused, by problem code.", ["code"])
        self.epochs = counter("mild_epochs", "Epochs put, by outcome.", ["outcome"])
        self.shards = counter("mild_shards", "Shards of epochs put, by outcome.", ["outcome"])
        self.epoch_bytes = counter("mild_epoch_bytes", "Bytes of epoch bodies taken.")
        self.log_records = counter("mild_log_records", "Records of prediction logs taken.")
        self.selections = counter("mild_selections", "Selections asked for, by where they came from.", ["source"])
        self.annotations = counter("mild_truths", "Labels and audits put, by kind and outcome.", ["kind", "outcome"])
        self.compute_seconds = histogram("mild_compute_seconds", "Time to compute a selection.")
        self.waiting = gauge("mild_waiting", "Work that waits for its turn, by kind.", ["kind"])
        self.store_used = gauge("mild_store_used_bytes", "Memory that the store uses.")
        self.store_limit = gauge("mild_store_limit_bytes", "Memory that the store may use; 0 where nothing limits it.")
        self.streams = gauge("mild_event_streams", "Event streams that are open.")
        self.expired_runs = counter("mild_runs_swept", "Runs deleted because they had expired.")
        self._request_metrics: dict[tuple[str, str, int], tuple[Counter, Histogram, Counter, Counter]] = {}

    def count_request(
        self, method: str, route: str, status: int, seconds: float, received_bytes: int, sent_bytes: int
    ) -> None:
        """Add an answered request to the metrics.

        Parameters
        ----------
        method, route, status
            HTTP method, path template of the route, and status of the response.
        seconds
            Time from the request to the end of the response.
        received_bytes, sent_bytes
            Sizes of the bodies of request and response.
        """
        metrics = self._request_metrics.get((method, route, status))  # cached, since looking up labels takes time
        if metrics is None:
            metrics = self._request_metrics[method, route, status] = (
                self.requests.labels(method, route, status),
                self.seconds.labels(method, route),
                self.received_bytes.labels(route),
                self.sent_bytes.labels(route),
            )
        requests, durations, received, sent = metrics
        requests.inc()
        durations.observe(seconds)
        received.inc(received_bytes)
        sent.inc(sent_bytes)


Phase: TypeAlias = Literal["decode", "store", "compute", "encode"]


class RequestTrace:
    """The id of a request, and the durations of its phases.

    Parameters
    ----------
    request_id
        Identifier of the request.
    observe
        Function that is called with the name and the duration in seconds of every phase at its end.

    Attributes
    ----------
    request_id
        Identifier of the request in logs and problems.
    seconds
        Duration of each phase so far, in seconds; concurrent work of one phase counts once.
    running
        Phases that have begun and not ended.
    """

    def __init__(self, request_id: str, observe: Callable[[Phase, float], None]) -> None:
        self.request_id = request_id
        self.seconds: dict[Phase, float] = {}
        self._observe = observe
        self.running: set[Phase] = set()

    def end_phase(self, name: Phase, duration: float) -> None:
        """Add the duration of a phase that was running, in seconds."""
        self.running.discard(name)
        self.seconds[name] = self.seconds.get(name, 0.0) + duration
        self._observe(name, duration)

    @property
    def server_timing(self) -> str:
        """Value of the header ``Server-Timing``: the phases in milliseconds."""
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in self.seconds.items())


current_trace: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)
"""Trace of the request being served; None in background work."""


class phase:  # noqa: N801  # used like a function: with phase("store")
    """Context manager that measures the time of its block as a phase of the current request.

    Without a current request, it does nothing. It is a class, because a generator-based context manager takes longer to
    enter than some phases take.
    """

    __slots__ = ("_name", "_started", "_trace")

    def __init__(self, name: Phase) -> None:
        self._name = name

    def __enter__(self) -> None:
        trace = current_trace.get()
        self._trace = None if trace is None or self._name in trace.running else trace
        if self._trace is not None:
            self._trace.running.add(self._name)
            self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            self._trace.end_phase(self._name, time.perf_counter() - self._started)


LogFormat: TypeAlias = Literal["text", "json", "logfmt"]

_UNQUOTED = re.compile(r"[^\s\"=\\]+")
_STANDARD_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime", "request_id", "color_message"}
"""Attributes that every log record has; all other attributes were passed as ``extra``."""


class TextFormatter(logging.Formatter):
    """Formats a record as human-readable text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s: %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        request_id = getattr(record, "request_id", None)
        line, _, traceback = super().format(record).partition("\n")
        return "\n".join(filter(None, [line if request_id is None else f"{line} [request {request_id}]", traceback]))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        """Return the time of the record in ISO 8601, as in the other formats."""
        return _format_time(record)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        return json.dumps(self.record_fields(record), default=str)

    def record_fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record by name."""
        fields: dict[str, Any] = {
            "time": _format_time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            fields["request_id"] = request_id
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD_ATTRIBUTES}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields


class LogfmtFormatter(JsonFormatter):
    """Formats a record as one line of ``name=value`` pairs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        return " ".join(f"{name}={_quote_value(value)}" for name, value in self.record_fields(record).items())


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Write all logs of at least this level, including those of the web server, to stderr in the given format."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    handler.setFormatter({"text": TextFormatter, "json": JsonFormatter, "logfmt": LogfmtFormatter}[log_format]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _add_request_id(record: logging.LogRecord) -> bool:
    """Add the id of the current request to a record; a logging filter that accepts every record."""
    trace = current_trace.get()
    if trace is not None and not hasattr(record, "request_id"):
        record.request_id = trace.request_id
    return True


def _format_time(record: logging.LogRecord) -> str:
    """Return the time of a record in ISO 8601, in UTC with milliseconds."""
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _quote_value(value: object) -> str:
    """Return a value as text, quoted like JSON if it has blanks, quotes or equals signs."""
    text = str(value)
    return text if _UNQUOTED.fullmatch(text) else json.dumps(text)
