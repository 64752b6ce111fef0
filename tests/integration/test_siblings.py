"""What becomes of the tasks beside one that fails."""

import asyncio

from langmesh.testing import local_mesh
from langmesh.wire.messages import RunEnded, TaskEnded, TaskStarted

SOURCE = "tests.graphs.siblings:graph"


async def test_the_sibling_of_a_failed_task_is_called_off_and_said_to_be_over():
    async with (
        local_mesh() as mesh,
        mesh.coordinator(SOURCE),
        mesh.agents(SOURCE),
        mesh.client("siblings") as client,
        asyncio.timeout(30),
    ):
        handle = await client.submit({"x": 0})
        events = [event async for event in handle.events()]
    started = {event.task_id for event in events if isinstance(event, TaskStarted)}
    ended = {event.node: event.status for event in events if isinstance(event, TaskEnded)}
    assert ended == {"fails": "error", "lasts": "cancelled"}
    assert started == {event.task_id for event in events if isinstance(event, TaskEnded)}
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "error"


async def test_a_result_too_large_for_a_message_is_stored_before_the_run_counts_as_over():
    """Pins the window in which the last event is neither queued nor on its way."""
    from langmesh.coordinator.events import EventWriter
    from langmesh.wire import subjects
    from langmesh.wire.streams import EVENT

    async with local_mesh() as mesh, asyncio.timeout(30):
        subject = subjects.event("default", "g", "t", "r")
        writer = EventWriter(mesh.bus, subject, run_id="r", thread_id="t")
        writer.emit(RunEnded, status="success", output={"x": "y" * 2_000_000})
        await writer.flush()
        assert await mesh.bus.last(EVENT.name, subject) is not None
