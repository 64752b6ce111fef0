"""``langmesh submit``: submit a run durably and return at once."""

from __future__ import annotations

import argparse
import os
import shlex

from langmesh.bus import connect
from langmesh.cli import submission
from langmesh.cli.terminal import say, say_json, styled
from langmesh.client.runs import publish
from langmesh.clock import new_id
from langmesh.settings import Settings
from langmesh.stack import state

_ID_DIGITS = 16


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    submission.arguments(parser)


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Store a submission, whether or not a coordinator is up, and tell its ids."""
    fresh = new_id()[:_ID_DIGITS]
    # Chosen here, since those that a coordinator derives are not known before it is up.
    names = {"run_id": f"run-{fresh}", "thread_id": f"thread-{fresh}"}
    fields = {**names, **await submission.fields(args)}
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh submit") as bus:
        seq = await publish(bus, settings.tenant, args.graph, fields)
    run, thread = fields["run_id"], fields["thread_id"]
    if args.json:
        say_json({"graph": args.graph, "run_id": run, "thread_id": thread, "submit_seq": seq})
    else:
        say(f"run     {styled(run, 'bold')}")
        say(f"thread  {thread}")
        say(f"stored as submission {seq} to {args.graph}")
        say(f"  langmesh events --run {shlex.quote(run)} --follow")
    return 0
