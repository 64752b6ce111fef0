"""Run a stack: servers, span receiver, services: processes of their own, kept running."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from langmesh.clock import monotonic, now_iso
from langmesh.embedded.process import Child, Guard
from langmesh.embedded.servers import embedded_servers
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import Settings
from langmesh.stack import state
from langmesh.stack.spec import ServiceSpec
from langmesh.stack.state import StackState
from langmesh.telemetry.receiver_http import OtlpHttpReceiver
from langmesh.telemetry.store import SpanStore

log = logging.getLogger(__name__)

_GRACE_S: Final = 12.0
_QUICK_DEATH_S: Final = 5.0
_QUICK_DEATHS_MAX: Final = 3
_RESTART_PAUSE_S: Final = 0.5


@dataclass(slots=True)
class Stack:
    """A running stack; made by :func:`running_stack`."""

    home: Path
    state: StackState
    guard: Guard
    env: dict[str, str]
    failed: asyncio.Future[MeshError]
    """Resolves when a service cannot be kept running."""
    _children: dict[str, Child] = field(default_factory=dict)
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, spec: ServiceSpec) -> None:
        """Start all replicas of a service and keep them running."""
        for number in range(1, spec.replicas + 1):
            label = spec.name if spec.replicas == 1 else f"{spec.name}-{number}"
            child = self._spawn(label, spec)
            keeper = asyncio.create_task(self._keep(label, spec, child), name=f"keep {label}")
            self._keepers.append(keeper)

    @property
    def processes(self) -> Mapping[str, Child]:
        """The service processes by label."""
        return self._children

    async def stop_services(self) -> None:
        """Stop all services; they drain and send their last spans."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()
        await asyncio.gather(*(child.stop(_GRACE_S) for child in self._children.values()))
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

    async def _keep(self, label: str, spec: ServiceSpec, child: Child) -> None:
        quick_deaths = 0
        while True:
            started = monotonic()
            code = await child.wait()
            quick_deaths = quick_deaths + 1 if monotonic() - started < _QUICK_DEATH_S else 0
            log.warning("service %s ended by itself with code %s", label, code)
            if quick_deaths >= _QUICK_DEATHS_MAX:
                if not self.failed.done():
                    self.failed.set_result(
                        MeshError(
                            ErrorCode.SERVICE_FAILED,
                            f"service {label} ended {quick_deaths} times right after its start"
                            f" (exit code {code}): {_last_words(child)}",
                        )
                    )
                return
            await asyncio.sleep(_RESTART_PAUSE_S)
            child = self._spawn(label, spec)


def _last_words(child: Child) -> str:
    """The last log line of a process, its message only where it is one of our JSON lines."""
    import msgspec

    lines = [line for line in child.output().splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    try:
        return str(msgspec.json.decode(lines[-1])["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return lines[-1][:500]


@asynccontextmanager
async def running_stack(
    settings: Settings,
    specs: Sequence[ServiceSpec],
    *,
    graphs: Sequence[str],
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Run a stack in ``settings.home``.

    ``NATS_URL``, ``ETCD_ENDPOINTS`` and ``OTEL_EXPORTER_OTLP_ENDPOINT`` in the environment name
    servers to use instead of embedded ones.

    Args:
        settings: Settings of this process, handed on to the services.
        specs: The services.
        graphs: Names of the graphs that the stack serves, for ``status``.
        environ: The environment; the process's own by default.

    Raises:
        MeshError: ALREADY_RUNNING, SERVER_START_FAILED, PORT_IN_USE, DEPENDENCY_MISSING.
    """
    environ = os.environ if environ is None else environ
    home = Path.cwd() / settings.home
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(
            embedded_servers(
                home,
                nats_url=settings.nats_url if "NATS_URL" in environ else None,
                etcd_endpoints=settings.etcd_endpoints if "ETCD_ENDPOINTS" in environ else None,
            )
        )
        env = {
            **environ,
            "NATS_URL": servers.nats_url,
            "ETCD_ENDPOINTS": ",".join(servers.etcd_endpoints),
        }
        endpoint = settings.otlp_endpoint
        if not endpoint:
            store = stack.enter_context(SpanStore(state.spans_path(home)))
            receiver = await stack.enter_async_context(OtlpHttpReceiver(store))
            endpoint = receiver.endpoint
            env["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
            env["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
        running = Stack(
            home=home,
            state=StackState(
                pid=os.getpid(),
                nats_url=servers.nats_url,
                etcd_endpoints=list(servers.etcd_endpoints),
                otlp_endpoint=endpoint,
                graphs=list(graphs),
                started_at=now_iso(),
            ),
            guard=servers.guard,
            env=env,
            failed=asyncio.get_running_loop().create_future(),
        )
        for spec in specs:
            running.start(spec)
        try:
            yield running
        finally:
            state.remove(home)
            await running.stop_services()
