"""An OTLP/gRPC endpoint on this host that keeps what it receives."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from langmesh.errors import ErrorCode, MeshError
from langmesh.telemetry.otlp import BODY_BYTES_MAX, decode
from langmesh.telemetry.store import SpanStore

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
_STOP_GRACE_S = 1.0
_ACCEPTED: bytes = ExportTraceServiceResponse().SerializeToString()


class OtlpGrpcReceiver:
    """Serves the collector's TraceService on 127.0.0.1; an async context manager.

    Args:
        store: Where spans go; stays open when the receiver stops.
        port: 0 picks a free one.
    """

    def __init__(self, store: SpanStore, *, port: int = 0) -> None:
        self._store = store
        self._port = port
        self._server: Any = None

    @property
    def endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT takes, once started."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            MeshError: PORT_IN_USE if the port is taken.
        """
        # Bodies stay bytes here: they are decoded off the event loop, and bad ones get our answer.
        export = grpc.unary_unary_rpc_method_handler(self._export)
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", BODY_BYTES_MAX),
                ("grpc.so_reuseport", 0),
            )
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE, {"Export": export}),)
        )
        try:
            self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        except RuntimeError as exc:
            raise MeshError(
                ErrorCode.PORT_IN_USE, f"OTLP/gRPC cannot listen on 127.0.0.1:{self._port}"
            ) from exc
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Finish the calls in progress and stop; safe to call twice."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(_STOP_GRACE_S)

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

    async def _export(self, body: bytes, context: Any) -> bytes:
        try:
            await self._store.add(await asyncio.to_thread(decode, body))
        except MeshError as exc:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, exc.message)
        return _ACCEPTED
