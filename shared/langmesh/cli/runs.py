"""``langmesh runs``: list runs, look at one, end one, answer one, go on where one failed."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
from datetime import datetime
from typing import Any, get_args

import msgspec

from langmesh.bus import Bus, connect
from langmesh.cli import progress
from langmesh.cli.arguments import add_command, positive, subcommands
from langmesh.cli.submission import read_json
from langmesh.cli.terminal import say, say_json, styled, table
from langmesh.client import overview
from langmesh.client.asking import ask
from langmesh.client.overview import RunReport, TaskSummary
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.wire.rpc import RunReference, RunStatus, RunView

_RESUME_S = 35.0
_COLOURS = {
    "success": "green",
    "ok": "green",
    "error": "red",
    "cancelled": "red",
    "interrupted": "yellow",
    "waiting": "yellow",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = subcommands(parser)
    ls = add_command(
        actions,
        "ls",
        "list runs, those that changed last first",
        ("runs ls", "runs ls --graph research --status error --limit 5", "runs ls --thread mine"),
    )
    ls.add_argument("--graph", metavar="G", help="only runs of this graph")
    ls.add_argument("--status", choices=get_args(RunStatus), help="only runs that stand like this")
    ls.add_argument("--thread", metavar="ID", help="only runs on this thread")
    ls.add_argument(
        "--limit", type=positive, default=20, metavar="N", help="at most so many; 20 if not given"
    )
    show = add_command(
        actions, "show", "show a run, its tasks and its output", ("runs show run-0a1b2c3d-7",)
    )
    cancel = add_command(
        actions, "cancel", "end a run that is not over", ("runs cancel run-0a1b2c3d-7",)
    )
    retry = add_command(
        actions,
        "retry",
        "go on where a run failed or was cancelled, as a new run on its thread",
        ("runs retry run-0a1b2c3d-7",),
    )
    for each in (show, cancel, retry):
        each.add_argument("run", metavar="RUN", help="id of a run")
    resume = add_command(
        actions,
        "resume",
        "answer the run that waits for a human on a thread",
        ("runs resume mine --graph approval --value '\"yes\"'",),
    )
    resume.add_argument("thread", metavar="THREAD", help="id of the thread")
    resume.add_argument("--graph", required=True, metavar="G", help="the thread's graph")
    resume.add_argument(
        "--value",
        required=True,
        metavar="JSON",
        help="the answer, or an object of answers by interrupt id; or @FILE, or - for stdin",
    )


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Run the action."""
    value = None
    if args.action == "resume":
        value = await asyncio.to_thread(read_json, "--value", args.value)
    mesh = state.find(settings, dict(os.environ))
    async with connect(mesh.nats_url, name="langmesh runs") as bus:
        try:
            await _ACTIONS[args.action](bus, args, settings.tenant, value)
        except MeshError as exc:
            if exc.code is not ErrorCode.UNKNOWN_RUN:
                raise
            refused = f"`langmesh events --run {args.run}` tells whether it was refused."
            raise MeshError(exc.code, exc.message, remedy=f"{exc.remedy} {refused}") from exc
    return 0


async def _list(bus: Bus, args: argparse.Namespace, tenant: str, _value: Any) -> None:
    listing = await overview.recent(
        bus,
        tenant,
        graph=args.graph,
        thread=args.thread,
        status=args.status,
        limit=args.limit,
    )
    if args.json:
        say_json(listing)
        return
    rows = [
        (
            run.run_id,
            run.status,
            run.graph,
            run.thread_id,
            _moment(run.accepted_at),
            _took(run.accepted_at, run.changed_at),
            run.error.message if run.error is not None else "",
        )
        for run in listing.runs
    ]
    head = ("RUN", "STATUS", "GRAPH", "THREAD", "ACCEPTED (UTC)", "TOOK", "ERROR")
    for line in table(head, rows, shrink=("ERROR", "THREAD", "GRAPH", "RUN")):
        say(line)
    if not rows:
        say("no run is stored that fits")
    if not listing.complete:
        told = f"only the last {listing.looked_at:,} events were looked at"
        say(styled(f"{told}; name a graph or a thread to look further back", "yellow"))


