"""The runs that this coordinator drives, and those that wait for their turn on a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from langmesh.bus import Bus
from langmesh.clock import monotonic
from langmesh.coordinator.events import Usurped
from langmesh.coordinator.journal import LastRun
from langmesh.coordinator.revival import revived, tell_the_rest, writer_behind
from langmesh.coordinator.run import Again, Run
from langmesh.coordinator.tasks import Engine
from langmesh.coordinator.threads import NotOwned, Thread, Threads
from langmesh.errors import ErrorCode, MeshError
from langmesh.log import Fenced
from langmesh.service.ending import end
from langmesh.service.load import Counts

log = logging.getLogger(__name__)

_RETRY_S: Final = 1.0
_STOP_S: Final = 2.0
"""How long the last events of runs that go to another owner are waited for."""


class Source(Protocol):
    """What a run was made of; it hears how far the run has come."""

    def begun(self) -> None:
        """The run's beginning is in the log: nothing else is needed to finish it."""

    def over(self) -> None:
        """The run ended, or waits for a human."""

    def left(self) -> None:
        """Another coordinator has the run, or makes it if the log does not hold it."""


@dataclass(slots=True, eq=False)
class Live:
    """A run that is queued or driven here; one that goes on after an interrupt is a new one."""

    run: Run
    key: object
    """What it is known by: its submission's stream sequence, or the run of another owner."""
    source: Source | None
    """Its submission; None for a run that another owner began."""
    queued: bool = True
    since: float = field(default_factory=monotonic)
    """When it was accepted."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run's end or its interrupt is stored, or another coordinator has the run."""
    driver: asyncio.Task[None] | None = None
    telling: asyncio.Task[None] | None = None
    """Waits to tell the source that the run has begun."""


