"""Decoding OTLP: a request's body, protobuf or JSON, to stored spans."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan

from langmesh.errors import ErrorCode, MeshError
from langmesh.telemetry import attributes as names
from langmesh.telemetry.attributes import Kind
from langmesh.telemetry.store import StoredEvent, StoredLink, StoredSpan

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""Largest request, after decompression."""
DEPTH_MAX: Final = 16
"""Deepest nesting of an attribute's value; what lies below is dropped."""

_KINDS: tuple[Kind, ...] = ("internal", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")
_INT64 = 1 << 63


def decode(body: bytes, *, as_json: bool = False) -> list[StoredSpan]:
    """Decode an ExportTraceServiceRequest.

    Spans without valid ids are left out, as the protocol asks of receivers.

    Raises:
        MeshError: MALFORMED_BODY if it is not one.
    """
    try:
        request = _from_json(body) if as_json else ExportTraceServiceRequest.FromString(body)
    except (DecodeError, ParseError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise MeshError(
            ErrorCode.MALFORMED_BODY,
            f"the body is no OTLP trace request: {str(exc)[:200] or type(exc).__name__}",
            remedy="Send an ExportTraceServiceRequest as protobuf or as OTLP JSON.",
        ) from exc
    return list(_spans(request))


def _from_json(body: bytes) -> ExportTraceServiceRequest:
    """OTLP's JSON differs from protobuf's in one thing: ids are hex, not base64."""
    document = json.loads(body)
    for resource in document.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                _ids_to_base64(span, ("traceId", "spanId", "parentSpanId"))
                for link in span.get("links", ()):
                    _ids_to_base64(link, ("traceId", "spanId"))
    request = ExportTraceServiceRequest()
    ParseDict(document, request, ignore_unknown_fields=True)
    return request


def _ids_to_base64(holder: dict[str, Any], keys: Iterable[str]) -> None:
    for key in keys:
        if key in holder:
            holder[key] = base64.b64encode(bytes.fromhex(holder[key])).decode()


def _spans(request: ExportTraceServiceRequest) -> Iterable[StoredSpan]:
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        service = str(resource.get(names.SERVICE_NAME, ""))
        instance = str(resource.get(names.SERVICE_INSTANCE, ""))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                if _is_id(span.trace_id, 16) and _is_id(span.span_id, 8):
                    yield _stored(span, service, instance)


def _stored(span: WireSpan, service: str, instance: str) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() if _is_id(span.parent_span_id, 8) else "",
        name=span.name,
        kind=_KINDS[span.kind] if 0 <= span.kind < len(_KINDS) else "internal",
        service=service,
        instance=instance,
        start_ns=_int64(span.start_time_unix_nano),
        end_ns=_int64(span.end_time_unix_nano),
        status=_STATUSES[span.status.code] if 0 <= span.status.code < len(_STATUSES) else "unset",
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        links=[
            StoredLink(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
            for link in span.links
            if _is_id(link.trace_id, 16) and _is_id(link.span_id, 8)
        ],
        events=[
            StoredEvent(event.name, _int64(event.time_unix_nano), _attributes(event.attributes))
            for event in span.events
        ],
    )


def _attributes(pairs: Iterable[KeyValue], depth: int = 0) -> dict[str, Any]:
    return {pair.key: _value(pair.value, depth) for pair in pairs}


def _value(value: AnyValue, depth: int) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth >= DEPTH_MAX:
        return None
    if kind == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values, depth + 1)
    if kind == "bytes_value":
        return base64.b64encode(value.bytes_value).decode()
    return getattr(value, kind)


def _is_id(value: bytes, length: int) -> bool:
    return len(value) == length and any(value)


def _int64(nanoseconds: int) -> int:
    # The wire's field is unsigned, SQLite's is not; no real time is that large.
    return min(nanoseconds, _INT64 - 1)
