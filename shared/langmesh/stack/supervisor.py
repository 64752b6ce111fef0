"""Run a stack: servers, span receiver, and a process per service, watched and restarted."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from langmesh.clock import monotonic, now_iso
from langmesh.embedded.process import Child, Guard
from langmesh.embedded.servers import embedded_servers
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import POWER_LOSS, Settings
from langmesh.stack import state
from langmesh.stack.readiness import Readiness, readiness
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.state import StackState
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore

log = logging.getLogger(__name__)

_GRACE_S: Final = 12.0
_QUICK_DEATH_S: Final = 5.0
_QUICK_DEATHS_MAX: Final = 3
_RESTART_PAUSE_S: Final = 0.5
_WORDS_MAX: Final = 500


class _LastLine(msgspec.Struct, frozen=True):
    """What ``langmesh.service`` logs before it ends a process with a failure."""

    code: str
    reason: str
    remedy: str


@dataclass(slots=True)
class Stack:
    """A running stack; made by :func:`running_stack`."""

    home: Path
    state: StackState
    guard: Guard
    env: dict[str, str]
    ready: Readiness
    failed: asyncio.Future[MeshError]
    """Resolves when a service cannot be kept running."""
    on_failure: Callable[[MeshError], None] | None = None
    """Called instead, when set: the stack goes on without the service."""
    _children: dict[str, Child] = field(default_factory=dict)
    _keepers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _leaving: set[asyncio.Task[None]] = field(default_factory=set)

    def start(
        self, spec: ServiceSpec, *, on_failure: Callable[[MeshError], None] | None = None
    ) -> None:
        """Start all replicas of a service and keep them running.

        Args:
            spec: The service.
            on_failure: Called when it cannot be kept running, instead of the stack's own.
        """
        for label in spec.labels:
            child = self._spawn(label, spec)
            keeping = self._keep(label, spec, child, on_failure or self._give_up)
            self._keepers[label] = asyncio.create_task(keeping, name=f"keep {label}")

    def stop(self, spec: ServiceSpec) -> None:
        """Tell all replicas of a service to drain and end; they no longer count as ready."""
        for label in spec.labels:
            if (keeper := self._keepers.pop(label, None)) is not None:
                keeper.cancel()
            if (child := self._children.pop(label, None)) is not None:
                self.ready.dismiss(child.pid)
                leaving = asyncio.create_task(self._leave(child), name=f"stop {label}")
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, child: Child) -> None:
        await child.stop(_GRACE_S)
        self.ready.forget(child.pid)

    async def wait_ready(self, specs: Sequence[ServiceSpec], *, timeout_s: float) -> None:
        """Wait until services of this stack are ready.

        Raises:
            MeshError: Why a service cannot be kept running, or TIMED_OUT naming what is missing.
        """
        await self.ready.wait(specs, failed=self.failed, timeout_s=timeout_s)

    async def stop_services(self) -> None:
        """Stop all services; they drain and send their last spans."""
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        self._keepers.clear()
        stopping = [child.stop(_GRACE_S) for child in self._children.values()]
        await asyncio.gather(*stopping, *self._leaving)
        self._children.clear()

    def _spawn(self, label: str, spec: ServiceSpec) -> Child:
        child = self.guard.spawn(
            label,
            spec.command,
            log=self.home / "logs" / f"{label}.log",
            env={**self.env, **spec.env},
        )
        self._children[label] = child
        return child

    async def _keep(
        self,
        label: str,
        spec: ServiceSpec,
        child: Child,
        give_up: Callable[[MeshError], None],
    ) -> None:
        quick_deaths = 0
        while True:
            started = monotonic()
            code = await child.wait()
            self.ready.forget(child.pid)
            quick_deaths = quick_deaths + 1 if monotonic() - started < _QUICK_DEATH_S else 0
            end = _end_of(child)
            if not end.retryable or quick_deaths >= _QUICK_DEATHS_MAX:
                what = f"service {label} ended with exit code {code}: {end.message}"
                give_up(MeshError(end.code, what, remedy=end.remedy))
                return
            log.warning("service %s ended with exit code %s and is started again", label, code)
            await asyncio.sleep(_RESTART_PAUSE_S)
            child = self._spawn(label, spec)

    def _give_up(self, problem: MeshError) -> None:
        if self.on_failure is not None:
            self.on_failure(problem)
        elif not self.failed.done():
            self.failed.set_result(problem)


def _end_of(child: Child) -> MeshError:
    """Why a service ended, as the last line of its log says.

    A failure that a restart cannot mend, such as a graph that cannot be imported, keeps its code.
    """
    lines = [line for line in child.output().splitlines() if line.strip()]
    remedy = f"Read its log {child.log}."
    if not lines:
        return MeshError(ErrorCode.SERVICE_FAILED, "it printed nothing", remedy=remedy)
    try:
        line = msgspec.json.decode(lines[-1], type=_LastLine)
        return MeshError(ErrorCode(line.code), line.reason, remedy=line.remedy)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return MeshError(ErrorCode.SERVICE_FAILED, lines[-1][:_WORDS_MAX], remedy=remedy)


@asynccontextmanager
async def running_stack(
    settings: Settings,
    specs: Sequence[ServiceSpec],
    *,
    graphs: Sequence[str],
    environ: Mapping[str, str] | None = None,
    nats_port: int = 0,
    etcd_port: int = 0,
) -> AsyncIterator[Stack]:
    """Run a stack in ``settings.home``.

    ``NATS_URL``, ``ETCD_ENDPOINTS`` and ``OTEL_EXPORTER_OTLP_ENDPOINT`` in the environment name
    servers to use instead of embedded ones.

    Args:
        settings: Settings of this process, handed on to the services.
        specs: The services.
        graphs: Names of the graphs that the stack serves, for ``status``.
        environ: The environment; the process's own by default.
        nats_port: Port of the embedded nats-server; 0 lets the kernel pick one.
        etcd_port: Port of the embedded etcd, likewise.

    Raises:
        MeshError: ALREADY_RUNNING, SERVER_START_FAILED, PORT_IN_USE, DEPENDENCY_MISSING,
            INVALID_SETTING for a home that cannot be a folder.
    """
    environ = os.environ if environ is None else environ
    home = home_folder(settings.home)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(
            embedded_servers(
                home,
                nats_url=settings.nats_url if "NATS_URL" in environ else None,
                etcd_endpoints=settings.etcd_endpoints if "ETCD_ENDPOINTS" in environ else None,
                sync_always=settings.durability_profile == POWER_LOSS,
                nats_port=nats_port,
                etcd_port=etcd_port,
            )
        )
        env = {
            **environ,
            "NATS_URL": servers.nats_url,
            "ETCD_ENDPOINTS": ",".join(servers.etcd_endpoints),
            "LANGMESH_DURABILITY_PROFILE": settings.durability_profile,
        }
        endpoint = settings.otlp_endpoint
        if not endpoint:
            store = stack.enter_context(SpanStore(state.spans_path(home)))
            receiver = await stack.enter_async_context(OtlpHttpReceiver(store))
            endpoint = receiver.endpoint
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
            env["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
        ready = await stack.enter_async_context(readiness())
        env["NOTIFY_SOCKET"] = ready.path
        running = Stack(
            home=home,
            state=StackState(
                pid=os.getpid(),
                nats_url=servers.nats_url,
                etcd_endpoints=list(servers.etcd_endpoints),
                otlp_endpoint=endpoint,
                graphs=list(graphs),
                started_at=now_iso(),
                profile=settings.durability_profile,
            ),
            guard=servers.guard,
            env=env,
            ready=ready,
            failed=asyncio.get_running_loop().create_future(),
        )
        for spec in specs:
            running.start(spec)
        try:
            yield running
        finally:
            state.remove(home)
            await running.stop_services()


def home_folder(text: str) -> Path:
    """The home folder of a stack, made if missing.

    Raises:
        MeshError: INVALID_SETTING if it cannot be a folder.
    """
    home = Path(text).resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise MeshError(
            ErrorCode.INVALID_SETTING,
            f"LANGMESH_HOME={text!r}: {exc.strerror}",
            remedy="Name a folder that exists or can be made.",
        ) from exc
    return home
