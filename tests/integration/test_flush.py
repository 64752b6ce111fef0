"""What has been sent when ``flush`` returns."""

from __future__ import annotations

import asyncio

from nats.aio.msg import Msg

from langmesh.testing import LocalMesh


async def ignore(message: Msg) -> None:
    """Take a message."""


async def test_flush_returns_when_the_server_has_all_that_came_before(mesh: LocalMesh) -> None:
    client = mesh.bus.client
    for n in range(20):
        subscription = await client.subscribe(f"echo.{n}", cb=ignore)
        for _ in range(50):
            await client.publish(f"echo.{n}", b"x" * 1000)
        await mesh.bus.flush()
        # The server sends the echoes before the answer to what came after them.
        assert subscription.delivered == 50


async def test_the_answer_to_a_flush_that_was_given_up_does_no_harm(mesh: LocalMesh) -> None:
    given_up = asyncio.create_task(mesh.bus.client.flush())
    await asyncio.sleep(0)
    given_up.cancel()
    for _ in range(3):
        assert "error" not in await mesh.bus.api("INFO")
