"""What becomes of submissions, for requests in this process that wait to hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from langmesh.errors import MeshError
from langmesh.wire.rpc import RunReference


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a submission; nothing of the three: it was known, or is put off."""

    run: RunReference | None = None
    error: MeshError | None = None
    returned: bool = False
    """Whether another coordinator owns the thread."""


Tell = Callable[[Decision], None]


class Decisions:
    """Hands each decision to whoever published the submission, however early it falls."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[RunReference]] = {}
        self._early: dict[int, Decision] = {}
        self._publishing = 0

    def tell(self, submit_seq: int, decision: Decision) -> None:
        """Hand a decision over; it is dropped if nobody here published the submission."""
        if decision.run is None and decision.error is None:
            return
        future = self._waiting.get(submit_seq)
        if future is not None:
            _resolve(future, decision)
        elif self._publishing:
            # The submission can be decided on before its acknowledgement tells us its sequence.
            self._early[submit_seq] = decision

    async def publish(self, publishing: Awaitable[int]) -> tuple[int, asyncio.Future[RunReference]]:
        """Publish a submission; returns its sequence and the decision to come.

        A rejection is the future's exception. Call :meth:`forget` when done with it.
        """
        self._publishing += 1
        try:
            seq = await publishing
            future: asyncio.Future[RunReference] = asyncio.get_running_loop().create_future()
            self._waiting[seq] = future
            if seq in self._early:
                _resolve(future, self._early.pop(seq))
            return seq, future
        finally:
            self._publishing -= 1
            if not self._publishing:
                self._early.clear()

    def forget(self, submit_seq: int) -> None:
        """Wait no longer."""
        self._waiting.pop(submit_seq, None)


def _resolve(future: asyncio.Future[RunReference], decision: Decision) -> None:
    if future.done():
        return
    if decision.error is not None:
        future.set_exception(decision.error)
    else:
        assert decision.run is not None
        future.set_result(decision.run)
