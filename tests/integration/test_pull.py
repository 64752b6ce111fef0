"""The end of a consumer that pulls."""

from __future__ import annotations

import asyncio

from nats.js.api import AckPolicy, ConsumerConfig

from langmesh.bus.pull import PullConsumer
from langmesh.testing import LocalMesh


async def test_a_consumer_ends_at_any_moment_of_its_shrinking(mesh: LocalMesh) -> None:
    config = ConsumerConfig(
        durable_name="shrinking",
        ack_policy=AckPolicy.EXPLICIT,
        filter_subject="mesh.v1.exec.default.g.n.v1",
    )
    await mesh.bus.client.jetstream().add_consumer("EXEC", config)
    async with asyncio.timeout(120):
        for turns in range(300):
            consumer = PullConsumer(
                mesh.bus, "EXEC", "shrinking", capacity=4, handler=lambda delivery: delivery.ack()
            )
            async with consumer.run():
                await mesh.bus.flush()
                consumer.resize(2)
                for _ in range(turns % 50):
                    await asyncio.sleep(0)
