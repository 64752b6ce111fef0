"""What the mesh is compared with: LangGraph in one process, and a bare durable NATS hop."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

from langmesh.bench.chain import chain
from langmesh.bus import Bus
from langmesh.clock import monotonic, new_id


async def langgraph_steps_per_s(steps: int, *, concurrency: int, seconds: float) -> float:
    """Steps per second of the chain in this process, without a saver."""
    graph = chain(steps).compile()
    end = monotonic() + seconds
    done = 0

    async def runs() -> None:
        nonlocal done
        while monotonic() < end:
            await graph.ainvoke({"n": 0}, {"recursion_limit": steps + 5})
            done += steps

    started = monotonic()
    await asyncio.gather(*(runs() for _ in range(concurrency)))
    return done / (monotonic() - started)


async def raw_hop_ms(bus: Bus, *, hops: int) -> float:
    """Median milliseconds of one durable hop: publish with acknowledgement, deliver, acknowledge.

    Made of the stock client's own parts (``js.publish``, a pushed durable consumer, ``msg.ack``) on
    a work queue in a file, one message at a time.
    """
    js = bus.client.jetstream()
    name = f"BENCH-{new_id()[:8]}"
    subject = f"bench.{name}"
    await js.add_stream(name=name, subjects=[subject], retention="workqueue")
    arrived = asyncio.Event()

    async def on_message(message: Any) -> None:
        await message.ack()
        arrived.set()

    try:
        await js.subscribe(subject, durable="hop", cb=on_message, manual_ack=True)
        times = []
        for _ in range(hops):
            arrived.clear()
            started = monotonic()
            await js.publish(subject, b"x" * 256)
            await arrived.wait()
            times.append((monotonic() - started) * 1000)
    finally:
        await js.delete_stream(name)
    return median(times)
