"""Carry the tasks of runs through the mesh: publish, wait for the slot, lose nothing.

EXEC is a hint (rule R5): an attempt waits for its slot, and the sweeper publishes it again when the
slot is empty and the broker holds no delivery of it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from langmesh.bus import Bus
from langmesh.bus.tail import Tail
from langmesh.clock import monotonic, new_id, now_iso, now_ms
from langmesh.coordinator.catalog import Catalog
from langmesh.errors import ErrorCode, MeshError
from langmesh.wire import codec, subjects
from langmesh.wire.messages import (
    CancelPayload,
    CancelTasks,
    DeadLetter,
    Fault,
    Header,
    OutcomePayload,
    TaskOutcome,
)
from langmesh.wire.names import PARTITIONS
from langmesh.wire.streams import EXEC, SLOT

log = logging.getLogger(__name__)

SWEEP_S: Final = 5.0
"""How often attempts without an outcome are looked after."""
REJECTIONS_PARTITION: Final = 0
_WAITING_AFTER_S: Final = 1.0
_RETRY_S: Final = 0.25


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt of one task that is on its way."""

    tenant: str
    graph: str
    node: str
    release: str
    run: str
    task: str
    cap: str
    slot: str
    subject: str
    body: bytes
    outcome: asyncio.Future[TaskOutcome]
    on_waiting: Callable[[str], None]
    """Told why the attempt waits, when nobody serves its node."""
    on_sent: Callable[[], None]
    """Told that the broker has stored the attempt."""
    goes_on: Callable[[], bool]
    """Whether somebody will want its outcome when whoever waits for it is cancelled."""
    sent_at: float = 0.0
    foreign: bool = False
    """Whether it goes to an agent in another language."""
    may_be_done: bool = False
    """Whether a coordinator before may have sent it, so that its slot is looked at first."""
    must_be_done: bool = False
    """Whether nothing is to be sent if that slot is empty."""
    was_done: bool = False
    """Whether that slot was filled."""
    exec_seq: int = 0
    told_waiting: bool = False


