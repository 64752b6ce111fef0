"""What clients see of a run: numbered from 1 without gaps, written by one coordinator at a time.

Each event is appended under the condition that the one before it is still the subject's last (rule
R10), so that two coordinators that both believe to own a run cannot both write.

Events trail the run. So that none is lost with its coordinator, each entry of the thread's log
carries the events before it that are not stored yet (:meth:`EventWriter.unstored`), and what comes
of an entry is told when the entry is stored (:meth:`EventWriter.hold`). A successor stores the
former first, and leaves out what was told after the log's last entry (``told``).
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter, deque
from collections.abc import Hashable, Iterable
from typing import Any, Final

import msgspec

from langmesh.bus import Bus, Conflict
from langmesh.bus.blobs import Blobs
from langmesh.clock import now_iso
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec
from langmesh.wire.messages import (
    Event,
    StreamPart,
    TaskEnded,
    TaskRestarted,
    TaskStarted,
    TaskWaiting,
)
from langmesh.wire.streams import EVENT

log = logging.getLogger(__name__)

_QUEUE_MAX: Final = 256
_RETRY_S: Final = 0.25
_PATIENCE_S: Final = 0.0005
"""An event waits this long, so that the task that it tells of is on its way first."""


Told = tuple[Hashable, ...]
"""What makes two events of a run say the same."""


def told(event: Event) -> Told:
    """What an event says, whoever numbered it and when."""
    match event:
        case TaskStarted() | TaskRestarted():
            return type(event), event.task_id, event.attempt
        case TaskWaiting() | TaskEnded():
            return type(event), event.task_id
        case StreamPart(mode="debug", data=dict() as data):
            said = {name: value for name, value in data.items() if name != "timestamp"}
            return StreamPart, event.mode, codec.project_json(said)
        case StreamPart():
            return StreamPart, event.mode, codec.project_json(event.data)
        case _:
            return (type(event),)


class Usurped(Exception):
    """Another coordinator writes this run's events."""


