"""The service that executes one node, as its author writes it: three lines around a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langmesh.agent.host import NodePlace, hosting
from langmesh.service import Service, run_service

Body = TypeVar("Body", bound=Callable[..., Any])


class Agent:
    """Serves one node of a graph as a process of its own.

    Args:
        graph: Name of a published graph, or ``module:attribute``.
        node: Name of the node.
        release: Release that this process serves; ``LANGMESH_RELEASE`` by default.
        max_in_flight: Tasks that run at once; ``LANGMESH_MAX_IN_FLIGHT`` by default. Small for work
            on the CPU, hundreds for nodes that wait on a model.
        capabilities: What it can do, in words for whoever looks for an agent, e.g. ``"search"``; at
            most 32 of at most 100 characters.

    Example:
        >>> agent = Agent(graph="research", node="researcher")
        >>> @agent
        ... async def research(state: dict, runtime: Runtime) -> dict: ...
        >>> agent.serve()
    """

    def __init__(
        self,
        *,
        graph: str,
        node: str,
        release: str | None = None,
        max_in_flight: int | None = None,
        capabilities: Sequence[str] = (),
    ) -> None:
        self.graph = graph
        self.node = node
        self._release = release
        self._max_in_flight = max_in_flight
        self._capabilities = tuple(capabilities)
        self._body: Callable[..., Any] | None = None

    def __call__(self, body: Body) -> Body:
        """Use a plain LangGraph node function as the node's body."""
        self._body = body
        return body

    def serve(self, body: Callable[..., Any] | None = None) -> None:
        """Serve until SIGTERM; without a body, the graph's own function runs."""
        if body is not None:
            self._body = body
        run_service(self.node, self.main)

    async def main(self, service: Service) -> None:
        """Serve until ``service.stop`` is set; for callers that have an event loop already."""
        async with hosting(service, [self.placed()]):
            await service.stop.wait()

    def placed(self) -> NodePlace:
        """This agent as a host takes it."""
        return NodePlace(
            graph=self.graph,
            node=self.node,
            body=self._body,
            release=self._release,
            max_in_flight=self._max_in_flight,
            capabilities=self._capabilities,
        )
