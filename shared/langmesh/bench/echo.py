"""The other end of the raw hop: ``python -m langmesh.bench.echo NATS_URL STREAM``."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from langmesh.bus import connect


async def echo(url: str, stream: str) -> None:
    """Send every message of ``<stream>.there`` back on ``<stream>.back``, until killed."""
    async with connect(url, name="echo") as bus:
        js = bus.client.jetstream()

        async def on_message(message: Any) -> None:
            await js.publish(f"{stream}.back", message.data)
            await message.ack()

        await js.subscribe(f"{stream}.there", durable="there", cb=on_message, manual_ack=True)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(echo(*sys.argv[1:]))
