from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from langmesh.embedded.process import Guard


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    async with Guard() as guard:
        yield guard


async def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something that other processes do and nobody announces."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        return status.rpartition(")")[2].split()[0] != "Z"
    return True
