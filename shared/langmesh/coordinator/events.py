"""What clients see of a run: numbered from 1 without gaps, written by one coordinator at a time.

Each event is appended under the condition that the one before it is still the subject's last (rule R10), so that two
coordinators that both believe to own a run cannot both write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Final

import msgspec

from langmesh.bus import Bus, Conflict
from langmesh.bus.blobs import Blobs
from langmesh.clock import now_iso
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec
from langmesh.wire.messages import Event
from langmesh.wire.streams import EVENT

log = logging.getLogger(__name__)

_QUEUE_MAX: Final = 256
_RETRY_S: Final = 0.25


class Usurped(Exception):
    """Another coordinator writes this run's events."""


class EventWriter:
    """Appends the events of one run, in order, without making the run wait for each."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        *,
        run_id: str,
        thread_id: str,
        seq: int = 0,
        last: int = 0,
    ) -> None:
        self._bus = bus
        self._blobs = Blobs(bus)
        self._subject = subject
        self._run_id = run_id
        self._thread_id = thread_id
        self._seq = seq
        self._last = last
        self._queue: deque[Event] = deque()
        self._changed = asyncio.Condition()
        self._writer: asyncio.Task[None] | None = None
        self.usurped = False

    def emit(self, kind: type[Event], **fields: Any) -> None:
        """Queue an event; its number and time are those of this call."""
        self._seq += 1
        self._queue.append(
            kind(
                seq=self._seq,
                run_id=self._run_id,
                thread_id=self._thread_id,
                time=now_iso(),
                **fields,
            )
        )
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())

    async def room(self) -> None:
        """Wait while too many events are queued: a slow broker slows the run down."""
        if len(self._queue) >= _QUEUE_MAX:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._queue) < _QUEUE_MAX or self.usurped)

    async def flush(self) -> None:
        """Wait until everything queued is stored.

        Raises:
            Usurped: Another coordinator took the run over.
        """
        if self._writer is not None:
            await asyncio.shield(self._writer)
        if self.usurped:
            raise Usurped(self._subject)

    async def _write_all(self) -> None:
        while self._queue and not self.usurped:
            event = self._queue[0]
            await self._append(await self._body(event))
            self._queue.popleft()
            if len(self._queue) == _QUEUE_MAX - 1 or self.usurped:
                async with self._changed:
                    self._changed.notify_all()
        self._writer = None

    async def _append(self, body: bytes) -> None:
        while True:
            try:
                self._last = await self._bus.append(self._subject, body, expected_last=self._last)
            except Conflict:
                found = await self._bus.last(EVENT.name, self._subject)
                if found is not None and found[1] == body:
                    # An acknowledgement was lost: the event before was stored, and it is this one.
                    self._last = found[0]
                else:
                    log.error("another coordinator writes %s", self._subject)
                    self.usurped = True
            except MeshError as exc:
                log.warning("an event is not stored yet: %s", exc)
                await asyncio.sleep(_RETRY_S)
                continue
            return

    async def _body(self, event: Event) -> bytes:
        """Encode an event; what is too large for a message goes to the object store."""
        try:
            return codec.encode_json(event)
        except MeshError as exc:
            field = next((f for f in ("output", "data", "interrupts") if hasattr(event, f)), None)
            if field is None:
                raise
            replacement: Any = {"error": exc.message}
            if exc.code == ErrorCode.PAYLOAD_TOO_LARGE:
                data = msgspec.json.encode(getattr(event, field), enc_hook=repr)
                replacement = {"blob": await self._blobs.put(data), "bytes": len(data)}
            if field == "interrupts":
                replacement = [replacement]
            return codec.encode_json(msgspec.structs.replace(event, **{field: replacement}))
