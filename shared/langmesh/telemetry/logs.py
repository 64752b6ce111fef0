"""Logs: one JSON object per line on stderr, with the ids of the current span.

Whatever is logged, a line comes out and nothing is raised: what cannot be rendered says so.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry import trace as api

TEXT_CHARS_MAX: Final = 32_768
"""Longest text of one field; the rest is cut."""

# What logging itself puts on a record; the rest came through ``extra``.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "asctime",
    "message",
    "taskName",
}


def configure(service: str, instance: str, level: str = "INFO") -> None:
    """Send the logs of this process to stderr as JSON lines; a second call replaces the first.

    Args:
        service: Coordinator or node name.
        instance: The process, as in ``service.instance.id``.
        level: DEBUG, INFO, WARNING or ERROR.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service, instance))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, JsonFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


def set_level(level: str) -> None:
    """Change the lowest level that this process logs: DEBUG, INFO, WARNING or ERROR."""
    logging.getLogger().setLevel(level)


class JsonFormatter(logging.Formatter):
    """Renders a record as one line of JSON.

    Keys: ``timestamp`` (RFC 3339, UTC, microseconds), ``level``, ``service``, ``instance``,
    ``logger``, ``message``, ``trace_id`` and ``span_id`` when a span is current, ``exception`` and
    ``stack`` as text, and everything given through ``extra``, conventionally ``run_id`` and
    ``thread_id`` (``thread`` is taken by logging).
    """

    def __init__(self, service: str, instance: str) -> None:
        super().__init__()
        self._service = service
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object, pure ASCII, without a newline."""
        line: dict[str, Any] = {
            "timestamp": _rfc3339(record.created),
            "level": record.levelname,
            "service": self._service,
            "instance": self._instance,
            "logger": record.name,
            "message": _message(record),
        }
        span = api.get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = f"{span.trace_id:032x}"
            line["span_id"] = f"{span.span_id:016x}"
        if record.exc_info and not record.exc_text:
            record.exc_text = self._exception(record)
        if record.exc_text:
            # The end of a traceback names the failure.
            line["exception"] = record.exc_text[-TEXT_CHARS_MAX:]
        if record.stack_info:
            line["stack"] = str(record.stack_info)[:TEXT_CHARS_MAX]
        for key, value in vars(record).items():
            if key not in _STANDARD:
                line.setdefault(key, _plain(value))
        # ASCII, because neither the stream's encoding nor a lone surrogate may spoil the line.
        return json.dumps(line, ensure_ascii=True)

    def _exception(self, record: logging.LogRecord) -> str:
        try:
            return self.formatException(record.exc_info)  # type: ignore[arg-type]
        except Exception as exc:  # noqa: BLE001 - an exception's own __str__ may raise anything
            return f"<unprintable: {type(exc).__name__}>"


def _rfc3339(created: float) -> str:
    stamp = datetime.fromtimestamp(created, UTC)
    return stamp.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception as exc:  # noqa: BLE001 - arguments that do not fit, or their own __str__
        text = f"{_text(record.msg)} <unprintable arguments: {type(exc).__name__}>"
    return text[:TEXT_CHARS_MAX]


def _plain(value: Any) -> Any:
    """A scalar as it is, anything else as text; NaN and infinities have no JSON form."""
    if value is None or type(value) in {bool, int}:
        return value
    if type(value) is float and value - value == 0:
        return value
    return _text(value)


def _text(value: Any) -> str:
    try:
        return str(value)[:TEXT_CHARS_MAX]
    except Exception as exc:  # noqa: BLE001 - a stranger's __str__ may raise anything
        return f"<unprintable {type(value).__name__}: {type(exc).__name__}>"