class EventWriter:
    """Appends the events of one run in order; the run does not wait for them.

    One append is on its way at a time, since each names the stream sequence of the one before.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        *,
        run_id: str,
        thread_id: str,
        seq: int = 0,
        last: int = 0,
        told: Counter[Told] | None = None,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._run_id = run_id
        self._thread_id = thread_id
        self._seq = seq
        self._last = last
        self._told = told if told is not None else Counter()
        self._queue: deque[bytes | Event] = deque()
        """Encoded events, but for those that are too large as they are."""
        self._holds: deque[int] = deque()
        """Numbers of the last events before what waits for a release, oldest first."""
        self._stopped = False
        self._large = 0
        """How many events of the queue are too large as they are."""
        self._shrinking = asyncio.Lock()
        self._body: bytes | None = None
        """The event on its way."""
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._repair: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.usurped = False

    @property
    def subject(self) -> str:
        """Where the events go."""
        return self._subject

    @property
    def seq(self) -> int:
        """Number of the last event."""
        return self._seq

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """Queue an event; its number, time and contents are those of this call.

        An event that a coordinator before has told is left out.
        """
        event = kind(
            seq=self._seq + 1,
            run_id=self._run_id,
            thread_id=self._thread_id,
            time=now_iso(),
            **fields,
        )
        if self._told and self._told[key := told(event)] > 0:
            self._told[key] -= 1
            return
        self._seq += 1
        try:
            self._queue.append(codec.encode_json(event))
        except MeshError:
            self._queue.append(event)
            self._large += 1
        self._wake()

    def hold(self) -> None:
        """Do not send what is emitted from now on before a call of :meth:`release` for this one."""
        self._holds.append(self._seq)

    def release(self) -> None:
        """Send what the oldest hold keeps."""
        if self._holds:
            self._holds.popleft()
            self._wake()

    def release_all(self) -> None:
        """Send whatever is held."""
        self._holds.clear()
        self._wake()

    async def stop(self) -> None:
        """Send no more, and wait until it is known what became of the event on its way."""
        self._stopped = True
        while self._body is not None and not self.usurped:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((sys.maxsize, future))
            await future

    def tell_again(self, bodies: Iterable[bytes]) -> None:
        """Queue events that a coordinator before had numbered and not stored."""
        self._queue.extend(bodies)
        self._seq += len(self._queue)
        self._wake()

    @property
    def encoded(self) -> bool:
        """Whether no event is queued that has to be made smaller first."""
        return not self._large

    async def encode(self) -> None:
        """Make smaller what is too large as it is."""
        if self._large:
            await self._shrink()

    def unstored(self, seq: int | None = None) -> list[bytes]:
        """The events that are not known to be stored, in their order; call :meth:`encode` before.

        Args:
            seq: Only those up to this number.
        """
        bodies = [body for body in self._queue if isinstance(body, bytes)]
        if self._body is not None:
            bodies.insert(0, self._body)
        return bodies if seq is None else bodies[: max(0, len(bodies) - (self._seq - seq))]

    def _wake(self) -> None:
        if self._body is None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE_S, self._next)

    async def room(self) -> None:
        """Wait while too many events are queued: a slow broker slows the run down."""
        await self._until(_QUEUE_MAX)

    async def flush(self) -> None:
        """Wait until everything queued is stored.

        Raises:
            Usurped: Another coordinator took the run over.
        """
        await self._until(0)
        if self.usurped:
            raise Usurped(self._subject)

    async def _until(self, unstored_max: int) -> None:
        self._next()
        if self._unstored > unstored_max and not self.usurped:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((unstored_max, future))
            await future

    @property
    def _unstored(self) -> int:
        # An event that is made smaller is neither queued nor on its way, but not stored either.
        return len(self._queue) + (self._body is not None or self._repair is not None)

    def _next(self) -> None:
        """Send the oldest queued event unless one is on its way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._body is not None or self.usurped or self._repair is not None or self._stopped:
            return
        if not self._queue or (self._holds and self._seq - len(self._queue) >= self._holds[0]):
            return
        body = self._queue[0]
        if isinstance(body, bytes):
            self._body = body
            self._queue.popleft()
            self._send()
        else:
            self._repair = asyncio.get_running_loop().create_task(self._shrink_and_go_on())

    def _send(self) -> None:
        assert self._body is not None
        self._bus.append_nowait(self._subject, self._body, self._on_done, expected_last=self._last)

    def _on_done(self, result: int | Exception) -> None:
        if isinstance(result, int):
            self._stored(result)
        else:
            self._repair = asyncio.get_running_loop().create_task(self._recover(result))

    def _stored(self, stream_seq: int) -> None:
        self._last = stream_seq
        self._body = None
        self._next()
        for entry in [e for e in self._waiters if self._unstored <= e[0]]:
            self._waiters.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    async def _recover(self, problem: Exception) -> None:
        """An append failed or its outcome is unknown: find out, and go on or step back."""
        while True:
            if not isinstance(problem, Conflict):
                log.warning("an event is not stored yet: %s", problem)
                await asyncio.sleep(_RETRY_S)
            try:
                found = await self._bus.last(EVENT.name, self._subject)
            except MeshError as exc:
                problem = exc
                continue
            break
        self._repair = None
        if found is not None and found[1] == self._body:
            # The acknowledgement was lost, not the event.
            self._stored(found[0])
        elif (found[0] if found is not None else 0) == self._last:
            self._send()
        else:
            log.error("another coordinator writes %s", self._subject)
            self.usurped = True
            for _, future in self._waiters:
                if not future.done():
                    future.set_result(None)

    async def _shrink_and_go_on(self) -> None:
        await self._shrink()
        self._repair = None
        self._next()

    async def _shrink(self) -> None:
        """Move what is too large for a message to the object store; the queue keeps its order."""
        async with self._shrinking:
            for event in [each for each in self._queue if isinstance(each, Event)]:
                body = await self._shrunk(event)
                place = next(i for i, each in enumerate(self._queue) if each is event)
                self._queue[place] = body
                self._large -= 1

    async def _shrunk(self, event: Event) -> bytes:
        """An event that fits into a message."""
        try:
            return codec.encode_json(event)
        except MeshError as exc:
            problem = exc
        field = next((f for f in ("output", "data", "interrupts") if hasattr(event, f)), None)
        replacement: Any = {"error": problem.message}
        if field is not None and problem.code == ErrorCode.PAYLOAD_TOO_LARGE:
            data = codec.project_json(getattr(event, field))
            try:
                name = await Blobs(self._bus).put(data)
                replacement = {"blob": name, "bytes": len(data)}
            except MeshError as exc:
                log.warning("a large event keeps only its size: %s", exc)
                replacement = {"error": exc.message, "bytes": len(data)}
        if field == "interrupts":
            replacement = [replacement]
        if field is not None:
            event = msgspec.structs.replace(event, **{field: replacement})
        return codec.encode_json(event)
