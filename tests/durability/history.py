"""What the streams tell of a run when all is over, and whether that can be true.

The checks are the invariants of the protocol: one unforked chain with a step after the other,
each task applied once, slots written once, and events without a gap that end once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from langmesh.bus.reading import read_page
from langmesh.log import Logs
from langmesh.testing import LocalMesh
from langmesh.wire import codec, subjects
from langmesh.wire.log import SuperstepRecord, decode_entry
from langmesh.wire.messages import AnyEvent, RunEnded, RunInterrupted, RunStarted, TaskEnded
from langmesh.wire.names import partition
from langmesh.wire.streams import EVENT, LOG, SLOT


@dataclass(frozen=True, slots=True)
class History:
    """A run as the streams have it."""

    events: list[AnyEvent]
    applied: list[str]
    """Ids of the tasks whose writes are in the thread's checkpoints, in order."""
    parents: list[tuple[str, str]]
    """Each checkpoint of the thread with the one before it, in order."""
    epochs: list[int]
    """Of the owners that wrote the thread's entries, in order."""
    writers: list[str]
    """The owners themselves, likewise."""
    slots: list[str]
    """Subject of each outcome of the thread."""

    @property
    def drivers(self) -> list[str]:
        """The coordinators that began it or went on after an answer."""
        return [event.coordinator for event in self.events if isinstance(event, RunStarted)]


async def history_of(mesh: LocalMesh, run: RunEnded | RunInterrupted, graph: str) -> History:
    """Read a run back; its thread must have no other one."""
    place = partition("default", run.thread_id)
    state = await Logs(mesh.bus, tenant="default", writer="test").shared(run.thread_id).load()
    steps = [record for _, record in state.journal if isinstance(record, SuperstepRecord)]
    checkpoints = sorted(state.checkpoints)
    event = subjects.event("default", graph, run.thread_id, run.run_id)
    log = await _all(mesh, LOG.name, subjects.log(place, "default", run.thread_id))
    entries = [decode_entry(body)[0] for _, body in log]
    slots = await _all(mesh, SLOT.name, f"mesh.v1.slot.{place}.default.{graph}.>")
    return History(
        events=[codec.decode_event(body) for _, body in await _all(mesh, EVENT.name, event)],
        applied=[task.task_id for step in steps for task in step.applied],
        parents=[(each, state.checkpoints[each].parent_id) for each in checkpoints],
        epochs=[entry.epoch for entry in entries],
        writers=[entry.writer for entry in entries],
        slots=[subject for subject, _ in slots],
    )


def problems(history: History, *, interrupts: int = 0) -> list[str]:
    """All that cannot be; nothing if the history holds.

    Args:
        history: Of a run that is over.
        interrupts: How often it asked a human.
    """
    found: list[str] = []
    numbers = [event.seq for event in history.events]
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"I11: events are numbered {numbers}")
    ends = Counter(type(e) for e in history.events if isinstance(e, RunEnded | RunInterrupted))
    if ends[RunEnded] != 1 or not isinstance(history.events[-1], RunEnded):
        found.append(f"I11: {ends[RunEnded]} ends")
    if ends[RunInterrupted] != interrupts:
        found.append(f"gates: asked {ends[RunInterrupted]} times, not {interrupts}")
    # One that asked a human is run once more with the answer.
    ended = Counter(
        e.task_id
        for e in history.events
        if isinstance(e, TaskEnded) and e.status != "interrupt" and not e.caller
    )
    applied = Counter(history.applied)
    found += [f"I4: task {task} was applied {n} times" for task, n in applied.items() if n > 1]
    found += [f"I4: task {task} ended {n} times" for task, n in ended.items() if n > 1]
    if ended.keys() != applied.keys():
        found.append(f"I4: ended {sorted(ended)}, applied {sorted(applied)}")
    before = ["", *(checkpoint for checkpoint, _ in history.parents[:-1])]
    if [parent for _, parent in history.parents] != before:
        found.append(f"I2: the chain forks: {history.parents}")
    if history.epochs != sorted(history.epochs):
        found.append(f"I8: epochs {history.epochs}")
    twice = [subject for subject, n in Counter(history.slots).items() if n > 1]
    if twice:
        found.append(f"I5: slots written twice: {twice}")
    return found


async def verify(
    mesh: LocalMesh, run: RunEnded | RunInterrupted, graph: str, *, interrupts: int = 0
) -> History:
    """Read a run back and hold it against the invariants."""
    history = await history_of(mesh, run, graph)
    assert problems(history, interrupts=interrupts) == []
    return history


async def _all(mesh: LocalMesh, stream: str, pattern: str) -> Sequence[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    start, more = 1, True
    while more:
        page, more = await read_page(mesh.bus, stream, pattern, start_seq=start)
        for message in page:
            found.append((message.subject, message.body))
            start = message.seq + 1
    return found
