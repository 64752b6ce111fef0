"""Output of a node while it runs: numbered, in order, published without waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

from langmesh.bus import Bus
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
        self._unstored = 0
        self._stored = asyncio.Event()
        self.count = 0

    def write(self, mode: str, namespace: list[str], data: Any) -> None:
        """Publish one chunk, soon."""
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
            self._loop.call_soon_threadsafe(self._publish, body)

    def _publish(self, body: bytes) -> None:
        self._unstored += 1
        self._stored.clear()
        self._bus.append_nowait(self._subject, body, self._on_stored)

    def _on_stored(self, result: int | Exception) -> None:
        if isinstance(result, Exception):
            log.warning("a chunk was lost: %s", result)
        self._unstored -= 1
        if not self._unstored:
            self._stored.set()

    async def finish(self) -> int:
        """Wait until every chunk is stored, and return how many there were."""
        # Chunks written from a thread come through the loop; let those callbacks run first.
        await asyncio.sleep(0)
        if self._unstored:
            await self._stored.wait()
        return self.count
