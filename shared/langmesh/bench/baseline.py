"""What the mesh is compared with: LangGraph in one process, and a bare durable NATS hop."""

from __future__ import annotations

import asyncio
import sys
from statistics import median
from typing import Any

from langmesh.bench.chain import chain
from langmesh.bus import connect
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


async def raw_hop_ms(url: str, *, hops: int) -> float:
    """Median milliseconds of one durable hop from process to process, one message at a time.

    Made of the stock client's own parts: ``js.publish`` with its acknowledgement into a work queue
    in a file, a pushed durable consumer, ``msg.ack``. Another process sends each message back the
    same way; a hop is half of the way there and back.

    Args:
        url: The nats-server.
        hops: At least 2; half of them go there, half come back.
    """
    name = f"BENCH-{new_id()[:8]}"
    async with connect(url, name="raw hop") as bus:
        js = bus.client.jetstream()
        await js.add_stream(
            name=name, subjects=[f"{name}.there", f"{name}.back"], retention="workqueue"
        )
        echo = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "langmesh.bench.echo", url, name, stdout=asyncio.subprocess.PIPE
        )
        arrived = asyncio.Event()

        async def on_message(message: Any) -> None:
            await message.ack()
            arrived.set()

        try:
            assert echo.stdout is not None
            await echo.stdout.readline()
            await js.subscribe(f"{name}.back", durable="back", cb=on_message, manual_ack=True)
            times = []
            for _ in range(hops // 2):
                arrived.clear()
                started = monotonic()
                await js.publish(f"{name}.there", b"x" * 256)
                await arrived.wait()
                times.append((monotonic() - started) * 1000 / 2)
        finally:
            echo.terminate()
            await echo.wait()
            await js.delete_stream(name)
    return median(times)
