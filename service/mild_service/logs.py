"""Log lines: as text, as JSON, or as logfmt; each with the id of the request that it belongs to."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from mild_service import tracing

LogFormat: TypeAlias = Literal["text", "json", "logfmt"]

_PLAIN = re.compile(r"[^\s\"=\\]+")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "color_message"}
"""What every record has; anything else was given with ``extra``."""


class Text(logging.Formatter):
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


class Json(logging.Formatter):
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


class Logfmt(Json):
    """Pairs of name and value a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return " ".join(f"{name}={_quoted(value)}" for name, value in self.fields(record).items())


def configure(level: str, form: LogFormat) -> None:
    """Write all logs, the web server's too, to stderr."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_request_id)
    handler.setFormatter({"text": Text, "json": Json, "logfmt": Logfmt}[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _with_request_id(record: logging.LogRecord) -> bool:
    trace = tracing.current.get()
    if trace is not None and not hasattr(record, "request_id"):
        record.request_id = trace.request_id
    return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
