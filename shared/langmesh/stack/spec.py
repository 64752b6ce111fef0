"""What a stack consists of."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from langmesh.wire.names import to_token


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """One service of a stack: ``python -m <module> <args…>``, ``replicas`` times."""

    name: str
    module: str
    args: tuple[str, ...] = ()
    replicas: int = 1
    env: dict[str, str] = field(default_factory=dict)
    label: str = ""
    """What tells the service from others of the same name in this stack; its name if empty."""

    @property
    def labels(self) -> list[str]:
        """What each replica is called in the stack, as in ``.mesh/logs/<label>.log``."""
        label = self.label or self.name
        if self.replicas == 1:
            return [label]
        return [f"{label}-{number}" for number in range(1, self.replicas + 1)]

    @property
    def command(self) -> list[str]:
        """The command line of one replica."""
        return [sys.executable, "-m", self.module, *self.args]


def coordinator(sources: Sequence[str]) -> ServiceSpec:
    """A coordinator that publishes the given graphs."""
    return ServiceSpec(name="coordinator", module="langmesh.coordinator", args=tuple(sources))


def agents(graphs: Mapping[str, Iterable[str]]) -> list[ServiceSpec]:
    """A generic host for each node of the graphs, given as the nodes' names by the graph's."""
    token = functools.partial(to_token, field="node")
    places = [(graph, node) for graph, nodes in graphs.items() for node in nodes]
    count = Counter(["coordinator", *(node for _, node in places)])
    return [
        ServiceSpec(
            name=node,
            module="langmesh.agent",
            args=(graph, node),
            label=token(node) if count[node] == 1 else f"{token(graph)}.{token(node)}",
        )
        for graph, node in places
    ]


def agent(graph: str, node: str) -> ServiceSpec:
    """A generic host for one node."""
    label = f"{to_token(graph, field='graph')}.{to_token(node, field='node')}"
    return ServiceSpec(name=node, module="langmesh.agent", args=(graph, node), label=label)


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
