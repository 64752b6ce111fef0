"""``langmesh status``: servers, services, nodes, their health and how busy they are."""

from __future__ import annotations

import argparse
import os
from typing import Any

import msgspec

from langmesh import clock
from langmesh.bus import connect
from langmesh.cli import live
from langmesh.cli.board import board
from langmesh.cli.terminal import say, say_json, styled
from langmesh.registry.etcd import Etcd
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.stack.observing import Observer, observing
from langmesh.stack.overview import Overview
from langmesh.stack.state import StackState


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show it live until Ctrl-C; with --json, one line for each change",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Show the mesh; fails if a server does not answer."""
    mesh = state.find(settings, dict(os.environ))
    async with (
        connect(mesh.nats_url, name="langmesh status") as bus,
        Etcd(mesh.etcd_endpoints) as etcd,
        observing(bus, etcd) as observer,
    ):
        if not args.watch:
            seen = await observer.look()
            if args.json:
                say_json(_structured(mesh, seen))
            else:
                for line in [_servers(mesh), *board(seen, now=clock.now_iso(), width=10**6)]:
                    say(line)
        elif args.json:
            await _watch_json(mesh, observer)
        else:
            await _watch(mesh, observer)
    return 0


async def _watch(mesh: StackState, observer: Observer) -> None:
    with live.screen() as show:

        async def draw() -> None:
            seen, size, now = await observer.look(), live.room(), clock.now_iso()
            lines = board(seen, now=now, width=size.width, height=size.height - 3)
            foot = styled(f"{now[11:19]} UTC, Ctrl-C ends"[: size.width], "dim")
            show([_servers(mesh, size.width), *lines, foot])

        await live.repeat(draw, observer.changed)


async def _watch_json(mesh: StackState, observer: Observer) -> None:
    said: Overview | None = None

    async def draw() -> None:
        nonlocal said
        seen = await observer.look()
        if seen != said:
            said = seen
            say_json(_structured(mesh, seen))

    await live.repeat(draw, observer.changed)


def _structured(mesh: StackState, seen: Overview) -> dict[str, Any]:
    return {
        "nats_url": mesh.nats_url,
        "etcd_endpoints": mesh.etcd_endpoints,
        "otlp_endpoint": mesh.otlp_endpoint,
        "durability_profile": mesh.profile,
        **msgspec.to_builtins(seen),
    }


def _servers(mesh: StackState, width: int = 10**6) -> str:
    etcd = ", ".join(mesh.etcd_endpoints)
    text = f"nats {mesh.nats_url}   etcd {etcd}   otlp {mesh.otlp_endpoint or 'none'}"
    return styled(text[:width], "dim")
