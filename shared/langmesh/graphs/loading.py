"""Find the graph behind ``module:attribute`` and prepare it for the mesh."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.types import RetryPolicy

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import compat
from langmesh.graphs.inputs import InputCheck, json_schema
from langmesh.graphs.serde import Serde
from langmesh.graphs.sources import find, parse_source, reason
from langmesh.graphs.topology import Branch, Join, NodeSpec, Topology
from langmesh.wire.names import to_token


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph that is ready to run: compiled, described, with the serializer for its values."""

    topology: Topology
    compiled: CompiledStateGraph[Any, Any, Any, Any]
    serde: Serde
    inputs: InputCheck

    @property
    def managed(self) -> dict[str, Any]:
        """The graph's managed values."""
        return compat.managed_of(self.compiled)


def load(source: str, *, tenant: str, name: str | None = None) -> LoadedGraph:
    """Import a graph and describe it.

    Args:
        source: ``[name=]module:attribute`` of a ``StateGraph``, a compiled graph, or a function,
            sync or async, without parameters or with a config alone, that returns one. A path to a
            ``.py`` file may stand for the module.
        tenant: Tenant that the graph belongs to.
        name: Name of the graph in the mesh; by default the module's last part, or the attribute
            where the module is called ``graph``, ``app`` or ``main``.

    Raises:
        MeshError: GRAPH_IMPORT_FAILED or GRAPH_NOT_SUPPORTED.
    """
    named = parse_source(source)
    source = named.ref
    graph = _made(source)
    if isinstance(graph, StateGraph):
        try:
            graph = graph.compile()
        except ValueError as exc:
            raise MeshError(ErrorCode.GRAPH_IMPORT_FAILED, f"{source}: {exc}") from exc
    if not isinstance(graph, CompiledStateGraph):
        raise MeshError(
            ErrorCode.GRAPH_NOT_SUPPORTED,
            f"{source} is a {type(graph).__name__}, not a StateGraph",
            remedy="Name a StateGraph, a compiled StateGraph, or a function that returns one.",
        )
    builder = graph.builder
    schemas: list[type[Any]] = [
        *builder.schemas,
        *(node.input_schema for node in builder.nodes.values()),
        *([builder.context_schema] if builder.context_schema is not None else []),
    ]
    serde = Serde(compat.serde_allowlist(schemas, dict(builder.channels)))
    return LoadedGraph(
        topology=describe(graph, source=source, tenant=tenant, name=name or named.name),
        compiled=graph,
        serde=serde,
        inputs=InputCheck(builder),
    )


def _made(source: str) -> Any:
    """The graph that a source names; a function is called."""
    found = find(source)
    if not callable(found) or isinstance(found, StateGraph | CompiledStateGraph):
        return found
    try:
        made = found({"configurable": {}}) if _takes_config(found) else found()
        return _awaited(made) if inspect.iscoroutine(made) else made
    except (Exception, SystemExit) as exc:
        raise MeshError(
            ErrorCode.GRAPH_IMPORT_FAILED,
            f"{source}: calling {source.rpartition(':')[2]} failed: {reason(exc)}",
            remedy="Name a graph, or a function without parameters or with a config alone that"
            " returns one.",
        ) from exc


def _takes_config(factory: Callable[..., Any]) -> bool:
    """Whether a factory must be given a config, as LangGraph's own server gives it one."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(each.kind in positional and each.default is each.empty for each in parameters)


def _awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of an async factory; a loop may run in this thread already."""
    with ThreadPoolExecutor(1, thread_name_prefix="graph factory") as pool:
        return pool.submit(asyncio.run, coroutine).result()


def describe(
    graph: CompiledStateGraph[Any, Any, Any, Any], *, source: str, tenant: str, name: str
) -> Topology:
    """Describe a compiled graph.

    Raises:
        MeshError: INVALID_NAME for a name that cannot become a token.
    """
    builder = graph.builder
    for field, text in (("tenant", tenant), ("graph", name), *(("node", n) for n in builder.nodes)):
        to_token(text, field=field)
    joins = [Join(sources=sorted(starts), target=end) for starts, end in builder.waiting_edges]
    return Topology(
        tenant=tenant,
        graph=name,
        source=source,
        nodes={node: _node(graph, node) for node in builder.nodes},
        entry=sorted(end for start, end in builder.edges if start == "__start__"),
        entry_branches=_branches(builder, "__start__"),
        joins=sorted(joins, key=lambda join: (join.target, join.sources)),
        input_schema=json_schema(builder, builder.input_schema),
        output_schema=json_schema(builder, builder.output_schema),
        interrupt_before=_names(graph.interrupt_before_nodes, builder),
        interrupt_after=_names(graph.interrupt_after_nodes, builder),
    ).pinned()


def _names(nodes: Any, builder: StateGraph[Any, Any, Any, Any]) -> list[str]:
    return sorted(builder.nodes) if nodes == "*" else sorted(nodes)


def _branches(builder: StateGraph[Any, Any, Any, Any], node: str) -> list[Branch]:
    return [
        Branch(name=name, ends=sorted(set(map(str, (branch.ends or {}).values()))))
        for name, branch in sorted(builder.branches.get(node, {}).items())
    ]


def _node(graph: CompiledStateGraph[Any, Any, Any, Any], name: str) -> NodeSpec:
    builder = graph.builder
    spec = builder.nodes[name]
    # A policy is a named tuple: it would pass for a sequence of policies.
    given = spec.retry_policy or ()
    policies = (given,) if isinstance(given, RetryPolicy) else given
    timeout = spec.timeout.run_timeout if spec.timeout is not None else None
    return NodeSpec(
        successors=sorted(end for start, end in builder.edges if start == name),
        branches=_branches(builder, name),
        commands=sorted(spec.ends or ()),
        reads=_reads(graph, name),
        deferred=spec.defer,
        attempts_max=max((policy.max_attempts for policy in policies), default=1),
        timeout_s=_seconds(timeout),
    )


def _seconds(timeout: float | timedelta | None) -> float | None:
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout


def _reads(graph: CompiledStateGraph[Any, Any, Any, Any], node: str) -> list[str]:
    """The channels that a node's branches read, as ``attach_branch`` of LangGraph selects them."""
    builder = graph.builder
    channels: set[str] = set()
    for branch in builder.branches.get(node, {}).values():
        channels |= set(builder.schemas[branch.input_schema or builder.nodes[node].input_schema])
    return sorted(channels & set(builder.channels))
