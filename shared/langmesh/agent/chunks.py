"""Output of a node while it runs: numbered, in order, published without waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from langmesh.bus import Bus
from langmesh.errors import MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import Chunk, ExecuteTask

log = logging.getLogger(__name__)


class ChunkWriter:
    """Publishes the chunks of one attempt; :meth:`write` may be called from any thread."""

    def __init__(self, bus: Bus, message: ExecuteTask) -> None:
        context = message.context
        self._bus = bus
        self._message = message
        self._subject = subjects.chunk(
            context.tenant, context.graph, context.thread, context.run, context.node
        )
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None
        self.count = 0

    def write(self, mode: str, namespace: list[str], data: Any) -> None:
        """Queue one chunk."""
        context, payload = self._message.context, self._message.payload
        with self._lock:
            body = codec.encode_json(
                Chunk(
                    run_id=context.run,
                    thread_id=context.thread,
                    node=context.node,
                    task_id=payload.task_id,
                    attempt=payload.attempt,
                    n=self.count + 1,
                    mode=mode,
                    namespace=namespace,
                    data=data,
                )
            )
            self.count += 1
            self._loop.call_soon_threadsafe(self._enqueue, body)

    def _enqueue(self, body: bytes) -> None:
        if self._pump is None:
            self._pump = self._loop.create_task(self._publish_all())
        self._queue.put_nowait(body)

    async def _publish_all(self) -> None:
        while (body := await self._queue.get()) is not None:
            try:
                if self._queue.empty():
                    await self._bus.append(self._subject, body)
                else:
                    await self._bus.publish(self._subject, body)
            except MeshError as exc:
                log.warning("a chunk was lost: %s", exc)

    async def finish(self) -> int:
        """Wait until every chunk is stored, and return how many there were."""
        # Chunks written from a thread reach the queue through the loop; let those callbacks run first.
        await asyncio.sleep(0)
        if self._pump is not None:
            self._queue.put_nowait(None)
            await self._pump
        return self.count
