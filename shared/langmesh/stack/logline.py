"""One line of a log: of a service, of etcd, of nats-server, or of anybody."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

_NATS: Final = re.compile(r"\[\d+\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6}) \[(\w{3})\] ")
_NATS_TIME: Final = "%Y/%m/%d %H:%M:%S.%f"
_LEVELS: Final = {
    "TRC": "DEBUG",
    "DBG": "DEBUG",
    "INF": "INFO",
    "WRN": "WARNING",
    "ERR": "ERROR",
    "FTL": "CRITICAL",
    "WARN": "WARNING",
    "FATAL": "CRITICAL",
    "PANIC": "CRITICAL",
    "DPANIC": "CRITICAL",
}
"""What nats-server and etcd call the levels of :mod:`logging`."""
_SEVERITIES: Final = logging.getLevelNamesMapping()


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line with what could be read of it."""

    label: str
    """Name of its file."""
    text: str
    """The line as it is."""
    time: str = ""
    """RFC 3339 in UTC; empty where neither the line nor one before it tells."""
    level: str = ""
    """As in :mod:`logging`, or empty."""
    fields: dict[str, Any] = {}
    """Of a line that is a JSON object."""

    @property
    def service(self) -> str:
        """The service that wrote it."""
        return str(self.fields.get("service") or self.label)

    @property
    def message(self) -> str:
        """What it says; the line itself where nothing tells that apart."""
        return str(self.fields.get("message") or self.fields.get("msg") or self.text)

    @property
    def severity(self) -> int:
        """The level as a number; the highest where there is none."""
        return _SEVERITIES.get(self.level, logging.CRITICAL)

    def names(self, run: str) -> bool:
        """Whether it is about a run: by its field, or because its text has the id."""
        if self.fields.get("run_id") == run:
            return True
        return re.search(rf"(?<![\w-]){re.escape(run)}(?![\w-])", self.text) is not None

    def document(self) -> dict[str, Any]:
        """The line as a JSON object with at least timestamp, level, service and message."""
        known = {
            "timestamp": self.time,
            "level": self.level,
            "service": self.service,
            "message": self.message,
        }
        return {**known, **self.fields}


def parse(label: str, line: bytes) -> LogLine:
    """Read a line of the file ``<label>.log``."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    if text.startswith("{"):
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return LogLine(label=label, text=text)
        return LogLine(
            label=label,
            text=text,
            time=_utc(str(fields.get("timestamp") or fields.get("ts") or "")),
            level=_level(str(fields.get("level") or "")),
            fields=fields,
        )
    if (found := _NATS.match(text)) is not None:
        # It writes local time.
        time = datetime.strptime(found[1], _NATS_TIME).astimezone(UTC)
        return LogLine(label=label, text=text, time=_written(time), level=_level(found[2]))
    return LogLine(label=label, text=text)


def _level(text: str) -> str:
    text = text.upper()
    return _LEVELS.get(text, text)


def _utc(text: str) -> str:
    if text.endswith("Z"):
        return text
    try:
        return _written(datetime.fromisoformat(text).astimezone(UTC))
    except ValueError:
        return ""


def _written(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
