"""The registry's keys, built in one place.

Every name becomes a token first (:mod:`langmesh.wire.names`), so no name can hold a slash and leave
its prefix. What is called in the plural is a prefix, ends with ``/``, and takes names from the left
as far as wanted.
"""

from __future__ import annotations

from typing import Final

from langmesh.errors import ErrorCode, MeshError
from langmesh.wire.names import PARTITIONS, from_token, to_token

PREFIX: Final = "/langmesh/v1/"


def agent(tenant: str, graph: str, node: str, instance: str) -> str:
    """Registration of one instance of a node's agent; a ``ServiceRecord`` under a lease."""
    return agents(tenant, graph, node) + to_token(instance, field="instance")


def agents(tenant: str | None = None, graph: str | None = None, node: str | None = None) -> str:
    """All agents, or those of a tenant, of a graph or of a node."""
    return _prefix("agents", tenant=tenant, graph=graph, node=node)


def coordinator(tenant: str, instance: str) -> str:
    """Registration of one coordinator; a ``ServiceRecord`` under a lease."""
    return coordinators(tenant) + to_token(instance, field="instance")


def coordinators(tenant: str | None = None) -> str:
    """All coordinators, or those of a tenant."""
    return _prefix("coordinators", tenant=tenant)


def load(tenant: str, graph: str, node: str, instance: str) -> str:
    """How busy one instance of a node's agent is; a ``Load`` under its registration's lease."""
    return loads(tenant, graph, node) + to_token(instance, field="instance")


def coordinator_load(tenant: str, instance: str) -> str:
    """How busy one coordinator is; a ``Load`` under its registration's lease."""
    return loads(tenant) + to_token(instance, field="instance")


def loads(tenant: str | None = None, graph: str | None = None, node: str | None = None) -> str:
    """The load of all services, of a tenant's, or of the agents of a graph or of a node.

    Apart from the registrations, so that who follows those is not woken by every report.
    """
    return _prefix("load", tenant=tenant, graph=graph, node=node)


def graphs(tenant: str | None = None, graph: str | None = None) -> str:
    """All that is published of all graphs, of a tenant's, or of one graph."""
    return _prefix("graphs", tenant=tenant, graph=graph)


def route(tenant: str, graph: str, revision: str) -> str:
    """The route table of one revision of a graph's topology."""
    return routes(tenant, graph) + to_token(revision, field="revision")


def routes(tenant: str, graph: str) -> str:
    """All route tables of a graph."""
    return graphs(tenant, graph) + "routes/"


def publication(tenant: str, graph: str, revision: str) -> str:
    """When a revision of a graph was published; a ``Publication``."""
    return publications(tenant, graph) + to_token(revision, field="revision")


def publications(tenant: str, graph: str) -> str:
    """When the revisions of a graph were published."""
    return graphs(tenant, graph) + "publications/"


def bindings(tenant: str, graph: str) -> str:
    """Where the graph's nodes are served now; a ``Bindings``."""
    return graphs(tenant, graph) + "bindings"


def releases(tenant: str, graph: str) -> str:
    """Weights, pins and shadows of the releases of a graph's nodes."""
    return graphs(tenant, graph) + "releases"


def agent_config(tenant: str, graph: str, node: str) -> str:
    """Hot configuration of a node's agents; a ``NodePolicy``."""
    scope = "/".join((to_token(graph, field="graph"), to_token(node, field="node")))
    return config(tenant) + "agents/" + scope


def graph_config(tenant: str, graph: str) -> str:
    """Hot configuration of a graph; a ``GraphPolicy``."""
    return config(tenant) + "graphs/" + to_token(graph, field="graph")


def config(tenant: str | None = None) -> str:
    """All hot configuration, or a tenant's."""
    return _prefix("config", tenant=tenant)


def config_history(key: str) -> str:
    """What a key of the hot configuration held before; a ``Change`` per key, oldest first."""
    return PREFIX + "config-history/" + key.removeprefix(config()) + "/"


def flag(tenant: str, name: str) -> str:
    """One feature flag."""
    return flags(tenant) + to_token(name, field="flag")


def flags(tenant: str | None = None) -> str:
    """All feature flags, or a tenant's."""
    return _prefix("flags", tenant=tenant)


def partition(number: int) -> str:
    """Ownership of one partition of threads, under the owner's lease.

    Raises:
        MeshError: INVALID_FIELD unless the number is 0 to 255.
    """
    if not 0 <= number < PARTITIONS:
        raise MeshError(
            ErrorCode.INVALID_FIELD, f"partition: expected 0 to {PARTITIONS - 1}, got {number}"
        )
    return f"{partitions()}{number}"


def partitions() -> str:
    """Ownership of all partitions."""
    return _prefix("partitions")


def tidied(policy: str) -> str:
    """Up to which sequence of LOG a policy of retention has looked."""
    return _prefix("tidied") + to_token(policy, field="policy")


def secret(key_id: str) -> str:
    """One secret of the coordinators."""
    return secrets() + to_token(key_id, field="key_id")


def secrets() -> str:
    """All secrets of the coordinators; agents may not read them."""
    return _prefix("keys")


def names(relative: str) -> tuple[str, ...]:
    """The names in a key, or in a part of one such as a view's relative key.

    Raises:
        MeshError: INVALID_NAME if a part between slashes is not a token.
    """
    return tuple(from_token(part) for part in relative.split("/"))


def _prefix(kind: str, **scope: str | None) -> str:
    """The prefix of a kind within a scope, which takes names from the left."""
    parts: list[str] = []
    omitted = ""
    for field, name in scope.items():
        if name is None:
            omitted = omitted or field
        elif omitted:
            raise MeshError(ErrorCode.INVALID_FIELD, f"{field}: cannot be given without {omitted}")
        else:
            parts.append(to_token(name, field=field))
    return PREFIX + "/".join((kind, *parts)) + "/"
