"""Collectors and stores for the telemetry tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from langmesh.settings import Settings
from langmesh.telemetry.receiver_grpc import OtlpGrpcReceiver
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore
from langmesh.telemetry.tracing import Telemetry, setup


@pytest.fixture
def store(tmp_path) -> Iterator[SpanStore]:
    with SpanStore(tmp_path / "spans" / "spans.db") as opened:
        yield opened


@pytest.fixture
async def http_receiver(store) -> AsyncIterator[OtlpHttpReceiver]:
    async with OtlpHttpReceiver(store) as receiver:
        yield receiver


@pytest.fixture
async def grpc_receiver(store) -> AsyncIterator[OtlpGrpcReceiver]:
    async with OtlpGrpcReceiver(store) as receiver:
        yield receiver


@pytest.fixture
def service():
    """Make a service's telemetry; what a test leaves running is stopped with it."""
    made: list[Telemetry] = []

    def make(
        endpoint: str = "", *, protocol: str = "http/protobuf", ratio: float = 1.0, name="svc"
    ):
        settings = Settings(otlp_endpoint=endpoint, otlp_protocol=protocol, sample_ratio=ratio)
        made.append(setup(settings, service=name, instance=f"{name}-1", version="v7"))
        return made[-1]

    yield make
    for telemetry in made:
        telemetry.shutdown(0.5)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that accepts connections, reads everything and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)
    for sock in held:
        sock.close()