class Dispatcher:
    """Sends attempts and resolves them when their slots fill."""

    def __init__(self, bus: Bus, catalog: Catalog, instance: str) -> None:
        self._bus = bus
        self._catalog = catalog
        self._instance = instance
        self._pending: dict[str, Attempt] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._following = contextlib.AsyncExitStack()
        self._partitions: frozenset[int] = frozenset()

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[Dispatcher]:
        """Sweep while the block runs; :meth:`follow` tells which slots are to be followed."""
        self._catalog.on_agents_changed(self._on_agents_changed)
        sweeper = asyncio.create_task(self._sweep_for_ever(), name="sweeper")
        try:
            yield self
        finally:
            sweeper.cancel()
            for task in self._background:
                task.cancel()
            await asyncio.gather(sweeper, *self._background, return_exceptions=True)
            await self._following.aclose()

    async def follow(self, partitions: frozenset[int]) -> None:
        """Follow the slots of these partitions from now on.

        Raises:
            MeshError: BROKER_UNAVAILABLE; those from before are followed still.
        """
        # What agents cannot decode is told in this one, whoever sent it.
        wanted = partitions | {REJECTIONS_PARTITION}
        filters = tuple(subjects.slots_of(number) for number in sorted(wanted))
        if len(wanted) == PARTITIONS:
            filters = (subjects.SLOT_ALL,)
        tail = Tail(self._bus, SLOT.name, filters, self._on_slot, start_seq=None)
        before, following = self._following, contextlib.AsyncExitStack()
        await following.enter_async_context(tail.run())
        self._following, self._partitions = following, partitions
        # Only now, so that nothing is missed between the two.
        await before.aclose()

    async def perform(self, attempt: Attempt) -> TaskOutcome:
        """Send an attempt and wait for its outcome; if the caller gives up, so do the agents.

        Raises:
            MeshError: The attempt cannot be sent, was rejected, or its outcome cannot be used.
        """
        await self._catalog.ensure_consumer(attempt.subject)
        self._pending[attempt.cap] = attempt
        try:
            if attempt.may_be_done and (done := await self._bus.last(SLOT.name, attempt.slot)):
                attempt.was_done = True
                self._resolve(attempt, done[1])
                return await attempt.outcome
            if attempt.must_be_done:
                raise MeshError(ErrorCode.INTERNAL, f"{attempt.slot} is empty by now")
            self._publish(attempt)
            self._watch_service(attempt)
            return await attempt.outcome
        except asyncio.CancelledError:
            unfinished = not attempt.outcome.done() or attempt.outcome.cancelled()
            if unfinished and not attempt.goes_on():
                self._spawn(self._call_off(attempt))
            raise
        finally:
            self._pending.pop(attempt.cap, None)

    def _publish(self, attempt: Attempt) -> None:
        attempt.sent_at = monotonic()
        self._bus.append_nowait(
            attempt.subject, attempt.body, functools.partial(self._on_published, attempt)
        )

    def _on_published(self, attempt: Attempt, result: int | Exception) -> None:
        if isinstance(result, int):
            attempt.exec_seq = result
            attempt.on_sent()
        elif isinstance(result, MeshError) and not result.retryable:
            if not attempt.outcome.done():
                attempt.outcome.set_exception(result)
        elif not attempt.outcome.done():
            log.warning("a task is not sent yet: %s", result)
            asyncio.get_running_loop().call_later(_RETRY_S, self._publish, attempt)

    async def _call_off(self, attempt: Attempt) -> None:
        message = CancelTasks(
            header=Header(
                id=new_id(),
                type=CancelTasks.TYPE,
                sender=self._instance,
                receiver=attempt.node,
                sent_at_ms=now_ms(),
            ),
            payload=CancelPayload(run=attempt.run, caps=[attempt.cap]),
        )
        self._bus.send(
            subjects.control(attempt.tenant, attempt.graph, attempt.node), codec.encode(message)
        )
        try:
            if attempt.exec_seq:
                await self._bus.delete(EXEC.name, attempt.exec_seq)
        except MeshError as exc:
            log.info("a cancelled task may still run: %s", exc)

    def _on_slot(self, subject: str, body: bytes, _seq: int) -> None:
        attempt = self._pending.get(subjects.slot_cap(subject))
        if attempt is not None:
            self._resolve(attempt, body)
        elif subjects.slot_cap(subject).startswith("rejected"):
            self._on_rejected(subject, body)

    def _resolve(self, attempt: Attempt, body: bytes) -> None:
        if attempt.outcome.done():
            return
        try:
            attempt.outcome.set_result(codec.decode(TaskOutcome, body))
        except MeshError as exc:
            log.error("the outcome in %s cannot be used: %s", attempt.slot, exc)  # noqa: TRY400
            attempt.outcome.set_exception(exc)
            self._spawn(self._bury(_letter(attempt, attempt.slot, 0, exc, body), _place(attempt)))

    def _on_rejected(self, subject: str, body: bytes) -> None:
        """An agent could not decode a task: keep it in DEAD, and fail the attempt."""
        try:
            outcome = codec.decode(TaskOutcome, body).payload
        except MeshError as exc:
            log.error("a rejection cannot be decoded: %s", exc)  # noqa: TRY400
            return
        fault = outcome.fault or Fault(
            code=ErrorCode.MALFORMED_BODY, type="MeshError", message="no reason given"
        )
        mine = next((a for a in self._pending.values() if a.exec_seq == outcome.exec_seq), None)
        if mine is not None and not mine.outcome.done():
            error = MeshError(ErrorCode.received(fault.code), fault.message)
            mine.outcome.set_exception(error)
        if REJECTIONS_PARTITION not in self._partitions:
            return
        names = subjects.parse_slot(subject)
        error = MeshError(ErrorCode.received(fault.code), fault.message)
        letter = _letter(mine, subject, outcome.exec_seq, error, outcome.body)
        self._spawn(self._bury(letter, subjects.dead(names.tenant, names.graph, names.node)))

    async def _bury(self, letter: DeadLetter, place: str) -> None:
        try:
            await self._bus.append(place, codec.encode_json(letter))
        except MeshError as exc:
            log.error("a dead letter is lost: %s", exc)  # noqa: TRY400

    async def bury_poison(self, attempt: Attempt, outcome: OutcomePayload) -> None:
        """Keep a task in DEAD that kills its agents."""
        message = outcome.fault.message if outcome.fault is not None else "delivered too often"
        error = MeshError(ErrorCode.NODE_POISONED, message)
        letter = _letter(attempt, attempt.subject, attempt.exec_seq, error, attempt.body)
        await self._bury(letter, _place(attempt))

    def _watch_service(self, attempt: Attempt) -> None:
        if not self._is_served(attempt) and not attempt.told_waiting:
            # A moment of patience: agents that start together with the run are not worth an event.
            asyncio.get_running_loop().call_later(_WAITING_AFTER_S, self._tell_waiting, attempt)

    def _tell_waiting(self, attempt: Attempt) -> None:
        if attempt.outcome.done() or attempt.told_waiting or self._is_served(attempt):
            return
        attempt.told_waiting = True
        attempt.on_waiting(
            f"no agent serves node {attempt.node!r}, release {attempt.release!r}"
            f" ({attempt.subject})"
        )

    def _on_agents_changed(self) -> None:
        for attempt in list(self._pending.values()):
            self._watch_service(attempt)

    def _is_served(self, attempt: Attempt) -> bool:
        return self._catalog.is_served(attempt.tenant, attempt.graph, attempt.node, attempt.release)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            now = monotonic()
            for attempt in list(self._pending.values()):
                if attempt.sent_at and now - attempt.sent_at >= SWEEP_S:
                    try:
                        await self._look_after(attempt)
                    except MeshError as exc:
                        log.warning("sweeping: %s", exc)
                        break

    async def _look_after(self, attempt: Attempt) -> None:
        """Fetch the outcome if the slot is filled; publish again if the delivery is lost."""
        if not attempt.exec_seq or await self._bus.at(EXEC.name, attempt.exec_seq) is not None:
            return
        found = await self._bus.last(SLOT.name, attempt.slot)
        if attempt.outcome.done():
            return
        if found is not None:
            self._resolve(attempt, found[1])
        else:
            log.warning("task %s of run %s is sent again", attempt.cap, attempt.run)
            self._publish(attempt)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _place(attempt: Attempt) -> str:
    return subjects.dead(attempt.tenant, attempt.graph, attempt.node)


def _letter(
    attempt: Attempt | None, subject: str, seq: int, error: MeshError, body: bytes
) -> DeadLetter:
    return DeadLetter(
        reason=error.code,
        message=error.message,
        subject=subject,
        stream_seq=seq,
        time=now_iso(),
        body=body[: codec.BODY_BYTES_MAX // 2],
        run_id="" if attempt is None else attempt.run,
        task_id="" if attempt is None else attempt.task,
    )
