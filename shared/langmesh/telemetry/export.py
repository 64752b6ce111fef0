"""From ended spans to a collector, through OpenTelemetry's SDK.

Spans wait in a bounded queue and leave in batches on a thread of their own. When the collector is
down, slow or silent they are lost, one warning says so, and nobody waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace.status import Status, StatusCode

from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.telemetry import attributes as names
from langmesh.telemetry.spans import TEXT_CHARS_MAX, RecordedSpan, api_span_context

QUEUE_SPANS_MAX: Final = 8_192
BATCH_SPANS_MAX: Final = 512
BATCH_DELAY_MS: Final = 500
EXPORT_TIMEOUT_S: Final = 5.0

_KINDS = {
    "internal": api.SpanKind.INTERNAL,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
    "client": api.SpanKind.CLIENT,
    "server": api.SpanKind.SERVER,
}
_UNSET = Status(StatusCode.UNSET)
_SCOPE = InstrumentationScope("langmesh")
_INT64 = 1 << 63
_ITEMS_MAX = 1_024
# gRPC wants a number here, whatever the exporter's annotation says.
_NO_PROXY: Any = ("grpc.enable_http_proxy", 0)

# These report every failed batch and every dropped span; `_QuietExporter` says it once instead.
_NOISY = ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal")

_log = logging.getLogger(__name__)


class Pipeline:
    """Resource, queue and exporter of one service."""

    def __init__(self, settings: Settings, *, service: str, instance: str, version: str) -> None:
        for name in _NOISY:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                logger.setLevel(logging.CRITICAL)
        self._resource = Resource.create(
            {
                names.SERVICE_NAME: service,
                names.SERVICE_INSTANCE: instance,
                names.SERVICE_VERSION: version,
                names.PROCESS_PID: os.getpid(),
            }
        )
        self._exporter = _QuietExporter(_exporter(settings), settings.otlp_endpoint)
        with _without_fork_handlers():
            self._processor = BatchSpanProcessor(
                self._exporter,
                max_queue_size=QUEUE_SPANS_MAX,
                max_export_batch_size=BATCH_SPANS_MAX,
                schedule_delay_millis=BATCH_DELAY_MS,
            )
        self._closed = False
        if isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            with _without_fork_handlers():
                provider = TracerProvider(
                    sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
                    resource=self._resource,
                    shutdown_on_exit=False,
                )
            provider.add_span_processor(self._processor)
            api.set_tracer_provider(provider)

    def finish(self, span: RecordedSpan) -> None:
        """Queue an ended span; the oldest in the queue gives way when it is full."""
        if not self._closed:
            self._processor.on_end(_readable(span, self._resource))

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued; False when that took ``timeout_s`` or failed."""
        if self._closed:
            return True
        return _within(timeout_s, self._processor.force_flush) and not self._exporter.failing

    def shutdown(self, timeout_s: float) -> bool:
        """Send what is queued and stop; False when that took ``timeout_s`` or failed."""
        if self._closed:
            return True
        self._closed = True
        deadline = monotonic() + timeout_s
        if _within(timeout_s * 0.8, self._processor.shutdown):
            return not self._exporter.failing
        if not self._exporter.failing:
            _log.warning("the collector did not take the last spans in time; they are lost")
        # Closing the exporter ends the call that hangs, and with it the queue's thread.
        _within(max(0.0, deadline - monotonic()), self._exporter.shutdown)
        return False


@contextlib.contextmanager
def _without_fork_handlers() -> Iterator[None]:
    """Keep the SDK from registering what it does in a forked child.

    An event loop of uvloop lets the handlers run in every program that it starts, before the exec:
    the SDK's start threads there and search the installed packages, which takes long and kills some
    of the programs. In a child that goes on without exec, the queue begins anew at the first span.
    """
    register = getattr(os, "register_at_fork", None)
    if register is None:
        yield
        return
    os.register_at_fork = lambda **_: None
    try:
        yield
    finally:
        os.register_at_fork = register


