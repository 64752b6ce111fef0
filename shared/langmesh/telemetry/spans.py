"""The two kinds of span that a caller holds: one that is only handed on, one that is recorded.

Spans are explicit: nothing here looks at the current span to find a parent, because a run's span
lives across many tasks. ``activate`` makes a span current for OpenTelemetry's API, so that a node's
own instrumentation and the logs find it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final, NamedTuple

from opentelemetry import context as api_context
from opentelemetry import trace as api
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util import types as api_types

from langmesh.errors import MeshError
from langmesh.telemetry import attributes as names
from langmesh.telemetry.attributes import Attribute, Kind
from langmesh.telemetry.tracecontext import TraceContext

TEXT_CHARS_MAX: Final = 16_384
"""Longest text of one attribute; the rest is cut."""
ATTRIBUTES_MAX: Final = 128
EVENTS_MAX: Final = 256
LINKS_MAX: Final = 4_096
"""A join links to every task that it joins, and a fan-out may be wide."""


class SpanEvent(NamedTuple):
    """Something that happened at one moment of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


class Span:
    """A span that is not recorded: it only hands on the context that it was given.

    Everything but ``activate`` is a no-op. It has no identity of its own, so that in a process
    without a collector the spans of others stay connected.
    """

    __slots__ = ("traceparent",)

    recording: ClassVar[bool] = False
    """Whether anyone will see what is put on the span; check it before costly attributes."""

    traceparent: str
    """W3C trace context, always valid; what goes into messages as the parent of others."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return self.traceparent[36:52]

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded by whoever can."""
        return self.traceparent[-1] == "1"

    def set(self, key: str, value: Attribute) -> None:
        """Put one attribute on the span; ignored once it has ended."""

    def event(self, name: str, attributes: Mapping[str, Attribute] | None = None) -> None:
        """Note that something happened; ignored once the span has ended."""

    def end(self, error: BaseException | str | None = None) -> None:
        """End the span; only the first call counts.

        Args:
            error: Why the operation failed; sets the status to ERROR, and an exception is kept with
                its traceback.
        """

    def activate(self) -> AbstractContextManager[None]:
        """Make this OpenTelemetry's current span in this task or thread; leaving ends nothing."""
        return _Activation(api.NonRecordingSpan(api_span_context(self.traceparent)))


class RecordedSpan(Span):
    """A span that is exported when it ends. Any thread may use it."""

    __slots__ = (
        "_finish",
        "_started",
        "attributes",
        "end_ns",
        "error",
        "events",
        "kind",
        "links",
        "name",
        "parent",
        "start_ns",
    )

    recording: ClassVar[bool] = True

    def __init__(
        self,
        traceparent: str,
        name: str,
        kind: Kind,
        parent: TraceContext | None,
        links: Sequence[TraceContext],
        attributes: Mapping[str, Any] | None,
        finish: Callable[[RecordedSpan], None],
    ) -> None:
        self.traceparent = traceparent
        self.name = name
        self.kind = kind
        self.parent = parent
        self.links = links
        self.attributes: dict[str, Any] = dict(attributes) if attributes else {}
        self.events: list[SpanEvent] = []
        self.error: str | None = None
        self.end_ns = 0
        self._finish = finish
        # Wall clock for when, monotonic for how long: no clock step makes a duration negative.
        self.start_ns = time.time_ns()
        self._started = time.perf_counter_ns()

    def set(self, key: str, value: Any) -> None:
        """Put one attribute on the span; ignored once it has ended."""
        if not self.end_ns and (len(self.attributes) < ATTRIBUTES_MAX or key in self.attributes):
            self.attributes[key] = value

    def event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Note that something happened; ignored once the span has ended."""
        if not self.end_ns and len(self.events) < EVENTS_MAX:
            self.events.append(SpanEvent(name, self._now_ns(), attributes or {}))

    def link(self, context: TraceContext) -> None:
        """Link another span; ignored once this one has ended."""
        if not self.end_ns and len(self.links) < LINKS_MAX:
            self.links = (*self.links, context)

    def fail(self, error: BaseException | str) -> None:
        """Mark the span as failed without ending it."""
        if self.end_ns:
            return
        if isinstance(error, str):
            self.error = error
            return
        self.record(error)
        kind = type(error).__qualname__
        self.error = f"{kind}: {_text_of(error)}"
        # The catalogue's code says more than the one class that all of its errors share.
        self.set(names.ERROR_TYPE, error.code.value if isinstance(error, MeshError) else kind)

    def record(self, error: BaseException, attributes: Mapping[str, Any] | None = None) -> None:
        """Keep an exception with its traceback as an event."""
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        self.event(
            "exception",
            {
                names.EXCEPTION_TYPE: f"{module}{kind.__qualname__}",
                names.EXCEPTION_MESSAGE: _text_of(error),
                names.EXCEPTION_STACKTRACE: _traceback_of(error),
                **(attributes or {}),
            },
        )

    def end(self, error: BaseException | str | None = None) -> None:
        """End the span and queue it for export; only the first call counts."""
        if self.end_ns:
            return
        if error is not None:
            self.fail(error)
        self.end_ns = self._now_ns()
        self._finish(self)

    def activate(self) -> AbstractContextManager[None]:
        """Make this OpenTelemetry's current span in this task or thread; leaving ends nothing."""
        return _Activation(_UserView(self))

    def _now_ns(self) -> int:
        return self.start_ns + time.perf_counter_ns() - self._started


