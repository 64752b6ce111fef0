"""How long a retry has yet to wait after another coordinator took its run over. Pure.

Attempts are counted by their slots (R3): whoever takes over finds those that are filled, one after
the other, and goes on with the first that is not. So none is skipped and none is made twice, and
the slots tell when each ended.
"""

from __future__ import annotations

from langmesh.wire.messages import TaskOutcome


def left_ms(outcome: TaskOutcome, now_ms: int) -> int:
    """The rest of the delay before the next attempt, in milliseconds.

    Args:
        outcome: That of the attempt before; it says ``retry``.
        now_ms: Milliseconds since the Unix epoch. Where the agent's clock is ahead of this one the
            delay begins anew, and where it is behind the delay is shorter than it should be.
    """
    delay_ms = outcome.payload.delay_ms
    return min(delay_ms, max(0, outcome.header.sent_at_ms + delay_ms - now_ms))


def begun_at_ms(outcome: TaskOutcome) -> int:
    """When the attempt of an outcome was sent, in milliseconds since the Unix epoch."""
    took_us = outcome.payload.queue_us + outcome.payload.execute_us
    return outcome.header.sent_at_ms - took_us // 1000
