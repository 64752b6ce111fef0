"""What a service counts while it works, and the report that it makes of it.

The thread that works counts; another one may make the reports, so that a service which is too busy
to answer still says so. Counters only grow and have one writer, so that no lock is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from langmesh import clock
from langmesh.registry.lease import Registration
from langmesh.registry.loads import INTERVAL_S, Load
from langmesh.service.usage import Sample


class Counts:
    """What a service has begun and ended since its start."""

    __slots__ = ("begun", "ended", "executed_s", "failed", "waited_s")

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.failed = 0
        self.waited_s = 0.0
        """Of all that began."""
        self.executed_s = 0.0
        """Of all that ended."""

    def begin(self, waited_s: float) -> None:
        """Note that a task or run begins, and how long it had waited."""
        self.begun += 1
        self.waited_s += waited_s

    def end(self, executed_s: float, *, failed: bool) -> None:
        """Note that one ended, and how long it took."""
        self.ended += 1
        self.executed_s += executed_s
        self.failed += failed


class Meter:
    """Makes reports of what was counted from one call of :meth:`measure` to the next.

    Args:
        instance: Whose load it is.
        counts: What its service counts.
        in_flight: Tells what is in work; called from the thread that measures.
        capacity: Tells how much may be in work; likewise.
        interval_s: Seconds between two calls.
    """

    def __init__(
        self,
        instance: str,
        counts: Counts,
        *,
        in_flight: Callable[[], int],
        capacity: Callable[[], int],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._instance = instance
        self._counts = counts
        self._in_flight = in_flight
        self._capacity = capacity
        self._interval_s = interval_s
        self._before = _copy(counts)
        self._at = clock.monotonic()

    def measure(self, sample: Sample) -> Load:
        """The report of what happened since the call before."""
        now, at = _copy(self._counts), clock.monotonic()
        before, elapsed_s = self._before, at - self._at
        self._before, self._at = now, at
        begun, ended = now.begun - before.begun, now.ended - before.ended
        return Load(
            agent_id=self._instance,
            timestamp=clock.now_iso(),
            interval_s=self._interval_s,
            cpu_usage=round(sample.cpu, 4),
            memory_usage=round(sample.memory, 6),
            memory_bytes=sample.memory_bytes,
            request_rate=round(begun / elapsed_s, 3) if elapsed_s > 0 else 0.0,
            in_flight=self._in_flight(),
            capacity=self._capacity(),
            queue_wait_ms=_mean_ms(now.waited_s - before.waited_s, begun),
            execute_ms=_mean_ms(now.executed_s - before.executed_s, ended),
            failures=now.failed - before.failed,
        )


async def keep_reporting(
    registration: Registration,
    measure: Callable[[], Mapping[str, bytes]],
    interval_s: float = INTERVAL_S,
) -> None:
    """Write reports under a registration's lease, at once and then at every interval, for ever.

    Args:
        registration: Whose lease they hang on.
        measure: Makes the documents by key.
        interval_s: Seconds between two reports.
    """
    while True:
        for key, document in measure().items():
            registration.offer(key, document)
        await asyncio.sleep(interval_s)


def _copy(counts: Counts) -> Counts:
    """The counters as they are; what is counted meanwhile is in the sums first, or next time."""
    copy = Counts()
    for name in Counts.__slots__:
        setattr(copy, name, getattr(counts, name))
    return copy


def _mean_ms(sum_s: float, count: int) -> float | None:
    return round(max(sum_s, 0.0) / count * 1000, 3) if count else None
