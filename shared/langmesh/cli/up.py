"""``langmesh up``: start a mesh on this machine and keep it running."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from langmesh.bus import connect
from langmesh.bus.streams import ensure_streams
from langmesh.cli.terminal import say, say_json, styled
from langmesh.errors import ErrorCode, MeshError
from langmesh.registry.etcd import Etcd
from langmesh.settings import Settings
from langmesh.stack import inventory, spec, state
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.state import StackState
from langmesh.stack.supervisor import Stack, running_stack

READY_S = 60.0
_POLL_S = 0.05


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Start the mesh; stay until Ctrl-C unless detached."""
    if args.detach:
        mesh = await _detached(args, settings)
        _announce(mesh, as_json=args.json)
        return 0
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    specs = _specs(args.graphs)
    if args.no_coordinator:
        specs = [item for item in specs if item.name != "coordinator"]
    async with running_stack(settings, specs, graphs=args.graphs or ["research"]) as stack:
        await _ready(stack, settings, specs, args.graphs)
        state.write(stack.home, stack.state)
        _announce(stack.state, as_json=args.json)
        await inventory.either(stop, stack.failed)
        if stack.failed.done():
            raise stack.failed.result()
        if not args.json:
            say("stopping …")
    return 0


def _specs(graphs: Sequence[str]) -> list[ServiceSpec]:
    return [spec.coordinator(graphs)] if graphs else spec.research()


async def _ready(
    stack: Stack, settings: Settings, specs: Sequence[ServiceSpec], graphs: Sequence[str]
) -> None:
    async with (
        connect(stack.state.nats_url, name="langmesh up", wait_s=10) as bus,
        Etcd(stack.state.etcd_endpoints) as etcd,
    ):
        # Submissions are welcome before the first coordinator is.
        await ensure_streams(bus)
        await inventory.wait_until_ready(etcd, specs, failed=stack.failed, timeout_s=READY_S)
        if graphs:
            from langmesh.stack.agents import start_agents

            agents = await start_agents(stack, etcd, settings, graphs)
            await inventory.wait_until_ready(etcd, agents, failed=stack.failed, timeout_s=READY_S)


def _announce(mesh: StackState, *, as_json: bool) -> None:
    if as_json:
        say_json(mesh)
        return
    say(styled("the mesh is up", "green"))
    say(f"  nats  {mesh.nats_url}")
    say(f"  etcd  {', '.join(mesh.etcd_endpoints)}")
    say(f"  otlp  {mesh.otlp_endpoint}")
    say(f"  durability profile: {mesh.profile}")
    say("  langmesh status · langmesh run GRAPH --input JSON · langmesh down")


async def _detached(args: argparse.Namespace, settings: Settings) -> StackState:
    home = Path(settings.home)
    if (running := state.read(home)) is not None:
        raise MeshError(
            ErrorCode.ALREADY_RUNNING, f"a mesh with pid {running.pid} runs in {settings.home}/"
        )
    log = home / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = ["--no-coordinator"] if args.no_coordinator else []
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220  returns at once; nothing waits for it here
            [sys.executable, "-m", "langmesh.cli", "up", *flags, *args.graphs],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=os.environ,
        )
    async with asyncio.timeout(READY_S * 2):
        while (running := state.read(home)) is None or running.pid != process.pid:
            if process.poll() is not None:
                words = log.read_text(encoding="utf-8", errors="replace").strip()
                raise MeshError(ErrorCode.SERVICE_FAILED, words.removeprefix("langmesh: ")[-2000:])
            await asyncio.sleep(_POLL_S)
    return running
