"""The OTLP receivers against clients that are not ours, and against garbage."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import subprocess
import sys
import zlib

import grpc
import httpx
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from langmesh.errors import ErrorCode, MeshError
from langmesh.telemetry import receiver_http
from langmesh.telemetry.otlp import decode
from langmesh.telemetry.receiver_grpc import OtlpGrpcReceiver
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = {"content-type": "application/x-protobuf"}


def request(span_id: str = SPAN) -> ExportTraceServiceRequest:
    message = ExportTraceServiceRequest()
    resource = message.resource_spans.add()
    pair = resource.resource.attributes.add(key="service.name")
    pair.value.string_value = "foreign"
    span = resource.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(span_id),
        name="work",
        kind=4,
        start_time_unix_nano=1,
        end_time_unix_nano=2,
    )
    pair = span.attributes.add(key="list")
    pair.value.array_value.values.add(int_value=1)
    pair.value.array_value.values.add(string_value="two")
    pair = span.attributes.add(key="map")
    pair.value.kvlist_value.values.add(key="k").value.bool_value = True
    return message


BODY = request().SerializeToString()


async def post(receiver, body: bytes = BODY, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{receiver.endpoint}/v1/traces",
            content=body,
            headers=PROTOBUF | {k.replace("_", "-"): v for k, v in headers.items()},
        )


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)],
)
async def test_protobuf_over_http_is_stored(encoding, encode, store, http_receiver):
    answer = await post(http_receiver, encode(BODY), content_encoding=encoding)
    assert (answer.status_code, answer.content) == (200, b"")
    (span,) = store.trace(TRACE)
    assert (span.service, span.kind, span.name, span.end_ns) == ("foreign", "producer", "work", 2)
    assert span.attributes == {"list": [1, "two"], "map": {"k": True}}


async def test_json_over_http_is_stored(store, http_receiver):
    document = {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "foreign"}}]
                },
                "scopeSpans": [
                    {
                        "spans": [
                            {
                                "traceId": TRACE.upper(),
                                "spanId": SPAN,
                                "parentSpanId": "",
                                "name": "work",
                                "kind": 5,
                                "startTimeUnixNano": "1",
                                "endTimeUnixNano": "2",
                                "status": {"code": 2, "message": "bad"},
                                "links": [{"traceId": TRACE, "spanId": "1" * 16}],
                                "unknownField": 1,
                            }
                        ]
                    }
                ],
            }
        ]
    }
    answer = await post(
        http_receiver, json.dumps(document).encode(), content_type="application/json"
    )
    assert (answer.status_code, answer.json()) == (200, {})
    (span,) = store.trace(TRACE)
    assert (span.kind, span.status, span.status_message) == ("consumer", "error", "bad")
    assert [link.span_id for link in span.links] == ["1" * 16]


async def test_a_connection_is_kept_for_the_next_request(store, http_receiver):
    async with httpx.AsyncClient(trust_env=False) as client:
        for span_id in ("1" * 16, "2" * 16):
            answer = await client.post(
                f"{http_receiver.endpoint}/v1/traces",
                content=request(span_id).SerializeToString(),
                headers=PROTOBUF,
            )
            assert answer.headers["connection"] == "keep-alive"
    assert len(store.trace(TRACE)) == 2


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"\xff\xff garbage", {}, 400),
        (b"not gzip", {"content_encoding": "gzip"}, 400),
        (gzip.compress(BODY)[:-9], {"content_encoding": "gzip"}, 400),
        (b"{", {"content_type": "application/json"}, 400),
        (b"[1]", {"content_type": "application/json"}, 400),
        (b'{"resourceSpans": 3}', {"content_type": "application/json"}, 400),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "zz"}]}]}]}',
         {"content_type": "application/json"}, 400),
        (b"[" * 100_000, {"content_type": "application/json"}, 400),
        (BODY, {"content_type": "text/html"}, 415),
        (BODY, {"content_encoding": "br"}, 415),
        (zlib.compress(bytes(receiver_http.BODY_BYTES_MAX + 1)),
         {"content_encoding": "deflate"}, 413),
    ],
)  # fmt: skip
async def test_a_bad_body_is_refused_and_the_next_is_taken(
    body, headers, status, store, http_receiver
):
    assert (await post(http_receiver, body, **headers)).status_code == status
    assert (await post(http_receiver)).status_code == 200
    assert len(store.trace(TRACE)) == 1


async def test_only_posts_to_the_traces_path_are_served(http_receiver):
    async with httpx.AsyncClient(trust_env=False, base_url=http_receiver.endpoint) as client:
        assert (await client.get("/v1/traces")).status_code == 405
        assert (await client.post("/v1/metrics", content=b"")).status_code == 404


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01 tls hello\r\n\r\n", b"400"),
        (b"POST /v1/traces HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST /v1/traces HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /v1/traces HTTP/1.1\r\nContent-Length: 10\r\n\r\nshort", None),
        (b"", None),
    ],
)
async def test_bytes_that_are_no_request_end_only_their_connection(
    sent, status, store, http_receiver
):
    port = int(http_receiver.endpoint.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    writer.write_eof()
    # What was not read yet resets the connection, and the answer may be lost with it.
    with contextlib.suppress(ConnectionResetError):
        answer = await reader.read()
        assert answer.split(b" ")[1:2] == ([status] if status else [])
    writer.close()
    assert (await post(http_receiver)).status_code == 200


async def test_grpc_refuses_garbage_and_goes_on(store, grpc_receiver):
    target = grpc_receiver.endpoint.removeprefix("http://")
    async with grpc.aio.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        export = channel.unary_unary(EXPORT)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await export(b"\xff\xff garbage")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await export(BODY) == b""
    assert len(store.trace(TRACE)) == 1


@given(st.binary(max_size=200), st.booleans())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_no_body_is_another_error_than_malformed(body, as_json):
    try:
        decode(body, as_json=as_json)
    except MeshError as exc:
        assert exc.code is ErrorCode.MALFORMED_BODY  # noqa: PT017 - most bodies, not all, are refused


@given(st.data())
def test_a_mutated_body_is_decoded_or_refused(data):
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        spans = decode(bytes(body))
    except MeshError:
        return
    for span in spans:
        assert len(span.trace_id) == 32
        assert span.end_ns < 1 << 63


def test_spans_without_an_id_are_left_out():
    message = request()
    message.resource_spans[0].scope_spans[0].spans.add(name="anonymous")
    assert [span.name for span in decode(message.SerializeToString())] == ["work"]


@pytest.mark.parametrize("kind", [OtlpHttpReceiver, OtlpGrpcReceiver])
async def test_a_taken_port_is_named(kind, store):
    async with kind(store) as first:
        port = int(first.endpoint.rpartition(":")[2])
        with pytest.raises(MeshError) as caught:
            await kind(store, port=port).start()
        assert caught.value.code is ErrorCode.PORT_IN_USE
        await first.stop()


@pytest.mark.parametrize("kind", [OtlpHttpReceiver, OtlpGrpcReceiver])
def test_a_receiver_runs_and_stops_under_uvloop(kind, tmp_path):
    async def main() -> None:
        with SpanStore(tmp_path / "s.db") as store:
            async with kind(store) as receiver:
                if kind is OtlpHttpReceiver:
                    assert (await post(receiver)).status_code == 200
                else:
                    target = receiver.endpoint.removeprefix("http://")
                    options = [("grpc.enable_http_proxy", 0)]
                    async with grpc.aio.insecure_channel(target, options) as channel:
                        await channel.unary_unary(EXPORT)(BODY)
            assert len(store.trace(TRACE)) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_stopping_does_not_wait_for_idle_connections(store):
    receiver = OtlpHttpReceiver(store)
    await receiver.start()
    port = int(receiver.endpoint.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/traces HTTP/1.1\r\n")
    await writer.drain()
    async with asyncio.timeout(30):  # a connection may be idle for longer
        await receiver.stop()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


def test_the_http_receiver_does_not_import_grpc():
    code = (
        "import sys, langmesh.telemetry.receiver_http, langmesh.telemetry.tree;"
        "print([m for m in sys.modules if m.split('.')[0] == 'grpc'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
