"""One run: LangGraph's own loop, with every task carried through the mesh and every step logged.

Order of effects: 1. the run's beginning and the checkpoint that a task hangs on are in the log; 2.
the task goes out (R2). At the end: 1. the end is in the log; 2. clients are told.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Final

from langgraph.types import Command

from langmesh.coordinator.events import EventWriter, Usurped
from langmesh.coordinator.journal import LastRun, gate
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.runlog import RunLog
from langmesh.coordinator.tasks import Engine, Tasks
from langmesh.coordinator.threads import Thread
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat, seam
from langmesh.graphs.faults import error_info
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.remote import run_config
from langmesh.log import Fenced
from langmesh.telemetry.spans import Span
from langmesh.wire.log import (
    RunEndedRecord,
    RunInterruptedRecord,
    RunResumedRecord,
    RunStartedRecord,
)
from langmesh.wire.messages import (
    ErrorInfo,
    RunEnded,
    RunInterrupted,
    RunStarted,
    StreamPart,
    Submission,
)
from langmesh.wire.rpc import CallResult, CallTask

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.25
_AGENT_MODES: Final = frozenset({"custom", "messages"})


class Again(Exception):
    """The broker was away for long: the run goes on from its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A submission as it was published."""

    epoch: str
    """Tells apart the streams that SUBMIT has been."""
    seq: int
    body: bytes
    submission: Submission

    @property
    def key(self) -> tuple[str, int]:
        """What the log knows it by."""
        return self.epoch, self.seq


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """A run that was accepted; ``loaded`` pins its topology."""

    engine: Engine
    thread: Thread
    graph: str
    id: str
    loaded: LoadedGraph
    submitted: Submitted
    events: EventWriter
    span: Span
    resumed: bool = False
    restarted: bool = False
    before: LastRun | None = None
    """What a coordinator before left of it, if one did."""
    asking: bool = False
    """Whether it told clients that it waits for a human, and got no answer yet."""
    failed: bool = False
    """Whether it ended with an error."""
    closing: bool = False
    """Whether its last event, or the last one before an answer, is on its way."""
    mark: Mark
    """Tells the next owner that the thread has an unfinished run."""
    log: RunLog = field(init=False)
    _called_off: bool = False
    _driver: asyncio.Task[Any] | None = None
    """The task that can be called off, while there is one."""
    _tasks: Tasks | None = None
    _supersteps: int = 0
    _count: int = 0

    def __post_init__(self) -> None:
        self.log = self._new_log()

    def _new_log(self) -> RunLog:
        return RunLog(
            self.thread,
            self.id,
            self.events,
            self.loaded,
            self.mark,
            known=self.before is not None,
        )

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.thread.tenant

    async def drive(self) -> None:
        """Run to the end or to an interrupt; every way out is an event.

        Raises:
            CancelledError: The coordinator stops. That is no end of the run and no event: whoever
                owns the thread next goes on with it.
            Usurped: Another coordinator took the thread over.
            Again: Nobody knows what the broker has stored; drive it once more.
            MeshError: The thread's log does not hold together.
        """
        self._driver = asyncio.current_task()
        try:
            await self._drive()
            await self.events.flush()
            await self.mark.clear()
        except Fenced as exc:
            raise Usurped(str(exc)) from exc
        except MeshError as exc:
            if exc.code == ErrorCode.BROKER_UNAVAILABLE:
                raise Again from exc
            raise
        finally:
            self._driver = None

    def call_off(self) -> None:
        """End the run as soon as may be, unless its end or its interrupt is out already."""
        if self.closing or self._called_off:
            return
        self._called_off = True
        self.log.call_off()
        self._cancel_driver()

    def _cancel_driver(self) -> None:
        """Cancel until the run ends, since one may be dropped (see ``service.ending``)."""
        if self._driver is not None and not self.closing:
            self._driver.cancel()
            asyncio.get_running_loop().call_later(_AGAIN_S, self._cancel_driver)

    async def abandon(self) -> None:
        """End the run while it waits for a human.

        Raises:
            Usurped: Another coordinator took the thread over.
        """
        self.asking = False
        try:
            await self._end("cancelled")
            await self.events.flush()
            await self.mark.clear()
        except Fenced as exc:
            raise Usurped(str(exc)) from exc

    def answer(self, submitted: Submitted) -> None:
        """Take the answer to the question that it waits with; it is to be driven again."""
        self.submitted = submitted
        self.asking = self.closing = False
        self.resumed = True
        self.log.reopen()

    async def call(self, asked: CallTask) -> CallResult:
        """What became of a function that one of its nodes called.

        Raises:
            MeshError: BUSY if the node is not under way here.
        """
        if self._tasks is None:
            raise MeshError(ErrorCode.BUSY, f"run_id: {self.id[:100]!r} is not driven right now")
        return await self._tasks.calls.result(asked)

    def count_before(self, last: LastRun) -> None:
        """Take over what was counted before."""
        self._supersteps, self._count = last.supersteps, last.tasks

    def restart(self, events: EventWriter) -> None:
        """Forget what nobody knows of it: it is to be driven from its submission on.

        Args:
            events: A writer behind what is stored.
        """
        self.restarted = True
        self.closing = self.failed = False
        self.events = events
        self._tasks = None
        self.log = self._new_log()

    async def _drive(self) -> None:
        before = self.before
        if self._called_off:
            await self._end("cancelled")
            return
        if before is None or self.resumed:
            self.events.emit(
                RunStarted,
                graph=self.graph,
                revision=self.loaded.topology.revision,
                coordinator=self.engine.instance,
                resumed=self.resumed,
                restarted=self.restarted,
            )
        else:
            self.mark.begin()
            if before.cancelling:
                await self._end("cancelled")
                return
        try:
            loop = None if await self._is_at_gate() else await self._loop()
            await self._conclude(loop)
        except asyncio.CancelledError:
            assert self._driver is not None
            if self._is_called_off():
                while self._driver.uncancel():
                    pass
            elif self._driver.cancelling():
                self.span.end("its coordinator stopped")
                raise
            await self._end("cancelled")
        except (Usurped, Fenced):
            raise
        except Exception as exc:  # noqa: BLE001  whatever the graph raises is the run's result
            await self._fail(exc)

    async def _fail(self, exc: Exception) -> None:
        """End with an error, unless it says more of the broker than of the graph.

        Raises:
            Again: As :meth:`drive`, like the others.
        """
        if isinstance(exc, MeshError):
            if self.thread.log.failed:
                raise exc
            if exc.code == ErrorCode.BROKER_UNAVAILABLE:
                log.warning("run %s goes on from its log: %s", self.id, exc.message)
                raise Again from exc
        ids = {"run_id": self.id, "thread_id": self.thread.name}
        log.info("run %s failed: %s", self.id, exc, extra=ids)
        await self._end("error", error=error_info(exc), cause=exc)

    async def _conclude(self, loop: compat.AsyncPregelLoop | None) -> None:
        """Tell where the loop stopped: at its end, or for a human.

        Args:
            loop: The loop; None if a coordinator before drove it.
        """
        if loop is not None and loop.status == "done":
            output = compat.output_of(loop, self.loaded.compiled.output_channels)
            await self._end("success", output=output)
            return
        state = await self.loaded.compiled.aget_state(self._runnable_config())
        if not state.next:
            await self._end("success", output=self._output(state.values))
            return
        self.closing = True
        self._count_tasks()
        self.log.hold_last()
        self.events.emit(
            RunInterrupted, interrupts=list(state.interrupts), next=sorted(set(state.next))
        )
        # Whoever hears the question may answer it at once.
        self.asking = True
        self.span.event("interrupted", {})
        await self.log.close(RunInterruptedRecord)

    async def _end(
        self,
        status: str,
        *,
        output: Any = None,
        error: ErrorInfo | None = None,
        cause: Exception | None = None,
    ) -> None:
        self.closing = True
        self.failed = status == "error"
        self.span.end(cause if cause is not None else None if status == "success" else status)
        self._count_tasks()
        self.log.hold_last()
        self.events.emit(
            RunEnded,
            status=status,
            output=output,
            error=error,
            supersteps=self._supersteps,
            tasks=self._count,
            trace_id=self.span.trace_id,
        )
        await self.log.close(RunEndedRecord, status=status)

    def _count_tasks(self) -> None:
        if self._tasks is not None:
            self._supersteps += len(self._tasks.supersteps)
            self._count += self._tasks.count
            self._tasks = None

    def _output(self, values: Any) -> Any:
        """The part of the state that the graph's output schema names."""
        keys = self.loaded.compiled.output_channels
        if isinstance(keys, str) or not isinstance(values, dict):
            return values
        return {key: values[key] for key in keys if key in values}

    @property
    def _goes_on(self) -> bool:
        """Whether the loop goes on from a checkpoint that it made before, under another owner."""
        return not self.resumed and self.before is not None and self.before.step is not None

    async def _is_at_gate(self) -> bool:
        """Whether a coordinator before stopped the loop for a human, and died before it said so."""
        if not self._goes_on:
            return False
        assert self.before is not None
        assert self.before.step is not None
        config = self._runnable_config()
        state = await self.loaded.compiled.aget_state(config)
        stored = await self.log.saver.aget_tuple(config)
        assert stored is not None
        topology = self.loaded.topology
        return not state.next or gate(
            stored.checkpoint,
            applied=[task.node for task in self.before.step.applied],
            following=state.next,
            interrupt_after=topology.interrupt_after,
            interrupt_before=topology.interrupt_before,
        )

    async def _loop(self) -> compat.AsyncPregelLoop:
        """Run LangGraph's loop until it stops."""
        loops: list[compat.AsyncPregelLoop] = []
        submission = self.submitted.submission
        wanted = submission.stream_mode
        modes = ["updates"] if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        own: set[Any] = {mode for mode in modes if mode not in _AGENT_MODES}
        config = self._runnable_config()
        self._tasks = tasks = Tasks(
            engine=self.engine,
            tenant=self.tenant,
            graph=self.graph,
            thread=self.thread.name,
            run=self.id,
            invocation=f"{self.id}/{self.submitted.epoch}-{self.submitted.seq}",
            loaded=self.loaded,
            events=self.events,
            span=self.span,
            config=run_config(self.loaded.serde, config),
            agent_modes=sorted(_AGENT_MODES.intersection(modes)),
            logged=self.log.stored,
            is_left=self._is_left,
            taken_over=self.before is not None and not self.resumed,
        )
        told_values = self._goes_on
        self.log.take_applied = tasks.take_applied
        if self.before is None or self.resumed:
            self.log.expect_beginning()

        def on_chunk(chunk: tuple[Any, str, Any]) -> None:
            nonlocal told_values
            namespace, mode, data = chunk
            if mode == "values" and told_values:
                # The loop shows what it found; whoever made the checkpoint has shown it.
                told_values = False
                return
            self.events.emit(StreamPart, mode=mode, namespace=list(namespace), data=data)

        def on_loop(loop: compat.AsyncPregelLoop) -> None:
            loops.append(loop)
            self._on_loop(loop)

        config["configurable"] |= {
            seam.DISPATCH_KEY: tasks.dispatch,
            seam.LOOP_KEY: seam.LoopHook(
                compat.StreamProtocol(on_chunk, own),
                on_loop,
                self.log.put,
                self.log.saver.put_at_once,
                self.log.saver.put_writes_at_once,
            ),
        }
        # What is told is told when it happens: the log fixes it with the checkpoint that follows.
        async for _ in self.loaded.compiled.astream(
            None if self._goes_on else self._input(),
            config,
            context=submission.context,
            stream_mode=[],
            durability="async",
        ):
            pass
        return loops[0]

    def _on_loop(self, loop: compat.AsyncPregelLoop) -> None:
        """Keep the recursion limit of the run's beginning; note it if this is the beginning."""
        if self.before is not None and not self.resumed:
            loop.stop = self.before.begun.stop
            return
        fields: dict[str, Any] = {
            "submit_epoch": self.submitted.epoch,
            "submit_seq": self.submitted.seq,
            "submission": self.submitted.body,
            "stop": loop.stop,
            "shows_last": self.submitted.submission.durability == "exit",
        }
        if self.resumed:
            self.log.begin(RunResumedRecord, **fields)
            return
        self.log.begin(
            RunStartedRecord,
            **fields,
            graph=self.graph,
            revision=self.loaded.topology.revision,
            traceparent=self.span.traceparent,
        )

    def _input(self) -> Any:
        submission = self.submitted.submission
        command = submission.command
        if command is None:
            return submission.input
        return Command(resume=command.resume, goto=command.goto or (), update=command.update)

    def _runnable_config(self) -> Any:
        given = self.submitted.submission.config
        config: dict[str, Any] = {
            "configurable": {
                **({} if given is None else given.configurable),
                "thread_id": self.thread.name,
                compat.CONFIG_KEY_CHECKPOINTER: self.log.saver,
            }
        }
        if given is not None:
            config |= {"tags": given.tags, "metadata": given.metadata}
            if given.recursion_limit is not None:
                config["recursion_limit"] = given.recursion_limit
            if given.max_concurrency is not None:
                config["max_concurrency"] = given.max_concurrency
        return config

    def _is_called_off(self) -> bool:
        return self._called_off

    def _is_left(self) -> bool:
        """Whether another life of the run goes on with it: the coordinator stops, or lost sight."""
        driver = self._driver
        stopping = driver is not None and driver.cancelling() > 0 and not self._called_off
        return stopping or self.log.saver.failed
