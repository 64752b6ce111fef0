"""Making spans: where a trace begins decides whether it is recorded, and all the rest follows.

Without an endpoint nothing of OpenTelemetry's SDK is imported; trace ids are made and handed on all
the same, so that other processes record what they can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from langmesh.clock import new_id
from langmesh.settings import Settings
from langmesh.telemetry.attributes import Attribute, Kind, SpanStart
from langmesh.telemetry.spans import LINKS_MAX, RecordedSpan, Span
from langmesh.telemetry.tracecontext import TraceContext, parse

if TYPE_CHECKING:
    from langmesh.telemetry.export import Pipeline

SHUTDOWN_S: Final = 5.0
"""How long the last spans of a process may take to leave."""

_DRAWS: Final = 1 << 64


class Tracer:
    """Starts spans.

    Args:
        ratio: Share of new traces that are recorded, 0 to 1; children follow their parents.
        finish: Takes each recorded span when it ends, must not block; None records nothing.
    """

    __slots__ = ("_bound", "_finish")

    def __init__(self, ratio: float, finish: Callable[[RecordedSpan], None] | None) -> None:
        self._bound = round(ratio * _DRAWS)
        self._finish = finish

    def start(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str = "",
        links: Sequence[str] = (),
        attributes: Mapping[str, Attribute] | None = None,
        ratio: float | None = None,
    ) -> Span:
        """Start a span; the caller ends it.

        Args:
            name: What is done, low in cardinality.
            kind: OpenTelemetry's span kind.
            parent: W3C trace context of the parent; empty or invalid starts a new trace.
            links: W3C trace contexts of spans that caused this one without being its parent;
                invalid ones are left out.
            attributes: Copied.
            ratio: Share of new traces that are sampled, 0 to 1; None for the process's own.
        """
        context = parse(parent) if parent else None
        if context is None:
            trace_id = new_id()
            # OpenTelemetry's ratio sampler looks at the same half of the id, so all of them agree.
            bound = self._bound if ratio is None else round(ratio * _DRAWS)
            sampled = int(trace_id[16:], 16) < bound
            if not sampled or self._finish is None:
                return Span(f"00-{trace_id}-{new_id()[:16]}-{'01' if sampled else '00'}")
        elif not context.sampled or self._finish is None:
            return Span(context.traceparent)
        else:
            trace_id = context.trace_id
        return RecordedSpan(
            f"00-{trace_id}-{new_id()[:16]}-01",
            name,
            kind,
            context,
            _contexts(links) if links else (),
            attributes,
            self._finish,
        )

    def unrecorded(self, parent: str) -> Span | None:
        """The span below a parent whose trace is not recorded here; None if it is, or is none.

        Ask before describing a span: most are not recorded, and a description costs more than that.
        """
        context = parse(parent)
        if context is None or (context.sampled and self._finish is not None):
            return None
        return Span(context.traceparent)

    def begin(
        self,
        what: SpanStart,
        *,
        parent: str = "",
        links: Sequence[str] = (),
        ratio: float | None = None,
    ) -> Span:
        """Start one of the spans that ``attributes`` describes."""
        return self.start(
            what.name,
            kind=what.kind,
            parent=parent,
            links=links,
            attributes=what.attributes,
            ratio=ratio,
        )


class Telemetry:
    """The tracing of one service; made by `setup`."""

    def __init__(self, tracer: Tracer, pipeline: Pipeline | None) -> None:
        self.tracer = tracer
        self._pipeline = pipeline

    def flush(self, timeout_s: float = SHUTDOWN_S) -> bool:
        """Send what has ended; blocks up to ``timeout_s``. False when time ran out."""
        return self._pipeline is None or self._pipeline.flush(timeout_s)

    def shutdown(self, timeout_s: float = SHUTDOWN_S) -> bool:
        """Send what has ended and stop; blocks up to ``timeout_s``. False when spans are lost."""
        return self._pipeline is None or self._pipeline.shutdown(timeout_s)

    async def aclose(self, timeout_s: float = SHUTDOWN_S) -> bool:
        """As `shutdown`, without blocking the event loop."""
        return self._pipeline is None or await asyncio.to_thread(self.shutdown, timeout_s)


def setup(settings: Settings, *, service: str, instance: str, version: str) -> Telemetry:
    """Set up the tracing of a service.

    The first call in a process with an endpoint also sets OpenTelemetry's global provider, unless
    the program has set its own: spans that a node's code starts go the same way.

    Args:
        settings: ``otlp_endpoint``, ``otlp_protocol`` and ``sample_ratio`` count.
        service: ``service.name``, e.g. the node's name.
        instance: ``service.instance.id``.
        version: ``service.version``, the release.

    Raises:
        MeshError: INVALID_SETTING if the exporter refuses the endpoint or one of its own variables.
    """
    if not settings.otlp_endpoint:
        return Telemetry(Tracer(settings.sample_ratio, None), None)
    # The SDK and its exporter cost tens of megabytes, which only a process with a collector pays.
    from langmesh.telemetry.export import Pipeline

    pipeline = Pipeline(settings, service=service, instance=instance, version=version)
    return Telemetry(Tracer(settings.sample_ratio, pipeline.finish), pipeline)


def _contexts(links: Sequence[str]) -> tuple[TraceContext, ...]:
    found = (parse(link) for link in links[:LINKS_MAX])
    return tuple(context for context in found if context is not None)
