"""How much CPU and memory this process uses of what it may use.

What it may use is the machine, or less where a container says so: the CPUs that the scheduler may
put it on, and the limits ``cpu.max`` and ``memory.max`` of its cgroup (version 2) and of those
around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from langmesh.clock import monotonic

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a process may use."""

    cpus: float
    """CPUs; a part of one counts."""
    memory_bytes: int

    @classmethod
    def of_this_process(
        cls, *, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP
    ) -> Allowance:
        """Read it; limits that are set later are not seen.

        Args:
            cgroups: Where the cgroup file system is mounted.
            membership: The file that names this process's cgroup.
        """
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only
        cpus = float(len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
        memory = int(psutil.virtual_memory().total)
        for folder in _folders(cgroups, membership):
            quota, _, period = _read(folder / "cpu.max").partition(" ")
            if quota.isdigit() and period.isdigit() and int(quota) and int(period):
                cpus = min(cpus, int(quota) / int(period))
            limit = _read(folder / "memory.max")
            if limit.isdigit() and int(limit):
                memory = min(memory, int(limit))
        return cls(cpus, memory)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process used since the sample before."""

    cpu: float
    """Share of the CPUs, 0 to 1."""
    memory: float
    """Share of the memory that is resident now, 0 to 1."""
    memory_bytes: int


class Usage:
    """Measures this process from one call of :meth:`sample` to the next."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._allowance = allowance or Allowance.of_this_process()
        self._process = psutil.Process()
        self._at = monotonic()
        self._used_s = self._cpu_s()

    def sample(self) -> Sample:
        """What was used since the call before, or since this was made."""
        now, used_s = monotonic(), self._cpu_s()
        elapsed_s, spent_s = now - self._at, used_s - self._used_s
        self._at, self._used_s = now, used_s
        cpu = spent_s / elapsed_s / self._allowance.cpus if elapsed_s > 0 else 0.0
        resident = int(self._process.memory_info().rss)
        return Sample(
            cpu=min(max(cpu, 0.0), 1.0),
            memory=min(resident / self._allowance.memory_bytes, 1.0),
            memory_bytes=resident,
        )

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


def _folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """The folder of this process's cgroup and those around it, inmost first."""
    for line in _read(membership).splitlines():
        if line.startswith("0::/"):
            folder = cgroups / line.removeprefix("0::/")
            # Seen from within a container, the path may begin with a way out of its namespace.
            while folder.is_relative_to(cgroups) and ".." not in folder.parts:
                yield folder
                if folder == cgroups:
                    return
                folder = folder.parent
    yield cgroups


def _read(path: Path) -> str:
    """A small file's text; empty where there is none, as on other systems."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
