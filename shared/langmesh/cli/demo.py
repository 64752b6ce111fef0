"""``langmesh demo``: the research mesh, from nothing to an answer with citations."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.util
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langmesh.bus import connect
from langmesh.bus.streams import ensure_streams
from langmesh.cli import progress
from langmesh.cli.arguments import completing
from langmesh.cli.run import EXIT_RUN_FAILED
from langmesh.cli.terminal import columns, say, say_json, styled, table
from langmesh.cli.trace import show as show_trace
from langmesh.cli.trace import spans_of
from langmesh.client import Client
from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import spec
from langmesh.stack.readiness import ReadyService
from langmesh.stack.supervisor import Stack, running_stack
from langmesh.wire.messages import AnyEvent, RunEnded, RunInterrupted, TaskEnded

QUESTION = "How do Python's context managers and exceptions work together?"
_READY_S = 60.0
_TEXT = frozenset({".txt", ".md", ".rst", ".py"})
"""What the sample researcher reads; found missing here before anything is started."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("question", nargs="?", help="question to answer")
    corpus = parser.add_argument("--corpus", metavar="DIR", help="folder with text to read")
    completing(corpus, "directory")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Start the research mesh, ask, show, stop; exit code 3 if the run fails."""
    if not has_demo():
        raise MeshError(
            ErrorCode.DEPENDENCY_MISSING,
            "the research demo is part of the repository, not of the installed package",
            remedy="Run `./mesh demo` in a checkout, or begin a project of your own with"
            " `langmesh new NAME` and start it with `langmesh up`.",
        )
    if args.corpus or settings.corpus:
        named = "--corpus" if args.corpus else "LANGMESH_CORPUS"
        corpus = await asyncio.to_thread(_corpus, named, args.corpus or settings.corpus)
        settings = dataclasses.replace(settings, corpus=corpus)
    question = args.question or QUESTION
    started = monotonic()
    specs = [
        dataclasses.replace(item, env={"LANGMESH_CORPUS": settings.corpus})
        for item in spec.research()
    ]
    events: list[AnyEvent] = []
    async with running_stack(settings, specs, graphs=["research"]) as stack:
        if not args.json:
            say(f"starting nats-server, etcd and {sum(s.replicas for s in specs)} services …")
        services = await _ask(stack, settings, specs, question, events, quiet=args.json)
        if not args.json:
            say(f"ready and answered after {monotonic() - started:.1f} s")
        # A service sends its last spans when it stops; only then is the tree complete.
        await stack.stop_services()
    final = events[-1]
    assert isinstance(final, RunEnded | RunInterrupted)
    status = final.status if isinstance(final, RunEnded) else "interrupted"
    if args.json:
        say_json(_summary(final, services))
    else:
        spans = await asyncio.to_thread(spans_of, Path(settings.home), final.run_id)
        _show(final, events, spans)
    return 0 if status == "success" else EXIT_RUN_FAILED


def has_demo() -> bool:
    """Whether the sample services are here; an installation of the wheel has none."""
    return all(map(importlib.util.find_spec, ("services", "research", "bm25s")))


def _corpus(named: str, text: str) -> str:
    folder = Path(text)
    if not folder.is_dir():
        raise MeshError(ErrorCode.CORPUS_MISSING, f"{named} {text}: there is no such folder")
    if not any(path.suffix in _TEXT and path.is_file() for path in folder.rglob("*")):
        raise MeshError(ErrorCode.CORPUS_MISSING, f"{named} {text}: the folder holds no text")
    return str(folder.resolve())


async def _ask(
    stack: Stack,
    settings: Settings,
    specs: Sequence[spec.ServiceSpec],
    question: str,
    events: list[AnyEvent],
    *,
    quiet: bool,
) -> list[ReadyService]:
    async with connect(stack.state.nats_url, name="langmesh demo", wait_s=10) as bus:
        await ensure_streams(bus, replicas=settings.replicas)
        await stack.wait_ready(specs, timeout_s=_READY_S)
        services = stack.ready.services
        if not quiet:
            for item in services:
                say(f"  {item.name:<12} pid {item.pid:<8} {item.instance}")
            say()
            say(styled(question, "bold"))
        async with Client.open(bus, "research", tenant=settings.tenant) as client:
            handle = await client.submit({"question": question})
            async for event in handle.events():
                events.append(event)
                if not quiet:
                    progress.show(event, streams=False)
    return services


def _summary(final: RunEnded | RunInterrupted, services: Sequence[ReadyService]) -> dict[str, Any]:
    ended = final if isinstance(final, RunEnded) else None
    return {
        "run_id": final.run_id,
        "thread_id": final.thread_id,
        "trace_id": ended.trace_id if ended is not None else "",
        "status": ended.status if ended is not None else "interrupted",
        "supersteps": ended.supersteps if ended is not None else 0,
        "tasks": ended.tasks if ended is not None else 0,
        "services": [
            {"name": item.name, "instance": item.instance, "pid": item.pid} for item in services
        ],
        "output": ended.output if ended is not None else None,
        "error": ended.error if ended is not None else None,
    }


def _show(final: AnyEvent, events: Sequence[AnyEvent], spans: Sequence[Any]) -> None:
    if not isinstance(final, RunEnded):
        return
    if final.output is not None:
        say()
        answer, width = final.output.get("answer", ""), columns()
        for line in answer.splitlines():
            say(textwrap.fill(line, width) if width is not None else line)
        say()
        for cited in final.output.get("citations", []):
            say(f"  [{cited['id']}] {cited['source']}:{cited['line']}")
    say()
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if isinstance(event, TaskEnded):
            times[event.node].append(event.execute_ms)
    rows = [
        (node, str(len(ms)), f"{sum(ms):.0f} ms", f"{max(ms):.0f} ms") for node, ms in times.items()
    ]
    for line in table(("NODE", "TASKS", "TIME", "LONGEST"), rows):
        say(line)
    say()
    show_trace(spans)
    say()
    say(f"trace id {final.trace_id}")