class _Activation(AbstractContextManager[None]):
    """Attach a span to the current context and detach it again."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: api.Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = api_context.attach(api.set_span_in_context(self._span))

    def __exit__(self, *_: object) -> None:
        api_context.detach(self._token)


class _UserView(api.Span):
    """A recorded span as OpenTelemetry's API shows it to a node's code, which cannot end it."""

    def __init__(self, span: RecordedSpan) -> None:
        self._recorded = span
        self._context = api_span_context(span.traceparent)

    def get_span_context(self) -> api.SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._recorded.end_ns

    def set_attribute(self, key: str, value: api_types.AttributeValue) -> None:
        self._recorded.set(key, value)

    def set_attributes(self, attributes: Mapping[str, api_types.AttributeValue]) -> None:
        for key, value in attributes.items():
            self._recorded.set(key, value)

    def add_event(
        self, name: str, attributes: api_types.Attributes = None, timestamp: int | None = None
    ) -> None:
        del timestamp
        self._recorded.event(name, attributes)

    def add_link(self, context: api.SpanContext, attributes: api_types.Attributes = None) -> None:
        del attributes
        if context.is_valid:
            self._recorded.link(
                TraceContext(
                    f"{context.trace_id:032x}",
                    f"{context.span_id:016x}",
                    context.trace_flags.sampled,
                )
            )

    def update_name(self, name: str) -> None:
        """Ignored: names of langmesh's spans are part of its contract."""

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, Status) else status
        if code is StatusCode.ERROR:
            text = status.description if isinstance(status, Status) else description
            self._recorded.fail(text or "error")

    def record_exception(
        self,
        exception: BaseException,
        attributes: api_types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        del timestamp, escaped
        self._recorded.record(exception, attributes)

    def end(self, end_time: int | None = None) -> None:
        """Ignored: langmesh ends what it started."""


def api_span_context(traceparent: str) -> api.SpanContext:
    """OpenTelemetry's form of a valid ``traceparent``."""
    return api.SpanContext(
        int(traceparent[3:35], 16),
        int(traceparent[36:52], 16),
        is_remote=False,
        trace_flags=api.TraceFlags(int(traceparent[53:55], 16)),
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as exc:  # noqa: BLE001 - an exception's own __str__ may raise anything
        return f"<unprintable: {type(exc).__name__}>"


def _traceback_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as exc:  # noqa: BLE001 - as above
        return f"<unprintable: {type(exc).__name__}>"
    # The end of a traceback names the failure.
    return text[-TEXT_CHARS_MAX:]
