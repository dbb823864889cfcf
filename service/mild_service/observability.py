"""What is counted for Prometheus. Run ids are never labels: their number has no bound.

What is known, anywhere in the code, of the request that is being served: its id, and how long its parts take.

Log lines: as text, as JSON, or as logfmt; each with the id of the request that it belongs to.
"""

import json
import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Telemetry:
    """The service's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mild_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "mild_http_request_seconds", "Time to answer a request.", ["method", "route"], registry=self.registry
        )
        self.received_bytes = Counter(
            "mild_http_received_bytes", "Bytes of requests' bodies.", ["route"], registry=self.registry
        )
        self.sent_bytes = Counter(
            "mild_http_sent_bytes", "Bytes of answers' bodies.", ["route"], registry=self.registry
        )
        self.phase_seconds = Histogram(
            "mild_phase_seconds",
            "Time of the parts of requests; `store` is one step in the store, with all its round trips.",
            ["phase"],
            registry=self.registry,
        )
        self.problems = Counter("mild_problems", "Requests refused, by problem code.", ["code"], registry=self.registry)
        self.epochs = Counter("mild_epochs", "Epochs put, by outcome.", ["outcome"], registry=self.registry)
        self.shards = Counter("mild_shards", "Shards of epochs put, by outcome.", ["outcome"], registry=self.registry)
        self.epoch_bytes = Counter("mild_epoch_bytes", "Bytes of epoch bodies taken.", registry=self.registry)
        self.log_records = Counter("mild_log_records", "Records of prediction logs taken.", registry=self.registry)
        self.selections = Counter(
            "mild_selections", "Selections asked for, by where they came from.", ["source"], registry=self.registry
        )
        self.annotations = Counter(
            "mild_truths", "Labels and audits put, by kind and outcome.", ["kind", "outcome"], registry=self.registry
        )
        self.compute_seconds = Histogram("mild_compute_seconds", "Time to compute a selection.", registry=self.registry)
        self.waiting = Gauge("mild_waiting", "Work that waits for its turn, by kind.", ["kind"], registry=self.registry)
        self.store_used = Gauge("mild_store_used_bytes", "Memory that the store uses.", registry=self.registry)
        self.store_limit = Gauge(
            "mild_store_limit_bytes",
            "Memory that the store may use; 0 where nothing limits it.",
            registry=self.registry,
        )
        self.streams = Gauge("mild_event_streams", "Event streams that are open.", registry=self.registry)
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram, Counter, Counter]] = {}
        self.expired_runs = Counter("mild_runs_swept", "Runs deleted because they had expired.", registry=self.registry)

    def count_request(self, method: str, route: str, status: int, seconds: float, n_in: int, n_out: int) -> None:
        """Count a request. What counts it is looked up once per method, route and status: there are few."""
        counts = self._answered.get((method, route, status))
        if counts is None:
            counts = self._answered[method, route, status] = (
                self.requests.labels(method, route, status),
                self.seconds.labels(method, route),
                self.received_bytes.labels(route),
                self.sent_bytes.labels(route),
            )
        requests, durations, received, sent = counts
        requests.inc()
        durations.observe(seconds)
        received.inc(n_in)
        sent.inc(n_out)


Phase: TypeAlias = Literal["decode", "store", "compute", "encode"]


class RequestTrace:
    """A request's id and the time that its phases have taken so far.

    Attributes
    ----------
    request_id
        Names the request in logs and problems.
    seconds
        By phase; work that is done at the same time counts once.
    """

    def __init__(self, request_id: str, observe: Callable[[Phase, float], None]) -> None:
        self.request_id = request_id
        self.seconds: dict[Phase, float] = {}
        self._observe = observe
        self._running: set[Phase] = set()

    def start_phase(self, name: Phase) -> float | None:
        """Begin a phase; return what `leave` is to be given. A phase within itself counts once."""
        if name in self._running:
            return None
        self._running.add(name)
        return time.perf_counter()

    def end_phase(self, name: Phase, started: float | None) -> None:
        """End a phase."""
        if started is not None:
            self._running.discard(name)
            took = time.perf_counter() - started
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            self._observe(name, took)

    @property
    def server_timing(self) -> str:
        """The phases as the header ``Server-Timing`` has them, in milliseconds."""
        return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in self.seconds.items())


current_trace: ContextVar[RequestTrace | None] = ContextVar("trace", default=None)
"""The request that is being served; none in what the service does for itself."""


class phase:  # noqa: N801  # reads as a verb: with phase("store")
    """Times what is done within as a part of the request that is being served, if there is one.

    A class, as the generator of a context manager would take longer than some phases.
    """

    __slots__ = ("_name", "_started", "_trace")

    def __init__(self, name: Phase) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._trace = current_trace.get()
        if self._trace is not None:
            self._started = self._trace.start_phase(self._name)

    def __exit__(self, *_: object) -> None:
        if self._trace is not None:
            self._trace.end_phase(self._name, self._started)


LogFormat: TypeAlias = Literal["text", "json", "logfmt"]

_PLAIN = re.compile(r"[^\s\"=\\]+")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "color_message"}
"""What every record has; anything else was given with ``extra``."""


class TextFormatter(logging.Formatter):
    """A line for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s: %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        request_id = getattr(record, "request_id", None)
        line, _, traceback = super().format(record).partition("\n")
        return "\n".join(filter(None, [line if request_id is None else f"{line} [request {request_id}]", traceback]))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        """When it was written, the same as in the other formats."""
        return _time(record)


class JsonFormatter(logging.Formatter):
    """A JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return json.dumps(self.fields(record), default=str)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What a record says."""
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            fields["request_id"] = request_id
        fields |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields


class LogfmtFormatter(JsonFormatter):
    """Pairs of name and value a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return " ".join(f"{name}={_quoted(value)}" for name, value in self.fields(record).items())


def configure_logging(level: str, form: LogFormat) -> None:
    """Write all logs, the web server's too, to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_request_id)
    handler.setFormatter({"text": TextFormatter, "json": JsonFormatter, "logfmt": LogfmtFormatter}[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _with_request_id(record: logging.LogRecord) -> bool:
    trace = current_trace.get()
    if trace is not None and not hasattr(record, "request_id"):
        record.request_id = trace.request_id
    return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