async def _report(bus: Bus, args: argparse.Namespace, tenant: str, _value: Any) -> None:
    report = await overview.report(bus, tenant, args.run)
    if args.json:
        say_json(report)
    else:
        _show(report)


def _show(run: RunReport) -> None:
    say(f"run {styled(run.run_id, 'bold')}  {_status(run.status)}")
    for name, text in _facts(run):
        if text:
            say(f"  {name:<13}{text}")
    if run.tasks:
        say()
        rows = [_row(task) for task in run.tasks]
        head = ("NODE", "STEP", "STATUS", "ATTEMPTS", "QUEUED", "TOOK", "INSTANCE", "NOTE")
        for line in table(head, rows, shrink=("NOTE", "INSTANCE", "NODE")):
            say(line)
    if run.error is not None:
        say()
        progress.show_error(run.error)
    if run.interrupts:
        say()
        for asked in run.interrupts:
            say(styled(f"asks {_json(asked)}", "yellow"))
        say(how_to_answer(run.graph, run.thread_id))
    if run.output is not None:
        say()
        say(_json(run.output))


def _facts(run: RunReport) -> list[tuple[str, str]]:
    return [
        ("graph", f"{run.graph}  revision {run.revision}" if run.revision else run.graph),
        ("thread", run.thread_id),
        ("accepted", f"{_moment(run.accepted_at)} UTC" if run.accepted_at else ""),
        ("waited", _took(run.accepted_at, run.started_at)),
        ("took", _took(run.accepted_at, run.ended_at or run.changed_at)),
        ("coordinator", run.coordinator),
        ("trace", f"{run.trace_id}  langmesh trace {run.run_id}" if run.trace_id else ""),
    ]


def _row(task: TaskSummary) -> tuple[str, ...]:
    over = bool(task.ended_at)
    return (
        task.node,
        str(task.superstep),
        task.status,
        str(task.attempts),
        f"{task.queue_ms:.0f} ms" if over else "",
        f"{task.execute_ms:.0f} ms" if over else "",
        task.instance,
        task.note,
    )


def how_to_answer(graph: str, thread: str) -> str:
    """The command that answers the run that waits on a thread."""
    words = ("langmesh", "runs", "resume", thread, "--graph", graph, "--value", "JSON")
    return f"  {shlex.join(words)}"


async def _cancel(bus: Bus, args: argparse.Namespace, tenant: str, _value: Any) -> None:
    found = await ask(bus, tenant, "run.cancel", {"run_id": args.run})
    view = msgspec.convert(found, RunView)
    if args.json:
        say_json(view)
    elif view.status == "cancelled":
        say(f"run {view.run_id} is cancelled")
    else:
        say(f"run {view.run_id} was over: {_status(view.status)}")


async def _resume(bus: Bus, args: argparse.Namespace, tenant: str, value: Any) -> None:
    asked = {"graph": args.graph, "thread_id": args.thread, "resume": value}
    found = await ask(bus, tenant, "run.resume", asked, timeout_s=_RESUME_S)
    _tell_begun(msgspec.convert(found, RunReference), "goes on", as_json=args.json)


async def _retry(bus: Bus, args: argparse.Namespace, tenant: str, _value: Any) -> None:
    found = await ask(bus, tenant, "run.retry", {"run_id": args.run}, timeout_s=_RESUME_S)
    run = msgspec.convert(found, RunReference)
    _tell_begun(run, f"goes on where {args.run} stopped", as_json=args.json)


def _tell_begun(run: RunReference, what: str, *, as_json: bool) -> None:
    if as_json:
        say_json(run)
    else:
        say(f"run {styled(run.run_id, 'bold')} {what}")
        say(f"  langmesh events --run {shlex.quote(run.run_id)} --follow")


_ACTIONS = {
    "ls": _list,
    "show": _report,
    "cancel": _cancel,
    "resume": _resume,
    "retry": _retry,
}


def _status(status: str) -> str:
    return styled(status, _COLOURS[status]) if status in _COLOURS else status


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()


def _moment(time: str) -> str:
    """An RFC 3339 time for people: to the second, in UTC."""
    return time[:19].replace("T", " ")


def _took(begin: str, end: str) -> str:
    try:
        took = datetime.fromisoformat(end) - datetime.fromisoformat(begin)
    except ValueError:
        return ""
    seconds = took.total_seconds()
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
