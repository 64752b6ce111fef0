"""Start a service process, run it until it is told to stop, and end it with a telling exit code.

Exit codes: 0 after SIGTERM or SIGINT, 1 for a failure that a person can mend (one line on stderr),
70 for a defect of langmesh itself (with a traceback).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import uvloop

from langmesh import clock, settings
from langmesh.errors import MeshError
from langmesh.registry.records import ServiceRecord, State
from langmesh.service.notify import notify
from langmesh.settings import Settings
from langmesh.telemetry import logs
from langmesh.telemetry.tracing import Telemetry, setup

log = logging.getLogger(__name__)

EXIT_MENDABLE = 1
EXIT_DEFECT = 70


@dataclass(slots=True)
class Service:
    """One running service process."""

    name: str
    instance: str
    settings: Settings
    telemetry: Telemetry
    started_at: str = field(default_factory=clock.now_iso)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process shall drain and end."""
    serving: bool = False
    """Whether it is ready, so that there is work to hand over before it ends."""

    @contextlib.contextmanager
    def announced(self) -> Iterator[None]:
        """Tell the supervisor that the service is ready, and after the block that it stops."""
        notify("READY=1", service=self.name, instance=self.instance)
        self.serving = True
        try:
            yield
        finally:
            notify("STOPPING=1", service=self.name, instance=self.instance)

    def record(
        self,
        state: State,
        *,
        capacity: int,
        release: str = "",
        graph: str = "",
        node: str = "",
        **more: Any,
    ) -> ServiceRecord:
        """This process as the registry shows it; ``more`` are further fields of the record."""
        loop = type(asyncio.get_running_loop())
        return ServiceRecord(
            service=self.name,
            instance=self.instance,
            pid=os.getpid(),
            host=socket.gethostname(),
            state=state,
            event_loop=loop.__module__.partition(".")[0],
            release=release or self.settings.release,
            capacity=capacity,
            started_at=self.started_at,
            versions={name: _version(name) for name in ("langmesh", "langgraph", "nats-py")},
            graph=graph,
            node=node,
            **more,
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def run_service(name: str, main: Callable[[Service], Awaitable[None]]) -> None:
    """Run ``main`` under uvloop until SIGTERM or SIGINT, then leave the process.

    Args:
        name: The service's name in the registry, in traces and in logs.
        main: Gets the service; returns after ``service.stop`` is set and its work is handed over.
    """
    instance = clock.new_instance(name)
    # First of all, so that a wrong setting is told as every other failure is.
    logs.configure(service=name, instance=instance)
    try:
        config = settings.load()
        logs.configure(service=name, instance=instance, level=config.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(name, instance, config, main))
    except MeshError as exc:
        # One line and no traceback: whoever reads it can mend it.
        what = {"code": str(exc.code), "reason": exc.message, "remedy": exc.remedy}
        log.error("%s", exc, extra=what)  # noqa: TRY400
        sys.stderr.flush()
        sys.exit(EXIT_MENDABLE)
    except Exception:
        log.exception("the service ended by a defect")
        sys.exit(EXIT_DEFECT)


def _tune_gc() -> None:
    """Keep what was imported out of the collector's sight, and let it look less often.

    A service makes thousands of short-lived objects per message and hardly any cycles; with the
    default thresholds the collector takes a tenth of its CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _run(
    name: str, instance: str, config: Settings, main: Callable[[Service], Awaitable[None]]
) -> None:
    _tune_gc()
    telemetry = setup(config, service=name, instance=instance, version=config.release)
    service = Service(name, instance, config, telemetry)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, service.stop.set)
    work = asyncio.ensure_future(main(service))
    stopped = asyncio.create_task(service.stop.wait())
    try:
        await asyncio.wait([work, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not service.serving:
            # It waits for something, such as a graph that nobody has published.
            work.cancel()
        await work
    except asyncio.CancelledError:
        if not service.stop.is_set():
            raise
    finally:
        stopped.cancel()
        await telemetry.aclose(timeout_s=3)
