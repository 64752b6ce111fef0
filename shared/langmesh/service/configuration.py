"""The hot configuration of a process: policies from etcd and from a file, always current."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from langmesh.errors import MeshError
from langmesh.registry import keys, policies
from langmesh.registry.etcd import Etcd
from langmesh.registry.policies import GraphPolicy, NodePolicy, Policy
from langmesh.registry.view import View
from langmesh.service.policyfile import FileGraph, PolicyFile
from langmesh.settings import Settings

log = logging.getLogger(__name__)

_READY_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Effective:
    """A node's policy of all layers at one moment."""

    policy: NodePolicy
    revision: int
    """The store's revision that wrote the newest document; 0 without one."""
    file: str
    """Digest of what the file says; empty if it says nothing."""


class Configuration:
    """What is configured now; made by :func:`following`."""

    def __init__(self, view: View[Policy | None], file: PolicyFile | None) -> None:
        self._view = view
        self._file = file
        self._callbacks: list[Callable[[], None]] = []

    def node(self, graph: str, node: str) -> Effective:
        """The policy of a node's agents."""
        own_key, graph_key = _node_key(graph, node), _graph_key(graph)
        own = self._view.items.get(own_key)
        shared = self._view.items.get(graph_key)
        file = self._of_file(graph)
        file_node = file.nodes.get(node) if file is not None else None
        written = max(self._view.written(own_key), self._view.written(graph_key))
        digest = ""
        if file is not None:
            digest = hashlib.sha256(msgspec.json.encode((file, file_node))).hexdigest()[:12]
        return Effective(policies.layered(own, shared, file_node, file), written, digest)

    def sample_ratio(self, graph: str) -> float | None:
        """Share of a graph's runs to trace; None if it is not configured."""
        stored = self._view.items.get(_graph_key(graph))
        for policy in (stored, self._of_file(graph)):
            if isinstance(policy, GraphPolicy) and policy.sample_ratio is not None:
                return policy.sample_ratio
        return None

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` now and after every change."""
        self._callbacks.append(callback)
        callback()

    def changed(self) -> None:
        """Tell everyone who subscribed."""
        for callback in self._callbacks:
            callback()

    def _of_file(self, graph: str) -> FileGraph | None:
        return self._file.policies.graphs.get(graph) if self._file is not None else None


@contextlib.asynccontextmanager
async def following(etcd: Etcd, settings: Settings) -> AsyncIterator[Configuration]:
    """Follow a tenant's configuration while the block runs.

    Without etcd it begins with what the file says.

    Raises:
        MeshError: INVALID_SETTING for a file that cannot be read.
    """
    path = settings.config_file
    file = await asyncio.to_thread(PolicyFile, path) if path else None
    async with View(etcd, keys.config(settings.tenant), _decode) as view:
        try:
            await view.wait_ready(_READY_S)
        except MeshError as exc:
            log.warning("going on without configuration from etcd: %s", exc.message)
        configuration = Configuration(view, file)
        forget = view.subscribe(configuration.changed)
        followers = []
        if file is not None:
            followers.append(asyncio.create_task(file.follow(configuration.changed), name="file"))
        try:
            yield configuration
        finally:
            forget()
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)


def _node_key(graph: str, node: str) -> str:
    return keys.agent_config("t", graph, node).removeprefix(keys.config("t"))


def _graph_key(graph: str) -> str:
    return keys.graph_config("t", graph).removeprefix(keys.config("t"))


def _decode(key: str, document: bytes) -> Policy | None:
    if key.startswith("agents/"):
        return policies.decode(NodePolicy, document)
    return policies.decode(GraphPolicy, document) if key.startswith("graphs/") else None
