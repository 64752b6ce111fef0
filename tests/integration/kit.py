"""What more than one of the integration tests needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg

from langmesh.bus import Bus
from langmesh.client import Client, RunHandle
from langmesh.graphs import directory
from langmesh.graphs.loading import load
from langmesh.graphs.topology import Topology
from langmesh.testing import LocalMesh
from langmesh.wire import codec, subjects
from langmesh.wire.messages import AnyEvent, RunEnded
from langmesh.wire.streams import EVENT


async def publish(mesh: LocalMesh, source: str) -> Topology:
    """Publish a graph under the name of its attribute; a module may hold many."""
    topology = load(source, tenant="default", name=source.partition(":")[2]).topology
    await directory.publish(mesh.etcd, topology, release="v1")
    return topology


@asynccontextmanager
async def serving(mesh: LocalMesh, source: str) -> AsyncIterator[Client]:
    """Run a graph with a coordinator and one agent for all its nodes, all in this event loop."""
    topology = await publish(mesh, source)
    name = topology.graph
    async with (
        mesh.coordinator(),
        mesh.agents(name, *topology.nodes),
        mesh.client(name) as client,
    ):
        yield client


async def events_of(handle: RunHandle) -> list[AnyEvent]:
    """Every event of a run up to its end or its interrupt."""
    return [event async for event in handle.events()]


async def until(handle: RunHandle, kind: type[AnyEvent], **fields: object) -> AnyEvent:
    """The run's next event of a kind, with the given fields."""
    async for event in handle.events():
        if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
            return event
    raise AssertionError(f"the run ended without {kind.__name__} {fields}")


async def results(handles: Sequence[RunHandle], *, timeout_s: float) -> list[RunEnded]:
    """How runs ended, in the handles' order."""
    async with asyncio.timeout(timeout_s):
        ended = await asyncio.gather(*(handle.result() for handle in handles))
    assert all(isinstance(event, RunEnded) for event in ended)
    return [event for event in ended if isinstance(event, RunEnded)]


def assert_contiguous(events: Sequence[AnyEvent]) -> None:
    """Events are numbered from 1 without a gap and end once."""
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event for event in events[:-1] if isinstance(event, RunEnded)] == []


async def stored_events(bus: Bus, run: RunEnded, graph: str) -> list[AnyEvent]:
    """What the EVENT stream keeps of a run, whoever wrote it."""
    subject = subjects.event("default", graph, run.thread_id, run.run_id)
    subscription = await bus.client.jetstream().subscribe(
        subject, stream=EVENT.name, ordered_consumer=True
    )
    events: list[AnyEvent] = []
    async for message in subscription.messages:
        events.append(codec.decode_event(message.data))
        if message.metadata.num_pending == 0:
            break
    await subscription.unsubscribe()
    return events


class Tap:
    """Everything that a plain NATS subscriber sees, in the order of the server."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self._changed = asyncio.Event()

    async def on_message(self, message: Msg) -> None:
        self.messages.append(message)
        self._changed.set()

    async def wait_for(
        self, condition: Callable[[Msg], bool], *, count: int = 1, timeout_s: float = 30
    ) -> Msg:
        """The message that is the first, or the so manieth, to meet the condition."""
        async with asyncio.timeout(timeout_s):
            seen = 0
            while True:
                while seen < len(self.messages):
                    message = self.messages[seen]
                    seen += 1
                    count -= condition(message)
                    if not count:
                        return message
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def tapping(mesh: LocalMesh, *filters: str) -> AsyncIterator[Tap]:
    """Listen in with the stock NATS client."""
    tap = Tap()
    async with await nats.connect(mesh.nats_url) as client:
        for subject in filters:
            await client.subscribe(subject, cb=tap.on_message)
        # Goes behind the subscriptions; the stock client's flush does not wait for them.
        await client.jetstream().account_info()
        yield tap


@asynccontextmanager
async def stock_client(mesh: LocalMesh) -> AsyncIterator[NatsClient]:
    """A connection that knows nothing of langmesh."""
    async with await nats.connect(mesh.nats_url) as client:
        yield client
