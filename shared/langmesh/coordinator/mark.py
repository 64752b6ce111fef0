"""The mark of a thread with an unfinished run in stream ACTIVE: where the next owner looks (R9)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from langmesh.bus import Bus
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import subjects
from langmesh.wire.names import partition
from langmesh.wire.streams import ACTIVE

log = logging.getLogger(__name__)

_RETRY_S: Final = 0.25


class Mark:
    """Sets and clears one thread's mark; it is there from before the run's beginning is logged.

    A mark that was left behind costs whoever finds it one look into the thread's log.

    Args:
        bus: The connection.
        tenant: Whose thread.
        thread: Its name.
        run: Id of the run.
        seq: The mark's stream sequence, if it is there already.
    """

    def __init__(self, bus: Bus, tenant: str, thread: str, run: str, *, seq: int = 0) -> None:
        self._bus = bus
        self._subject = subjects.active(partition(tenant, thread), tenant, thread)
        self._body = run.encode()
        self._seq = seq
        self._setting: asyncio.Future[int] | None = None

    def begin(self) -> None:
        """Send the mark; the broker stores later what is sent later on the same connection."""
        if self._seq or self._setting is not None:
            return
        setting = self._setting = asyncio.get_running_loop().create_future()

        def on_answer(answer: int | Exception) -> None:
            if setting.done():
                return
            if isinstance(answer, int):
                setting.set_result(answer)
            else:
                setting.set_exception(answer)
                setting.exception()

        self._bus.append_nowait(self._subject, self._body, on_answer)

    async def set(self) -> None:
        """Wait until the mark is stored, however long the broker is away."""
        while not self._seq:
            self.begin()
            assert self._setting is not None
            try:
                self._seq = await asyncio.shield(self._setting)
            except MeshError as exc:
                log.warning("a thread is not marked yet: %s", exc.message)
                self._setting = None
                await asyncio.sleep(_RETRY_S)

    async def clear(self) -> None:
        """Take the mark away; it is harmless if that fails."""
        if self._setting is not None and not self._seq:
            await self.set()
        if not self._seq:
            return
        try:
            await self._bus.delete(ACTIVE.name, self._seq)
        except MeshError as exc:
            if exc.code == ErrorCode.BROKER_UNAVAILABLE:
                log.info("a mark is left behind: %s", exc.message)
        self._seq, self._setting = 0, None
