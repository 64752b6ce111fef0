"""``langmesh events``: what runs do, as it is stored."""

from __future__ import annotations

import argparse
import os
from typing import Any

import msgspec

from langmesh.bus import Bus, connect, reading
from langmesh.cli import progress
from langmesh.cli.arguments import Since, since
from langmesh.cli.terminal import fit, say, say_json, styled
from langmesh.client.eventlog import EventLog, Told
from langmesh.clock import ago_iso
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire.streams import EVENT

_DEFAULT_S = 600.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--graph", metavar="G", help="only runs of this graph")
    parser.add_argument("--thread", metavar="ID", help="only runs on this thread")
    parser.add_argument("--run", metavar="RUN", help="only this run")
    parser.add_argument("--follow", action="store_true", help="go on with what is stored next")
    parser.add_argument(
        "--since",
        type=since,
        metavar="WHEN",
        help="begin with this sequence of stream EVENT, or so long ago as in 90s, 10m, 2h, 1d;"
        " if not given, 10m, or all of the run or thread that is named",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Print events, with ``--follow`` until Ctrl-C."""
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh events") as bus:
        events = EventLog(bus, settings.tenant, graph=args.graph, thread=args.thread, run=args.run)
        _, last = await reading.bounds(bus, EVENT.name)
        first = await _first(bus, args)
        if first is not None:
            async for told in events.stored(first, last):
                _show(told, as_json=args.json)
        if args.follow:
            async for told in events.follow(max(last + 1, first or 0)):
                _show(told, as_json=args.json)
    return 0


async def _first(bus: Bus, args: argparse.Namespace) -> int | None:
    """The sequence to begin with, or None if nothing is stored since."""
    begin = args.since
    if begin is None:
        if args.run or args.thread:
            return 1
        begin = Since(seconds=_DEFAULT_S)
    if begin.seq is not None:
        return int(begin.seq)
    return await reading.seq_since(bus, EVENT.name, ago_iso(begin.seconds))


def _show(told: Told, *, as_json: bool) -> None:
    if as_json:
        place = {"stream_seq": told.stream_seq, "graph": told.graph}
        event: dict[str, Any] = msgspec.json.decode(told.body)
        say_json({**place, **event})
        return
    run = told.event.run_id or "-"
    time = styled(told.event.time[11:23], "dim")
    say(fit(f"{time}  {styled(run, 'bold')}  {progress.one_line(told.event)}"))
