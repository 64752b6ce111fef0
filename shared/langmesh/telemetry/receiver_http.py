"""An OTLP/HTTP endpoint on this host that keeps what it receives; it does not import gRPC.

Just enough of HTTP/1.1 for exporters: POST with a Content-Length, gzip or deflate, connections that
are kept alive.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import zlib
from types import TracebackType
from typing import Final, NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from langmesh.errors import ErrorCode, MeshError
from langmesh.telemetry.otlp import BODY_BYTES_MAX, decode
from langmesh.telemetry.store import SpanStore

HEAD_BYTES_MAX: Final = 16 * 1024
REQUEST_TIMEOUT_S: Final = 30.0
"""How long a connection may take over one request, idle time before it included."""
CONNECTIONS_MAX: Final = 256

_PATH = "/v1/traces"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
}

_log = logging.getLogger(__name__)


class _Head(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]


class _Refused(Exception):
    """A request that gets an error status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class OtlpHttpReceiver:
    """Serves ``POST /v1/traces`` on 127.0.0.1; an async context manager.

    Args:
        store: Where spans go; stays open when the receiver stops.
        port: 0 picks a free one.
    """

    def __init__(self, store: SpanStore, *, port: int = 0) -> None:
        self._store = store
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT takes, once started."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            MeshError: PORT_IN_USE if the port is taken.
        """
        try:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self._port, limit=HEAD_BYTES_MAX
            )
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
            raise MeshError(
                ErrorCode.PORT_IN_USE, f"OTLP/HTTP cannot listen on 127.0.0.1:{self._port}"
            ) from exc
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close every connection and stop; safe to call twice."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for connection, writer in self._connections.items():
            # Here as well, because a task that never started closes nothing.
            writer.close()
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            writer.close()
            return
        connection = asyncio.create_task(self._converse(reader, writer))
        self._connections[connection] = writer
        connection.add_done_callback(self._connections.pop)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, EOFError, TimeoutError):
            # The peer went away or stalled; exporters reconnect.
            return
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        keep = False
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await _read_head(reader)
                body = await reader.readexactly(_body_bytes(head))
            # From here on the request was read whole, so that the next one can follow.
            keep = head.headers.get("connection", "").lower() != "close"
            content_type, answer = await self._ingest(head, body)
            status = 200
        except _Refused as exc:
            status, content_type, answer = exc.status, "text/plain", str(exc).encode()
        except (OSError, EOFError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001 - a full disk or a bug answers 500 and ends no connection
            _log.exception("a trace request failed")
            status, content_type, answer = 500, "text/plain", b"the spans cannot be stored"
        writer.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(answer)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode()
            + answer
        )
        await writer.drain()
        return keep

    async def _ingest(self, head: _Head, body: bytes) -> tuple[str, bytes]:
        if head.path.partition("?")[0] != _PATH:
            raise _Refused(404, f"only {_PATH} is served")
        if head.method != "POST":
            raise _Refused(405, "only POST is served")
        content_type = head.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in {"application/x-protobuf", "application/json"}:
            raise _Refused(415, "expected application/x-protobuf or application/json")
        as_json = content_type == "application/json"
        encoding = head.headers.get("content-encoding", "identity").strip().lower()
        try:
            plain = await asyncio.to_thread(_decompress, body, encoding)
            spans = await asyncio.to_thread(decode, plain, as_json=as_json)
        except MeshError as exc:
            raise _Refused(400, exc.message) from exc
        await self._store.add(spans)
        return content_type, b"{}" if as_json else ExportTraceServiceResponse().SerializeToString()


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.LimitOverrunError as exc:
        raise _Refused(400, "the header is too large") from exc
    first, *lines = text[:-4].split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _Refused(400, "not an HTTP/1.1 request")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _Refused(400, "a header line has no colon")
        headers[name.strip().lower()] = value.strip()
    return _Head(parts[0], parts[1], headers)


def _body_bytes(head: _Head) -> int:
    if "transfer-encoding" in head.headers:
        raise _Refused(411, "send a Content-Length")
    text = head.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise _Refused(400, "Content-Length is not a number")
    if len(text) > 12 or int(text) > BODY_BYTES_MAX:
        raise _Refused(413, f"at most {BODY_BYTES_MAX} bytes")
    return int(text)


def _decompress(body: bytes, encoding: str) -> bytes:
    """Undo the content encoding, never beyond ``BODY_BYTES_MAX``."""
    if encoding in {"identity", ""}:
        return body
    if encoding not in {"gzip", "deflate"}:
        raise _Refused(415, "expected gzip or deflate")
    # 32 makes zlib recognise both gzip's and deflate's header.
    engine = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        plain = engine.decompress(body, BODY_BYTES_MAX)
    except zlib.error as exc:
        raise _Refused(400, f"the body is not {encoding}") from exc
    if engine.unconsumed_tail:
        raise _Refused(413, f"at most {BODY_BYTES_MAX} bytes")
    if not engine.eof:
        raise _Refused(400, f"the {encoding} body is cut off")
    return plain
