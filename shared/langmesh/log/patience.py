"""Repeat reads and other harmless requests while the broker is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError

PATIENCE_S: Final = 30.0
PAUSE_S: Final = 0.1

T = TypeVar("T")


async def patiently(attempt: Callable[[], Awaitable[T]], *, patience_s: float) -> T:
    """The result of the first attempt that the broker answers.

    Args:
        attempt: May be made any number of times.
        patience_s: Seconds after which its failure is raised.

    Raises:
        MeshError: What the attempt raises; BROKER_UNAVAILABLE only after ``patience_s``.
    """
    deadline = monotonic() + patience_s
    while True:
        try:
            return await attempt()
        except MeshError as exc:
            if exc.code is not ErrorCode.BROKER_UNAVAILABLE or monotonic() > deadline:
                raise
        await asyncio.sleep(PAUSE_S)
