"""What the tests of the requests share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client as NatsClient

from langmesh.bus import Bus
from langmesh.testing import LocalMesh
from langmesh.wire.messages import AnyEvent, RunEnded
from tests.integration.kit import assert_contiguous, publish, stored_events

GATES = "tests.graphs.gates:gated_loop"
APPROVAL = "tests.graphs.approvals:approval"


class Asker:
    """A plain NATS client: JSON in, JSON out."""

    def __init__(self, client: NatsClient) -> None:
        self.client = client

    async def __call__(
        self, verb: str, *, tenant: str = "default", time_limit: float = 60, **fields: Any
    ) -> dict[str, Any]:
        """The reply to a request."""
        return await self.raw(verb, json.dumps(fields).encode(), tenant, time_limit=time_limit)

    async def raw(
        self,
        verb: str,
        body: bytes,
        tenant: str = "default",
        *,
        time_limit: float = 60,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The reply to a request with any body."""
        return await self.at(
            f"mesh.v1.rpc.{tenant}.{verb}", body, time_limit=time_limit, headers=headers
        )

    async def at(
        self,
        subject: str,
        body: bytes,
        *,
        time_limit: float = 60,
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The reply to a request on any subject."""
        answer = await self.client.request(subject, body, timeout=time_limit, headers=headers)
        return dict(json.loads(answer.data))

    async def code(self, verb: str, **fields: Any) -> str:
        """The code of the error that a request is answered with."""
        return error_code(await self(verb, **fields))


def error_code(reply: dict[str, Any]) -> str:
    """The code of an error reply that is complete."""
    assert reply.keys() == {"error"}, reply
    assert reply["error"].keys() == {"code", "message", "remedy", "retryable"}
    assert reply["error"]["message"]
    assert reply["error"]["remedy"]
    return str(reply["error"]["code"])


@asynccontextmanager
async def asking(mesh: LocalMesh) -> AsyncIterator[Asker]:
    """Connect a plain NATS client."""
    async with await nats.connect(mesh.nats_url) as client:
        yield Asker(client)


@asynccontextmanager
async def serving(mesh: LocalMesh, source: str) -> AsyncIterator[None]:
    """Run a graph with a coordinator and one agent for all its nodes, all in this event loop."""
    topology = await publish(mesh, source)
    async with mesh.coordinator(), mesh.agents(topology.graph, *topology.nodes):
        yield


async def history(bus: Bus, graph: str, reference: dict[str, Any]) -> list[AnyEvent]:
    """All events of a run that is over: numbered without gaps, with one end."""
    run = RunEnded(
        seq=0,
        run_id=reference["run_id"],
        thread_id=reference["thread_id"],
        time="",
        status="success",
    )
    events = await stored_events(bus, run, graph)
    assert_contiguous(events)
    assert isinstance(events[-1], RunEnded)
    return events
