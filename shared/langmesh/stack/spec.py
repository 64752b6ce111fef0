"""What a stack consists of."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One service of a stack: ``python -m <module> <args…>``, ``replicas`` times."""

    name: str
    module: str
    args: tuple[str, ...] = ()
    replicas: int = 1
    env: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """The command line of one replica."""
        return [sys.executable, "-m", self.module, *self.args]


def coordinator(sources: Sequence[str]) -> ServiceSpec:
    """A coordinator that publishes the given graphs."""
    return ServiceSpec(name="coordinator", module="langmesh.coordinator", args=tuple(sources))


def agent(graph: str, node: str, *, replicas: int = 1) -> ServiceSpec:
    """The generic host for one node."""
    return ServiceSpec(name=node, module="langmesh.agent", args=(graph, node), replicas=replicas)


RESEARCH_GRAPH = "research.graph:graph"


def research(*, researchers: int = 2) -> list[ServiceSpec]:
    """The demo: the research graph with a service of its own for every node."""
    return [
        ServiceSpec(name="coordinator", module="services.coordinator", args=(RESEARCH_GRAPH,)),
        ServiceSpec(name="planner", module="services.planner"),
        ServiceSpec(name="researcher", module="services.researcher", replicas=researchers),
        ServiceSpec(name="writer", module="services.writer"),
        ServiceSpec(name="reviewer", module="services.reviewer"),
    ]
