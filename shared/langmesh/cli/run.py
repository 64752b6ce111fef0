"""``langmesh run``: submit a run and follow it to its end."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from langmesh.bus import connect
from langmesh.cli import progress
from langmesh.cli.terminal import say, say_json
from langmesh.client import Client
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire.messages import RunEnded

EXIT_RUN_FAILED = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("graph", metavar="GRAPH", help="name of a published graph")
    parser.add_argument(
        "--input", required=True, metavar="JSON", help="input, or @FILE, or - for stdin"
    )
    parser.add_argument("--thread", metavar="ID", help="thread to run on; a new one if not given")
    parser.add_argument(
        "--stream",
        action="append",
        metavar="MODE",
        help="LangGraph stream mode to print; repeatable",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run a graph; exit code 3 if the run fails."""
    value = await asyncio.to_thread(read_input, args.input)
    mesh = state.find(settings, dict(os.environ))
    fields: dict[str, Any] = {}
    if args.thread:
        fields["thread_id"] = args.thread
    if args.stream:
        fields["stream_mode"] = args.stream
    async with (
        connect(mesh.nats_url, name="langmesh run") as bus,
        Client.open(bus, args.graph, tenant=settings.tenant) as client,
    ):
        handle = await client.submit(value, **fields)
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
            say(msgspec.json.format(msgspec.json.encode(final.output)).decode())
            say(f"trace {final.trace_id}   langmesh trace {final.run_id}")
        return 0 if final.status == "success" else EXIT_RUN_FAILED
    return 0


def read_input(text: str) -> Any:
    """The value of ``--input``: JSON, ``@FILE``, or ``-`` for standard input.

    Raises:
        MeshError: INVALID_INPUT.
    """
    source = "--input"
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        return msgspec.json.decode(text)
    except OSError as exc:
        raise MeshError(
            ErrorCode.INVALID_INPUT,
            f"--input @{source}: {exc.strerror}",
            remedy="Name a file with JSON behind the @.",
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MeshError(
            ErrorCode.INVALID_INPUT,
            f"{source}: not valid JSON: {exc}",
            remedy="""Quote it for the shell, e.g. --input '{"question": "What is PEP 8?"}'.""",
        ) from exc
