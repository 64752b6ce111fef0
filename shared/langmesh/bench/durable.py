"""Measure both durability profiles beside LangGraph in one process with a SQLite saver."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from langmesh.bench.chain import chain
from langmesh.bench.measure import Running, drive_runs, running_chain
from langmesh.clock import monotonic, new_id
from langmesh.errors import ErrorCode, MeshError
from langmesh.settings import POWER_LOSS, PROCESS_CRASH, Settings

_ROUNDS: Final = 3
_PROFILES: Final = (PROCESS_CRASH, POWER_LOSS)
_SYNC: Final = {
    PROCESS_CRASH: "nats-server's default, every two minutes",
    POWER_LOSS: "sync_interval: always",
}
_SYNCHRONOUS: Final = {0: "off", 1: "normal", 2: "full", 3: "extra"}


async def profiles_beside_sqlite(
    settings: Settings,
    *,
    steps: int,
    concurrency: int,
    runs: int | None,
    agents: int | None = None,
    coordinators: int | None = None,
) -> dict[str, Any]:
    """Run the benchmark and return its figures.

    All three run the same chain with durability ``sync``, in turns, so that a change of the
    machine's pace meets them all; the figures are medians of the rounds.

    Args:
        settings: Of this process; its home gets a folder per profile.
        steps: Nodes in the chain.
        concurrency: Runs at once.
        runs: Runs in each round and contestant; 4 per unit of concurrency by default.
        agents: Processes that host all nodes; by default one for every two cores.
        coordinators: Processes that share the runs; by default one for every core.

    Raises:
        MeshError: DEPENDENCY_MISSING, SERVICE_FAILED, or INTERNAL if a run fails.
    """
    runs = runs or 4 * concurrency
    coordinators = coordinators or os.cpu_count() or 1
    figures: dict[str, list[float]] = {name: [] for name in ("sqlite", *_PROFILES)}
    async with contextlib.AsyncExitStack() as stack:
        meshes: dict[str, Running] = {}
        for profile in _PROFILES:
            home = str(Path(settings.home) / profile)
            own = dataclasses.replace(settings, home=home, durability_profile=profile)
            mesh = running_chain(own, steps=steps, agents=agents, coordinators=coordinators)
            meshes[profile] = await stack.enter_async_context(mesh)
            await drive_runs(meshes[profile].client, steps, concurrency=8, runs=16)
        # On the disk that the brokers write to.
        folder = stack.enter_context(TemporaryDirectory(prefix="sqlite-", dir=settings.home))
        sqlite = await stack.enter_async_context(_sqlite(Path(folder) / "checkpoints.db", steps))
        for _ in range(_ROUNDS):
            figures["sqlite"].append(
                runs * steps / await sqlite.seconds(concurrency=concurrency, runs=runs)
            )
            for profile, running in meshes.items():
                seconds, _ = await drive_runs(
                    running.client, steps, concurrency=concurrency, runs=runs, durability="sync"
                )
                figures[profile].append(runs * steps / seconds)
        base = median(figures["sqlite"])
        return {
            "graph": "chain",
            "steps": steps,
            "concurrency": concurrency,
            "runs": runs,
            "coordinators": coordinators,
            "rounds": _ROUNDS,
            "durability": "sync",
            "sqlite": {"steps_per_s": round(base, 1), **sqlite.pragmas},
            "profiles": {
                profile: {
                    "steps_per_s": round(median(figures[profile]), 1),
                    "ratio_to_sqlite": round(median(figures[profile]) / base, 2),
                    "sync": _SYNC[profile],
                    "storage": "file",
                }
                for profile in _PROFILES
            },
        }


class _Sqlite:
    """LangGraph in this process, with its checkpoints in a SQLite file."""

    def __init__(self, graph: Any, steps: int, pragmas: dict[str, Any]) -> None:
        self._graph = graph
        self._steps = steps
        self.pragmas = pragmas

    async def seconds(self, *, concurrency: int, runs: int) -> float:
        """Drive runs on as many threads; returns the seconds for all."""
        gate = asyncio.Semaphore(concurrency)

        async def one() -> None:
            async with gate:
                config = {
                    "configurable": {"thread_id": new_id()},
                    "recursion_limit": self._steps + 5,
                }
                found = await self._graph.ainvoke({"n": 0}, config, durability="sync")
                if found != {"n": self._steps}:
                    raise MeshError(ErrorCode.INTERNAL, f"a run of the benchmark made {found}")

        started = monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(runs):
                group.create_task(one())
        return monotonic() - started


@contextlib.asynccontextmanager
async def _sqlite(file: Path, steps: int) -> AsyncIterator[_Sqlite]:
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError as exc:
        raise MeshError(
            ErrorCode.DEPENDENCY_MISSING,
            "the SQLite saver, which this benchmark compares with, is not installed",
            remedy="pip install 'langmesh[bench]'",
        ) from exc
    async with AsyncSqliteSaver.from_conn_string(str(file)) as saver:
        await saver.setup()
        found: dict[str, Any] = {}
        for name in ("journal_mode", "synchronous"):
            async with saver.conn.execute(f"PRAGMA {name}") as cursor:
                found[f"pragma_{name}"] = (await cursor.fetchone() or [None])[0]
        level = found["pragma_synchronous"]
        found["pragma_synchronous"] = _SYNCHRONOUS.get(level, level)
        yield _Sqlite(chain(steps).compile(checkpointer=saver), steps, found)
