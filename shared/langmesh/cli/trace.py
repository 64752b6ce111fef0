"""``langmesh trace``: the span tree of a run."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from langmesh.cli.terminal import columns, say, say_json
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.telemetry.store import SpanReader, StoredSpan
from langmesh.telemetry.tree import render


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="id of a run")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Show the spans of a run that the local stack kept."""
    spans = await asyncio.to_thread(spans_of, Path(settings.home), args.run)
    if not spans:
        raise MeshError(
            ErrorCode.UNKNOWN_TRACE, f"no spans of run {args.run!r} are kept in {settings.home}/"
        )
    if args.json:
        say_json({"trace_id": spans[0].trace_id, "spans": spans})
    else:
        show(spans)
    return 0


def show(spans: Sequence[StoredSpan]) -> None:
    """Print a span tree, no wider than the terminal but for errors."""
    for line in render(spans, width=columns()):
        say(line)


def spans_of(home: Path, run: str) -> list[StoredSpan]:
    """The spans of a run in a home folder's store."""
    return SpanReader(state.spans_path(home)).trace_of_run(run)
