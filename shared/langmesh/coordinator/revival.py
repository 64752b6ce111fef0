"""Make a run of what a thread's log says of it, so that this coordinator can go on with it."""

from __future__ import annotations

from collections import Counter

from langmesh.bus import Bus
from langmesh.bus.reading import read_page
from langmesh.coordinator.events import EventWriter, told
from langmesh.coordinator.journal import LastRun
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.run import Run, Submitted
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import Thread
from langmesh.telemetry import attributes
from langmesh.wire import codec, subjects
from langmesh.wire.messages import Event
from langmesh.wire.streams import EVENT


async def revived(
    bus: Bus, engine: Engine, thread: Thread, last: LastRun, *, mark: int | Mark = 0
) -> Run:
    """The last run of a thread, to be driven or to be answered.

    Args:
        bus: The connection.
        engine: What the coordinator's runs share.
        thread: The thread.
        last: How the log says that its run stands.
        mark: The thread's mark, or its stream sequence.

    Raises:
        MeshError: UNKNOWN_GRAPH and the like: it cannot be driven here; BROKER_UNAVAILABLE.
    """
    started = last.started
    loaded = await engine.catalog.pinned(thread.tenant, started.graph, started.revision)
    run = Run(
        engine=engine,
        thread=thread,
        graph=started.graph,
        id=started.run_id,
        loaded=loaded,
        submitted=Submitted(
            epoch=last.begun.submit_epoch,
            seq=last.begun.submit_seq,
            body=last.begun.submission,
            submission=codec.decode_submission(last.begun.submission),
        ),
        events=await _continued(bus, thread, last),
        span=engine.tracer.begin(
            attributes.invoke_workflow(
                tenant=thread.tenant,
                graph=started.graph,
                revision=loaded.topology.revision,
                thread=thread.name,
                run=started.run_id,
            ),
            parent=started.traceparent,
        ),
        mark=mark
        if isinstance(mark, Mark)
        else Mark(bus, thread.tenant, thread.name, started.run_id, seq=mark),
        before=last,
        asking=last.phase == "asking",
    )
    run.count_before(last)
    return run


async def _continued(bus: Bus, thread: Thread, last: LastRun) -> EventWriter:
    """A writer behind what is stored, that tells what the log holds and nobody was told.

    What was told after the log's last word is left out when the loop comes to it again.
    """
    started = last.started
    subject = subjects.event(thread.tenant, started.graph, thread.name, started.run_id)
    stored = await _stored(bus, subject)
    behind = [codec.decode_event(body) for _, body in stored]
    seq = behind[-1].seq if behind else last.seq - len(last.events)
    missing = [body for body in last.events if codec.decode_event(body).seq > seq]
    said = Counter(
        told(event) for event in behind if isinstance(event, Event) and event.seq > last.seq
    )
    writer = EventWriter(
        bus,
        subject,
        run_id=started.run_id,
        thread_id=thread.name,
        seq=seq,
        last=stored[-1][0] if stored else 0,
        told=said,
    )
    writer.tell_again(missing)
    return writer


async def tell_the_rest(bus: Bus, thread: Thread, last: LastRun) -> None:
    """Store what the log has to tell of a run that is over or asks, and nobody was told.

    Raises:
        Usurped: Another coordinator does.
        MeshError: BROKER_UNAVAILABLE.
    """
    writer = await _continued(bus, thread, last)
    await writer.flush()


async def writer_behind(bus: Bus, run: Run) -> EventWriter:
    """A writer behind what is stored of a run that is in no log."""
    stored = await _stored(bus, run.events.subject)
    return EventWriter(
        bus,
        run.events.subject,
        run_id=run.id,
        thread_id=run.thread.name,
        seq=codec.decode_event(stored[-1][1]).seq if stored else 0,
        last=stored[-1][0] if stored else 0,
    )


async def _stored(bus: Bus, subject: str) -> list[tuple[int, bytes]]:
    """The stored events of a run as (stream sequence, body)."""
    found: list[tuple[int, bytes]] = []
    more = True
    while more:
        start = found[-1][0] + 1 if found else 1
        page, more = await read_page(bus, EVENT.name, subject, start_seq=start)
        found += [(message.seq, message.body) for message in page]
    return found
