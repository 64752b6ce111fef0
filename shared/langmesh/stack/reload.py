"""Take new code into a running stack when its files change.

New code is tried out in a process of its own first: as long as it cannot be imported, the services
go on with what they have. Services are replaced, not changed: the old process drains while the new
one starts, so no task and no run is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from langmesh.clock import monotonic
from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.sources import reason
from langmesh.stack import spec, watching
from langmesh.stack.check import Checked, check
from langmesh.stack.project import Project
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.supervisor import Stack

log = logging.getLogger(__name__)

_READY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """What came of a change."""

    files: tuple[str, ...]
    """What changed, from the project's folder."""
    services: tuple[str, ...] = ()
    """What was replaced or stopped."""
    seconds: float = 0.0
    problem: MeshError | None = None
    """Why the services go on with the code that they have."""


class Reloader:
    """Watches a project's folders; made before the services are, so that it sees every change.

    Args:
        project: What the stack serves.
        home: The stack's own folder, which is not watched.
        report: Told what came of each change.
    """

    def __init__(self, project: Project, home: Path, report: Callable[[Reload], None]) -> None:
        self._project = project
        self._sources = [str(source) for source in project.sources]
        self._without = (home.resolve(),)
        self._report = report
        self._before: watching.Snapshot | None = None
        self._unwatched: OSError | None = None
        try:
            self._before = watching.snapshot(project.paths, without=self._without)
        except OSError as exc:
            self._unwatched = exc
        self._pending: set[Path] = set()
        """Changed since the services last took their code."""

    async def run(self, stack: Stack, services: Sequence[ServiceSpec]) -> None:
        """Follow the files until cancelled.

        Args:
            stack: A stack that is ready.
            services: Its services, the coordinator among them unless it has none.
        """
        running = {item.labels[0]: item for item in services}
        stack.on_failure = lambda problem: self._report(Reload(files=(), problem=problem))
        try:
            if self._before is None:
                assert self._unwatched is not None
                raise self._unwatched  # noqa: TRY301  told like what comes later
            async for changed in watching.changes(
                self._project.paths, self._before, without=self._without
            ):
                if (came := await self._on_changed(stack, running, changed)) is not None:
                    self._report(came)
        except OSError as exc:
            problem = MeshError(
                ErrorCode.DEPENDENCY_MISSING,
                f"changed files are not taken, because they cannot be watched: {exc}",
                remedy="Work in a folder of the project's own, raise the system's limit (Linux:"
                " fs.inotify.max_user_watches), or stop and start the mesh after a change.",
            )
            self._report(Reload(files=(), problem=problem))
        except Exception:
            log.exception("changes are no longer taken")

    async def _on_changed(
        self, stack: Stack, running: dict[str, ServiceSpec], changed: frozenset[Path]
    ) -> Reload | None:
        """Take a change; None if it concerns no service."""
        self._pending |= changed
        started = monotonic()
        files = self._names(changed)
        try:
            services = await self._take(stack, running)
        except MeshError as exc:
            return Reload(files=files, problem=exc)
        self._pending.clear()
        if not services:
            return None
        return Reload(files=files, services=tuple(services), seconds=monotonic() - started)

    async def _take(self, stack: Stack, running: dict[str, ServiceSpec]) -> list[str]:
        """Replace the services that the pending changes concern; their labels.

        Raises:
            MeshError: Why the new code cannot be served.
        """
        await asyncio.to_thread(_compile, self._pending)
        found = await check(self._sources, stack.env)
        all_agents = {item.labels[0]: item for item in spec.agents(found.nodes)}
        keep = all_agents.keys() | ({"coordinator"} & running.keys())
        started = self._affected(found, running, all_agents)
        if not started and running.keys() == keep:
            return []
        return await replace(stack, running, started, keep)

    def _affected(
        self,
        found: Checked,
        running: Mapping[str, ServiceSpec],
        all_agents: Mapping[str, ServiceSpec],
    ) -> dict[str, ServiceSpec]:
        """The services that are to be started with the new code.

        A coordinator holds the state of threads, so it stays where it has imported nothing of what
        changed: node bodies that a graph names with ``lazy`` are imported by their agents alone.

        Raises:
            MeshError: A changed body cannot be imported.
        """
        unknown = {path for path in self._pending if not self._is_test(path)}
        affected = {}
        for label, item in all_agents.items():
            graph, node = item.args
            if (body := found.bodies.get(graph, {}).get(node)) is None:
                continue
            if concerned := self._pending & {Path(file) for file in body.files}:
                if body.failure is not None:
                    raise body.failure.error
                affected[label] = item
                unknown -= concerned
        if self._pending & {Path(file) for file in found.files}:
            own = {"coordinator": running["coordinator"]} if "coordinator" in running else {}
            return {**own, **all_agents}
        # Code may be imported late, inside a function; then any agent may have it.
        return dict(all_agents) if unknown else affected

    def _is_test(self, path: Path) -> bool:
        within = Path(self._name(path))
        return (
            within.name.startswith("test_")
            or within.name == "conftest.py"
            or "tests" in within.parent.parts
        )

    def _name(self, path: Path) -> str:
        root = self._project.root
        return str(path.relative_to(root) if path.is_relative_to(root) else path)

    def _names(self, files: Iterable[Path]) -> tuple[str, ...]:
        return tuple(sorted(map(self._name, files)))


async def replace(
    stack: Stack,
    running: dict[str, ServiceSpec],
    started: Mapping[str, ServiceSpec],
    keep: AbstractSet[str],
) -> list[str]:
    """Start services in place of those of the same labels, and stop those not to be kept.

    Args:
        stack: The stack.
        running: What runs, by label; brought up to date.
        started: What is to be started.
        keep: The labels of all that is to run.

    Raises:
        MeshError: Why a new service does not become ready.
    """
    problem: asyncio.Future[MeshError] = asyncio.get_running_loop().create_future()
    before = stack.on_failure
    stack.on_failure = lambda exc: None if problem.done() else problem.set_result(exc)
    gone = (running.keys() - keep) | (started.keys() & running.keys())
    try:
        for label in gone:
            stack.stop(running.pop(label))
        for label, item in started.items():
            stack.start(item)
            running[label] = item
        await stack.ready.wait(list(started.values()), failed=problem, timeout_s=_READY_S)
    finally:
        stack.on_failure = before
    return sorted(gone | started.keys())


def _compile(files: set[Path]) -> None:
    """Find the errors that no import shows, because the file is imported inside a function.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED.
    """
    for path in sorted(files):
        try:
            compile(path.read_bytes(), path, "exec", dont_inherit=True)
        except FileNotFoundError:
            continue
        except (SyntaxError, ValueError, OSError) as exc:
            raise MeshError(
                ErrorCode.GRAPH_IMPORT_FAILED,
                f"{path.name}: {reason(exc)}",
                remedy="Correct it and save it again.",
            ) from exc
