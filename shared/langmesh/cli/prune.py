"""``langmesh prune``: delete threads, or their history."""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from langmesh.bus import Bus, connect
from langmesh.cli.arguments import Since, since
from langmesh.cli.terminal import say, say_json
from langmesh.client.asking import ask
from langmesh.errors import ErrorCode, MeshError
from langmesh.log.idle import IdleThread, idle_threads
from langmesh.settings import Settings
from langmesh.stack import state

_ANSWER_S: Final = 30.0
_REFUSED: Final = (ErrorCode.BUSY, ErrorCode.INVALID_FIELD, ErrorCode.UNKNOWN_THREAD)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--thread", metavar="ID", action="append", help="a thread; may be repeated")
    which.add_argument(
        "--older-than",
        type=since,
        metavar="DURATION",
        help="all threads that nothing was written to for so long: 90s, 10m, 12h, 30d",
    )
    parser.add_argument("--graph", metavar="G", help="only threads of this graph")
    parser.add_argument(
        "--keep-latest",
        action="store_true",
        help="keep each thread's latest checkpoint, and delete those before",
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, show what would be")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Prune, and tell what came of it."""
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh prune") as bus:
        if args.thread:
            wanted = [(thread, 0) for thread in dict.fromkeys(args.thread)]
        else:
            wanted = await _idle(bus, settings.tenant, args.older_than)
        verb = "thread.prune" if args.keep_latest else "thread.delete"
        done: list[dict[str, Any]] = []
        refused: list[dict[str, str]] = []
        for thread, seq in wanted:
            if args.dry_run:
                done.append({"thread_id": thread})
                continue
            asked = {"thread_id": thread, "graph": args.graph, "unchanged_since": seq or None}
            try:
                done.append(await ask(bus, settings.tenant, verb, asked, timeout_s=_ANSWER_S))
            except MeshError as exc:
                if args.thread or exc.code not in _REFUSED:
                    raise
                refused.append({"thread_id": thread, "reason": exc.message})
    if args.json:
        say_json({"dry_run": args.dry_run, "pruned": done, "refused": refused})
    else:
        _show(args, done, refused)
    return 0


async def _idle(bus: Bus, tenant: str, older_than: Since) -> list[tuple[str, int]]:
    """Idle threads with the sequence of their last entry."""
    if older_than.seq is not None:
        raise MeshError(
            ErrorCode.INVALID_FIELD,
            f"--older-than: {older_than.seq} is no duration",
            remedy="Give a number with a unit: 90s, 10m, 12h, 30d.",
        )
    found: list[IdleThread] = []
    async for page in idle_threads(bus, tenant=tenant, idle_s=older_than.seconds):
        found += [thread for thread in page.idle if thread.is_over is not False]
    return [(thread.thread, thread.seq) for thread in found]


def _show(
    args: argparse.Namespace, done: list[dict[str, Any]], refused: list[dict[str, str]]
) -> None:
    what = "pruned" if args.keep_latest else "deleted"
    for each in done if args.dry_run or args.thread else ():
        say(f"  {each['thread_id']}")
    say(f"{'would be ' if args.dry_run else ''}{what}: {len(done):,}")
    if args.keep_latest and not args.dry_run:
        say(f"checkpoints gone: {sum(each['dropped'] for each in done):,}")
    for each in refused:
        say(f"  left alone: {each['reason']}")