class LiveRuns:
    """Drives runs, those of a thread one after the other."""

    def __init__(self, bus: Bus, engine: Engine, threads: Threads) -> None:
        self._bus = bus
        self._engine = engine
        self.threads = threads
        self._live: dict[object, Live] = {}
        self.counts = Counts()
        self.on_load: Callable[[int], None] = lambda _: None
        """Told when :attr:`in_flight` changes: the submission that is settled, or 0."""
        self.on_left: Callable[[str, str], None] = lambda _tenant, _thread_id: None
        """Told which thread's run another coordinator seems to have, though nobody said so."""
        self._drivers: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """Drive no more; others go on with what is unfinished."""
        await end(self._drivers)
        self.threads.close()

    def add(self, run: Run, submit_seq: int, source: Source) -> None:
        """Drive a new run when the others of its thread are over."""
        live = self._live[submit_seq] = Live(run, submit_seq, source)
        run.thread.waiting.append(live)
        self.on_load(0)
        if not run.thread.busy:
            self._next(run.thread)

    def attach(self, live: Live, source: Source) -> None:
        """Let the submission of a run that was found in the log hear how far it has come."""
        live.source = source
        if not live.queued:
            self._tell_when_begun(live, source)

    async def release(self, partitions: Collection[int]) -> None:
        """Let go of the threads of partitions, for another owner to go on with."""
        self.threads.drop(partitions)
        gone = [each for each in self._live.values() if each.run.thread.partition in partitions]
        for live in gone:
            live.run.thread.waiting.clear()
        await end(each.driver for each in gone if each.driver is not None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await asyncio.gather(*(each.run.events.stop() for each in gone))
        for live in gone:
            self._settle(live, left=True)

    @property
    def in_flight(self) -> int:
        """How many runs are queued or driven here."""
        return len(self._live)

    def find(self, tenant: str, run_id: str) -> Live | None:
        """The run of an id that is queued or driven here; the last one if there are more."""
        for live in reversed(self._live.values()):
            if live.run.id == run_id and live.run.tenant == tenant:
                return live
        return None

    def drives(self, tenant: str, thread_id: str) -> bool:
        """Whether a run of a thread is driven here, or waits for its turn."""
        thread = self.threads.find(tenant, thread_id)
        return thread is not None and (thread.busy or bool(thread.waiting))

    def cancel(self, live: Live) -> None:
        """Call a run off; nothing happens if its last event is on its way."""
        live.run.call_off()
        if live.queued:
            live.run.thread.waiting.remove(live)
            self._start(live)

    @contextlib.asynccontextmanager
    async def holding(self, tenant: str, thread_id: str) -> AsyncIterator[Thread]:
        """Let the runs of a thread wait while the block works on its state.

        Raises:
            MeshError: BUSY while a run or another such block is at work; as ``Threads.using``.
        """
        async with self.threads.using(tenant, thread_id) as thread:
            while (live := thread.active) is not None and live.run.closing:
                # Clients may know its end before the broker's acknowledgements are here.
                await live.over.wait()
            last = (await thread.journal()).last
            if thread.busy or (last is not None and last.phase == "running"):
                raise MeshError(
                    ErrorCode.BUSY, f"thread_id: a run is active on {thread_id[:100]!r}"
                )
            thread.held = True
            try:
                yield thread
            finally:
                thread.held = False
                self._next(thread)

    async def asking(self, tenant: str, graph: str, thread_id: str) -> Run | None:
        """The run with which a thread waits for a human.

        Raises:
            MeshError: As ``Threads.using``.
        """
        async with self.threads.using(tenant, thread_id) as thread, thread.reviving:
            if thread.latest is None:
                last = (await thread.journal()).last
                if last is None or last.phase != "asking":
                    return None
                thread.latest = await revived(self._bus, self._engine, thread, last)
            run = thread.latest
            return run if run.graph == graph and run.asking else None

    async def take_over(self, tenant: str, thread_id: str, *, mark: int = 0) -> Live | None:
        """Go on with a thread's run that nobody drives; None if there is none.

        Args:
            tenant: Whose thread.
            thread_id: Its name.
            mark: Stream sequence of its mark in ACTIVE; 0 if it is not known.

        Raises:
            MeshError: As ``Threads.using``; UNKNOWN_GRAPH and the like: it cannot be driven here.
        """
        async with self.threads.using(tenant, thread_id) as thread, thread.reviving:
            last = (await thread.journal()).last
            if (live := thread.active or next(iter(thread.waiting), None)) is not None:
                return live
            if last is None or last.phase != "running":
                if mark:
                    await self._fence(thread, last)
                return None
            run = await revived(self._bus, self._engine, thread, last, mark=mark)
            if not self.threads.has(thread):
                await run.events.stop()
                raise NotOwned(thread_id)
            live = Live(run, last.begun.submit_seq, None)
            if live.key in self._live:
                live.key = run
            self._live[live.key] = live
            thread.waiting.appendleft(live)
            self.on_load(0)
            log.info("going on with run %s of thread %s", run.id, thread_id)
            if not thread.busy:
                self._next(thread)
            return live

    async def _fence(self, thread: Thread, last: LastRun | None) -> None:
        """Let a mark without a run that goes on be of no use to whoever set it.

        That may be an owner before, about to state the run: after this entry it cannot.
        """
        if thread.held:
            raise MeshError(ErrorCode.BUSY, f"thread {thread.name[:100]!r} is worked on")
        if last is not None:
            await tell_the_rest(self._bus, thread, last)
        await thread.append(())

    def _next(self, thread: Thread) -> None:
        if not thread.waiting:
            thread.active = None
            return
        live = thread.waiting.popleft()
        thread.active, thread.latest = live, live.run
        self._start(live)

    def _start(self, live: Live) -> None:
        live.queued = False
        driver = live.driver = asyncio.get_running_loop().create_task(self._drive(live))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)

    async def _drive(self, live: Live) -> None:
        if live.source is not None:
            self._tell_when_begun(live, live.source)
        thread, started, left = live.run.thread, monotonic(), False
        self.counts.begin(started - live.since)
        try:
            await self._drive_until_over(live)
        except Usurped as exc:
            log.warning("run %s went to another coordinator: %s", live.run.id, exc)
            left = True
        except asyncio.CancelledError:
            # This coordinator stops: another one goes on with the run, and no other begins.
            raise
        except Exception:
            log.exception("driving run %s failed", live.run.id)
        finally:
            if live.telling is not None:
                live.telling.cancel()
        self.counts.end(monotonic() - started, failed=live.run.failed)
        if left and thread.latest is live.run:
            # What it knows of its events and of its mark is no guide any more.
            thread.latest = None
        self._settle(live, left=left)
        if thread.active is live:
            self._next(thread)
        if left and self.threads.has(thread):
            self.on_left(thread.tenant, thread.name)

    async def _drive_until_over(self, live: Live) -> None:
        while True:
            try:
                with live.run.span.activate():
                    await live.run.drive()
            except Again:
                await asyncio.sleep(_RETRY_S)
            except Usurped:
                # Whoever else told of the run may not own it: only the log decides.
                if live.run.thread.log.failed:
                    raise
            else:
                return
            if not await self._begin_again(live):
                return

    async def _begin_again(self, live: Live) -> bool:
        """Make of a run what its log says, as another owner would.

        Returns:
            Whether it is to be driven.

        Raises:
            Usurped: Another owner wrote to the log.
        """
        run, thread = live.run, live.run.thread
        while True:
            try:
                await run.events.stop()
                await thread.log.refresh()
                journal = await thread.journal()
                last = journal.last
                if last is None or run.submitted.key not in journal.submissions:
                    run.restart(await writer_behind(self._bus, run))
                    return True
                if last.started.run_id == run.id and last.phase == "running":
                    live.run = await revived(self._bus, self._engine, thread, last, mark=run.mark)
                    thread.latest = live.run
                    return True
                await tell_the_rest(self._bus, thread, last)
                await run.mark.clear()
                thread.latest = None
            except Fenced as exc:
                raise Usurped(str(exc)) from exc
            except MeshError as exc:
                if not exc.retryable:
                    raise
                log.warning("run %s waits for the broker: %s", run.id, exc.message)
                await asyncio.sleep(_RETRY_S)
            else:
                return False

    @staticmethod
    def _tell_when_begun(live: Live, source: Source) -> None:
        async def tell() -> None:
            await live.run.log.begun.wait()
            source.begun()

        live.telling = asyncio.get_running_loop().create_task(tell())

    def _settle(self, live: Live, *, left: bool = False) -> None:
        """Note that a run is over, asks, or is somebody else's."""
        if self._live.pop(live.key, None) is None:
            return
        live.over.set()
        if live.source is not None:
            if left:
                live.source.left()
            else:
                live.source.over()
        self.on_load(live.key if isinstance(live.key, int) else 0)
