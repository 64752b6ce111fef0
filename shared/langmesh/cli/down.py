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


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    del parser


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Stop the local mesh and wait until it is gone."""
    home = Path(settings.home)
    running = state.read(home)
    if running is None:
        raise MeshError(ErrorCode.NOT_RUNNING, f"no mesh runs in {settings.home}/")
    os.kill(running.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S):
            # Neither a lock nor a process that is no child can be waited for on every system.
            while state.owner(home) == running.pid or _runs(running.pid):  # noqa: ASYNC110
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


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not collected yet does not."""
    try:
        os.kill(pid, 0)
        state_of = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()
    return state_of != b"Z"