class _QuietExporter(SpanExporter):
    """Reports the loss of spans once per outage instead of once per batch."""

    def __init__(self, inner: SpanExporter, endpoint: str) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._closed = threading.Event()
        self.failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._closed.is_set():
            return SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        except Exception:  # noqa: BLE001 - whatever the exporter raises, the next batch must go
            _log.debug("a batch of %d spans cannot be sent", len(spans), exc_info=True)
            result = SpanExportResult.FAILURE
        failed = result is not SpanExportResult.SUCCESS
        if failed and not self.failing and not self._closed.is_set():
            _log.warning(
                "the collector at %s takes no spans: they are lost until it does, runs go on",
                self._endpoint,
            )
        elif self.failing and not failed:
            _log.info("the collector at %s takes spans again", self._endpoint)
        self.failing = failed
        return result

    def shutdown(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            self._inner.shutdown()


def _exporter(settings: Settings) -> SpanExporter:
    """The OTLP exporter for the configured protocol; a host without a scheme is plain text."""
    endpoint = settings.otlp_endpoint
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"
    try:
        parts = urlsplit(endpoint)
        if not parts.hostname or parts.scheme not in {"http", "https"}:
            raise ValueError("expected http://HOST:PORT")  # noqa: TRY301 - one place turns it into ours
        if settings.otlp_protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            local = parts.hostname in {"127.0.0.1", "localhost", "::1"}
            return OTLPSpanExporter(
                endpoint=endpoint,
                timeout=EXPORT_TIMEOUT_S,
                # gRPC follows http_proxy even to this host, where no proxy can reach it.
                channel_options=(_NO_PROXY,) if local else None,
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter as HttpSpanExporter,
        )

        path = "" if parts.path.endswith("/v1/traces") else "/v1/traces"
        return HttpSpanExporter(endpoint=endpoint.rstrip("/") + path, timeout=EXPORT_TIMEOUT_S)
    except Exception as exc:
        raise MeshError(
            ErrorCode.INVALID_SETTING,
            f"OTEL_EXPORTER_OTLP_ENDPOINT={settings.otlp_endpoint!r}: {exc}",
            remedy="Correct or unset it, and check the other OTEL_EXPORTER_OTLP_* variables.",
        ) from exc


def _within(timeout_s: float, call: Callable[[], object]) -> bool:
    """Run a call that has no time limit of its own on a daemon thread; whether it ended in time."""
    thread = threading.Thread(target=call, name="telemetry-drain", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return not thread.is_alive()


def _readable(span: RecordedSpan, resource: Resource) -> ReadableSpan:
    parent = span.parent
    return ReadableSpan(
        name=_text(span.name),
        context=api_span_context(span.traceparent),
        parent=None if parent is None else api_span_context(parent.traceparent),
        resource=resource,
        attributes=_clean_all(span.attributes),
        events=[Event(_text(e.name), _clean_all(e.attributes), e.time_ns) for e in span.events],
        links=[api.Link(api_span_context(link.traceparent)) for link in span.links],
        kind=_KINDS[span.kind],
        status=_UNSET if span.error is None else Status(StatusCode.ERROR, _text(span.error)),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=_SCOPE,
    )


def _clean_all(attributes: Mapping[str, Any]) -> dict[str, Any]:
    clean = {}
    for key, value in attributes.items():
        # The usual case first: this runs for every attribute of every span.
        usual = type(value) is str and len(value) <= TEXT_CHARS_MAX and value.isascii()
        clean[key] = value if usual else _clean(value)
    return clean


def _clean(value: Any) -> Any:
    """Turn anything into what protobuf encodes: one bad value would cost the whole batch."""
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is bool or kind is float:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else _text(str(value))
    if kind is list or kind is tuple:
        return [_clean(item) for item in value[:_ITEMS_MAX]]
    try:
        return _text(str(value))
    except Exception as exc:  # noqa: BLE001 - a stranger's __str__ may raise anything
        return f"<unprintable {kind.__name__}: {type(exc).__name__}>"


def _text(value: str) -> str:
    if len(value) > TEXT_CHARS_MAX:
        value = value[:TEXT_CHARS_MAX]
    if value.isascii():
        return value
    # Lone surrogates, as from undecodable file names, have no UTF-8 form.
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
