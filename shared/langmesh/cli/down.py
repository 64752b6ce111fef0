"""``langmesh down``: stop the mesh that ``up`` started here."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

from langmesh.cli.terminal import say, say_json
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state

_STOP_S = 30.0
_POLL_S = 0.05


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Stop the local mesh and wait until it is gone."""
    home = Path(settings.home)
    running = state.read(home)
    if running is None:
        raise MeshError(ErrorCode.NOT_RUNNING, f"no mesh runs in {settings.home}/")
    os.kill(running.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            # The lock is the last that a stack lets go of; files cannot tell who waits for theirs.
            while state.owner(home) == running.pid:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError as exc:
        raise MeshError(
            ErrorCode.TIMED_OUT, f"the mesh with pid {running.pid} is still stopping"
        ) from exc
    if args.json:
        say_json({"stopped": running.pid})
    else:
        say("the mesh is down")
    return 0
