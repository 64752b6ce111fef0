"""``langmesh up``: start a mesh on this machine and keep it running."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec

from langmesh.bus import connect
from langmesh.bus.streams import ensure_streams
from langmesh.cli import reloads
from langmesh.cli.arguments import completing, port
from langmesh.cli.demo import has_demo
from langmesh.cli.terminal import say, say_error, say_json, styled
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings, load
from langmesh.stack import spec, state
from langmesh.stack.project import FILE, Project, of_arguments, of_file
from langmesh.stack.reload import Reloader
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.state import StackState
from langmesh.stack.supervisor import Stack, home_folder, running_stack

READY_S = 60.0
_POLL_S = 0.05
_WORDS_MAX = 2_000


class _PrintedError(msgspec.Struct, frozen=True):
    code: str
    message: str
    remedy: str


class _Printed(msgspec.Struct, frozen=True):
    """What ``--json`` prints of a failure."""

    error: _PrintedError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    sources = parser.add_argument(
        "graphs",
        nargs="*",
        metavar="SOURCE",
        help="graph to serve, [NAME=]PATH.py:ATTRIBUTE or [NAME=]MODULE:ATTRIBUTE; if none is"
        " given, those of ./langgraph.json, in a checkout without one the demo's",
    )
    completing(sources, "file")
    parser.add_argument("--detach", action="store_true", help="return when everything is ready")
    parser.add_argument(
        "--reload",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take changed .py files into the running mesh (default)",
    )
    for server in ("nats", "etcd"):
        parser.add_argument(
            f"--{server}-port",
            type=port,
            default=0,
            metavar="N",
            help=f"port of the embedded {server}; a free one if not given",
        )
    parser.add_argument("--no-coordinator", action="store_true", help="leave the coordinator out")


async def command(args: argparse.Namespace, settings: Settings) -> int:
    """Start the mesh; stay until Ctrl-C unless detached."""
    project = await asyncio.to_thread(_project, args.graphs, Path.cwd())
    for note in project.notes if project is not None else ():
        print(f"langmesh: {note}", file=sys.stderr, flush=True)
    if args.detach:
        mesh = await _detached(args, settings)
        _announce(mesh, as_json=args.json)
        return 0
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    environ = project.environment(os.environ) if project is not None else dict(os.environ)
    # Where `down` and the others look is not for the project to say.
    settings = dataclasses.replace(load(environ), home=settings.home)
    reloader = None
    if args.reload and project is not None and not args.no_coordinator:
        report = functools.partial(reloads.show, as_json=args.json)
        reloader = await asyncio.to_thread(Reloader, project, Path(settings.home), report)
    specs = _specs(project)
    if args.no_coordinator:
        specs = [item for item in specs if item.name != "coordinator"]
    async with running_stack(
        settings,
        specs,
        graphs=_names(project),
        environ=environ,
        nats_port=args.nats_port,
        etcd_port=args.etcd_port,
    ) as stack:
        ready = _ready(stack, settings, specs, _names(project) if project is not None else ())
        # With a reloader, new nodes of the project's own graphs are its business.
        own = set(_names(project)) if project is None or reloader is not None else set[str]()
        serving = _serve_published(stack, settings, own, as_json=args.json)
        await _stay(stack, specs, ready, serving, reloader, stop, as_json=args.json)
        if stack.failed.done():
            raise stack.failed.result()
        if not args.json:
            say("stopping …")
    return 0


async def _stay(
    stack: Stack,
    specs: Sequence[ServiceSpec],
    becoming_ready: Coroutine[Any, Any, list[ServiceSpec]],
    serving: Coroutine[Any, Any, None],
    reloader: Reloader | None,
    stop: asyncio.Event,
    *,
    as_json: bool,
) -> None:
    """Announce the mesh when it is ready, and stay until it fails or ``stop`` is set."""
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    ready: asyncio.Future[list[ServiceSpec]] = asyncio.ensure_future(becoming_ready)
    failed: asyncio.Future[Any] = stack.failed
    following: list[asyncio.Task[None]] = []
    try:
        await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            services = [*specs, *await ready]
            state.write(stack.home, stack.state)
            following.append(asyncio.create_task(serving, name="serve what is published"))
            _announce(stack.state, as_json=as_json)
            if reloader is not None:
                run = reloader.run(stack, services)
                following.append(asyncio.create_task(run, name="reload"))
            await asyncio.wait([stopped, failed], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (ready, stopped, *following):
            task.cancel()
        await asyncio.gather(ready, *following, return_exceptions=True)
        serving.close()


async def _serve_published(
    stack: Stack, settings: Settings, own: set[str], *, as_json: bool
) -> None:
    """Start agents for graphs that are published while the mesh is up."""
    from langmesh.stack.agents import serve_published

    def report(item: ServiceSpec, problem: MeshError | None) -> None:
        if problem is not None:
            say_error(problem, as_json=as_json)
        elif as_json:
            say_json({"started": {"service": item.name, "graph": item.args[0]}})
        else:
            say(f"started an agent for {item.name} of {item.args[0]}")

    try:
        await serve_published(stack, settings, without=own, report=report)
    except MeshError as exc:
        say_error(exc, as_json=as_json)


def _project(sources: Sequence[str], folder: Path) -> Project | None:
    """What to serve; None for the demo.

    Raises:
        MeshError: INVALID_PROJECT, GRAPH_IMPORT_FAILED.
    """
    if sources:
        return of_arguments(sources, folder)
    if (file := folder / FILE).exists():
        return of_file(file)
    if has_demo():
        return None
    raise MeshError(
        ErrorCode.INVALID_PROJECT,
        f"there is no {FILE} in {folder}, so there is nothing to serve",
        remedy="Name a graph, as in `langmesh up app.py:graph`, or begin a project with"
        " `langmesh new NAME`.",
    )


def _specs(project: Project | None) -> list[ServiceSpec]:
    if project is None:
        return spec.research()
    return [spec.coordinator([str(source) for source in project.sources])]


def _names(project: Project | None) -> list[str]:
    return [source.name for source in project.sources] if project is not None else ["research"]


async def _ready(
    stack: Stack, settings: Settings, specs: Sequence[ServiceSpec], graphs: Sequence[str]
) -> list[ServiceSpec]:
    """Wait until the services are ready, and start the agents of the graphs; the latter."""
    async with connect(stack.state.nats_url, name="langmesh up", wait_s=10) as bus:
        # Submissions are welcome before the first coordinator is.
        await ensure_streams(bus, replicas=settings.replicas)
    if not any(item.name == "coordinator" for item in specs):
        # Agents wait for a coordinator to publish their graph; so must whoever wants them ready.
        return []
    await stack.wait_ready(specs, timeout_s=READY_S)
    if not graphs:
        return []
    from langmesh.stack.agents import start_agents

    agents = await start_agents(stack, settings, graphs)
    await stack.wait_ready(agents, timeout_s=READY_S)
    return agents


def _announce(mesh: StackState, *, as_json: bool) -> None:
    if as_json:
        say_json(mesh)
        return
    say(styled("the mesh is up", "green"))
    say(f"  nats  {mesh.nats_url}")
    say(f"  etcd  {', '.join(mesh.etcd_endpoints)}")
    say(f"  otlp  {mesh.otlp_endpoint}")
    say(f"  durability profile: {mesh.profile}")
    graph = mesh.graphs[0] if len(mesh.graphs) == 1 else "GRAPH"
    say(f"  graphs: {', '.join(mesh.graphs)}")
    say(f"  langmesh status · langmesh run {graph} --input JSON · langmesh down")


async def _detached(args: argparse.Namespace, settings: Settings) -> StackState:
    home = await asyncio.to_thread(home_folder, settings.home)
    if (running := state.read(home)) is not None:
        raise MeshError(
            ErrorCode.ALREADY_RUNNING, f"a mesh with pid {running.pid} runs in {settings.home}/"
        )
    # Left behind by a mesh that was killed.
    state.remove(home)
    log = home / "logs" / "supervisor.log"
    flags = [f"--nats-port={args.nats_port}", f"--etcd-port={args.etcd_port}"]
    if args.no_coordinator:
        flags.append("--no-coordinator")
    if not args.reload:
        flags.append("--no-reload")
    process = await asyncio.to_thread(_start, log, ["--json", *flags, *args.graphs])
    try:
        async with asyncio.timeout(READY_S * 2):
            return await _announced(process, home, log)
    except TimeoutError as exc:
        raise MeshError(
            ErrorCode.TIMED_OUT,
            f"the mesh is not ready after {READY_S * 2:g} s",
            remedy=f"Read the logs in {log.parent}.",
        ) from exc
    finally:
        if state.read(home) is None:
            process.terminate()


async def _announced(process: subprocess.Popen[bytes], home: Path, log: Path) -> StackState:
    """Wait until a detached mesh has announced itself."""
    while (running := state.read(home)) is None or running.pid != process.pid:
        if process.poll() is not None:
            raise _failure(log)
        await asyncio.sleep(_POLL_S)
    return running


def _start(log: Path, args: Sequence[str]) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "langmesh.cli", "up", *args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _failure(log: Path) -> MeshError:
    """The failure that a detached mesh has printed as JSON, else the end of what it printed."""
    text = log.read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            error = msgspec.json.decode(line, type=_Printed).error
            return MeshError(ErrorCode(error.code), error.message, remedy=error.remedy)
    return MeshError(
        ErrorCode.SERVICE_FAILED,
        f"the mesh ended: {text.strip()[-_WORDS_MAX:]}",
        remedy=f"Read its log {log}.",
    )
