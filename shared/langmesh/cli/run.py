"""``langmesh run``: submit a run and follow it to its end."""

from __future__ import annotations

import argparse
import os

import msgspec

from langmesh.bus import connect
from langmesh.cli import progress, runs, submission
from langmesh.cli.terminal import say, say_json
from langmesh.client import Client
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire.messages import RunEnded, RunInterrupted

EXIT_RUN_FAILED = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    submission.arguments(parser)


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run a graph; exit code 3 if the run fails."""
    fields = await submission.fields(args)
    mesh = state.find(settings, dict(os.environ))
    async with (
        connect(mesh.nats_url, name="langmesh run") as bus,
        Client.open(bus, args.graph, tenant=settings.tenant) as client,
    ):
        handle = await client.submit(**fields)
        if not args.json:
            say(f"submitted to {args.graph}, waiting for a coordinator …")
        final = None
        async for event in handle.events():
            if args.json:
                say_json(event)
            else:
                progress.show(event, streams=bool(args.stream))
            final = event
    if isinstance(final, RunEnded):
        if not args.json:
            if final.status == "success":
                say(msgspec.json.format(msgspec.json.encode(final.output)).decode())
            say(f"trace {final.trace_id}   langmesh trace {final.run_id}")
        return 0 if final.status == "success" else EXIT_RUN_FAILED
    if isinstance(final, RunInterrupted) and not args.json:
        say(runs.how_to_answer(args.graph, final.thread_id))
    return 0
