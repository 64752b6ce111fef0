"""A service is registered for as long as it serves, and no longer."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from collections.abc import Iterator

import pytest

from langmesh.registry import keys
from langmesh.registry.records import ServiceRecord, decode_service
from langmesh.registry.view import View
from langmesh.testing import LocalMesh
from tests.integration.kit import publish

Records = View[ServiceRecord]


@pytest.fixture
async def present(mesh: LocalMesh):
    """All services of the mesh, by relative key."""
    async with View(mesh.etcd, keys.PREFIX, _decode) as view:
        await view.wait_ready()
        yield view


def _decode(key: str, document: bytes) -> ServiceRecord | None:
    return decode_service(document) if key.startswith(("agents/", "coordinators/")) else None


def of_service(view: Records, name: str) -> ServiceRecord | None:
    return next((r for r in view.items.values() if r is not None and r.service == name), None)


async def appears(view: Records, name: str) -> ServiceRecord:
    await view.wait_for(lambda _: of_service(view, name) is not None, timeout_s=60)
    record = of_service(view, name)
    assert record is not None
    return record


async def disappears(mesh: LocalMesh, view: Records, name: str, *, within_s: int) -> None:
    """Wait until a service is gone, which must be before a lease of that many seconds ends.

    etcd's clock judges, since a busy machine slows it for both.
    """
    await mesh.etcd.put(keys.PREFIX + "bound", b"", await mesh.etcd.grant(within_s))
    await view.wait_for(lambda _: of_service(view, name) is None, timeout_s=30)
    assert "bound" in view.items


async def registered(mesh: LocalMesh, name: str) -> list[ServiceRecord]:
    """What etcd itself holds of a service, with no view's delay in between.

    A process that has ended and is not listed has taken its record away: its lease would have
    outlived it.
    """
    held = await mesh.etcd.list(keys.PREFIX)
    records = [_decode(key.removeprefix(keys.PREFIX), e.value) for key, e in held.entries.items()]
    return [record for record in records if record is not None and record.service == name]


@pytest.fixture
def supervisor() -> Iterator[socket.socket]:
    """Hears from services that are told its address when they are ready."""
    # A socket's path may have only about a hundred bytes.
    with (
        tempfile.TemporaryDirectory(prefix="langmesh-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(f"{folder}/notify")
        receiver.settimeout(60)
        yield receiver


async def ready(mesh: LocalMesh, supervisor: socket.socket, name: str) -> ServiceRecord:
    """What is registered of a service when it says that it is ready."""
    assert b"READY=1" in await asyncio.to_thread(supervisor.recv, 4096)
    (record,) = await registered(mesh, name)
    return record


async def test_an_agent_is_there_while_it_lives(
    mesh: LocalMesh, present: Records, supervisor: socket.socket
) -> None:
    await publish(mesh, "tests.graphs.work:pipeline")
    env = {"NOTIFY_SOCKET": supervisor.getsockname()}
    first = mesh.spawn("worker", "langmesh.agent", "pipeline", "worker", env=env)
    record = await ready(mesh, supervisor, "worker")
    assert await appears(present, "worker") == record
    assert (record.pid, record.state, record.event_loop) == (first.pid, "ready", "uvloop")
    assert (record.graph, record.node, record.release) == ("pipeline", "worker", "v1")

    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    assert await registered(mesh, "worker") == []
    await disappears(mesh, present, "worker", within_s=5)

    second = mesh.spawn("worker", "langmesh.agent", "pipeline", "worker")
    assert (await appears(present, "worker")).pid == second.pid
    second.kill()
    await disappears(mesh, present, "worker", within_s=5)


async def test_a_coordinator_is_there_while_it_lives(
    mesh: LocalMesh, present: Records, supervisor: socket.socket
) -> None:
    module, source = "langmesh.coordinator", "tests.graphs.work:pipeline"
    env = {"NOTIFY_SOCKET": supervisor.getsockname()}
    first = mesh.spawn("coordinator", module, source, env=env)
    record = await ready(mesh, supervisor, "coordinator")
    assert await appears(present, "coordinator") == record
    assert (record.pid, record.state, record.event_loop) == (first.pid, "ready", "uvloop")
    first.send_signal(signal.SIGTERM)
    assert await first.wait() == 0
    assert await registered(mesh, "coordinator") == []
    await disappears(mesh, present, "coordinator", within_s=5)
    second = mesh.spawn("coordinator", "langmesh.coordinator")
    assert (await appears(present, "coordinator")).pid == second.pid
    second.kill()
    await disappears(mesh, present, "coordinator", within_s=5)
