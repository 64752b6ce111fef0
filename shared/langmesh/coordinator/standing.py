"""How a run stands: in this coordinator's memory while it lives, in its last event afterwards."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import msgspec

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.coordinator.events import EventWriter, Usurped
from langmesh.coordinator.live import Live, LiveRuns
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import AnyEvent, RunAccepted, RunEnded, RunInterrupted
from langmesh.wire.rpc import RunView
from langmesh.wire.streams import EVENT

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stored:
    """The last event of a run."""

    subject: str
    stream_seq: int
    event: AnyEvent | codec.UnknownEvent

    @property
    def settled(self) -> bool:
        return isinstance(self.event, RunEnded | RunInterrupted)


class Standing:
    """Tells how runs stand, waits for them and ends them."""

    def __init__(self, bus: Bus, runs: LiveRuns) -> None:
        self._bus = bus
        self._runs = runs

    async def now(self, tenant: str, run_id: str) -> RunView:
        """How a run stands.

        Raises:
            MeshError: UNKNOWN_RUN.
        """
        live = self._runs.find(tenant, run_id)
        if live is not None and live.run.closing:
            # Its last event may be with clients before the broker's acknowledgement is here.
            await live.over.wait()
            live = self._runs.find(tenant, run_id)
        return _live_view(live) if live is not None else _view(await self._stored(tenant, run_id))

    async def settled(self, tenant: str, run_id: str, *, timeout_s: float) -> RunView:
        """How a run stands once it is over or asks a human, or when the time has passed.

        Raises:
            MeshError: UNKNOWN_RUN.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if (live := self._runs.find(tenant, run_id)) is not None:
                        await live.over.wait()
                        continue
                    stored = await self._stored(tenant, run_id)
                    if stored.settled and self._runs.find(tenant, run_id) is None:
                        return _view(stored)
                    await self._follow(stored)
        except TimeoutError:
            return msgspec.structs.replace(await self.now(tenant, run_id), timed_out=True)

    async def thread_of(self, tenant: str, run_id: str) -> str:
        """The thread of a run.

        Raises:
            MeshError: UNKNOWN_RUN.
        """
        if (live := self._runs.find(tenant, run_id)) is not None:
            return live.run.thread.name
        return subjects.parse_event((await self._stored(tenant, run_id)).subject).thread

    async def cancel(self, tenant: str, run_id: str) -> RunView:
        """End a run that is not over, and tell how it ended.

        Raises:
            MeshError: UNKNOWN_RUN.
        """
        while True:
            if (live := self._runs.find(tenant, run_id)) is not None:
                self._runs.cancel(live)
                await live.over.wait()
                continue
            stored = await self._stored(tenant, run_id)
            if isinstance(stored.event, RunEnded):
                return _view(stored)
            if self._runs.find(tenant, run_id) is None:
                await self._abandon(stored)

    async def _abandon(self, stored: _Stored) -> None:
        """End a run that nobody drives; whoever writes at the same time wins, and is read again."""
        names = subjects.parse_event(stored.subject)
        try:
            run = await self._runs.asking(names.tenant, names.graph, names.thread)
            if run is not None and run.id == names.run:
                await run.abandon()
                return
            live = await self._runs.take_over(names.tenant, names.thread)
            if live is not None and live.run.id == names.run:
                return
            # It has not begun: if the broker hands its submission over again, it finds it ended.
            events = EventWriter(
                self._bus,
                stored.subject,
                run_id=names.run,
                thread_id=names.thread,
                seq=stored.event.seq,
                last=stored.stream_seq,
            )
            events.emit(RunEnded, status="cancelled")
            await events.flush()
        except Usurped:
            log.info("run %s went on while it was to be cancelled", names.run)

    async def _stored(self, tenant: str, run_id: str) -> _Stored:
        found = await self._bus.find(EVENT.name, subjects.events_of_run(tenant, run_id))
        if found is None:
            raise MeshError(ErrorCode.UNKNOWN_RUN, f"run_id: no run {run_id[:100]!r} is known")
        subject, stream_seq, body = found
        return _Stored(subject, stream_seq, codec.decode_event(body))

    async def _follow(self, stored: _Stored) -> None:
        """Wait until a run that nobody drives here is over or asks, or is driven here."""
        told = asyncio.Event()

        def on_event(_subject: str, _body: bytes, _seq: int) -> None:
            # Whatever it says, it shows that the run is in somebody's hands again.
            told.set()

        after = stored.stream_seq + 1
        async with Tail(self._bus, EVENT.name, (stored.subject,), on_event, start_seq=after).run():
            await told.wait()


def _live_view(live: Live) -> RunView:
    run = live.run
    return RunView(
        run_id=run.id,
        thread_id=run.thread.name,
        graph=run.graph,
        status="queued" if live.queued else "running",
    )


def _view(stored: _Stored) -> RunView:
    names = subjects.parse_event(stored.subject)
    view = RunView(run_id=names.run, thread_id=names.thread, graph=names.graph, status="running")
    match stored.event:
        case RunEnded(status=status, output=output, error=error):
            return msgspec.structs.replace(view, status=status, output=output, error=error)
        case RunInterrupted(interrupts=interrupts):
            return msgspec.structs.replace(view, status="interrupted", interrupts=interrupts)
        case RunAccepted():
            return msgspec.structs.replace(view, status="queued")
        case _:
            return view
