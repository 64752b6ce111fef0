"""The revisions of a graph that an agent can serve: each task is run with its run's own.

Where a node leads is decided at its agent, by the branches and channel writers that its revision
has. So a task of another revision than the one imported at the start is run by that code only if
the node leads to the same places in both, and otherwise by the revision's own, imported anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from langmesh.bus.blobs import Blobs
from langmesh.graphs import directory
from langmesh.graphs.loading import LoadedGraph
from langmesh.graphs.local import NodeRunner
from langmesh.graphs.reimport import load_revision
from langmesh.graphs.stores import Stores
from langmesh.registry.etcd import Etcd
from langmesh.registry.policies import NodePolicy
from langmesh.wire.messages import TaskContext

log = logging.getLogger(__name__)


class NodeRevisions:
    """Runners of one node, by the graph's revision.

    Args:
        etcd: Where route tables are looked up.
        loaded: The graph as the process has imported it.
        node: The node.
        blobs: Where large values are.
        body: Replaces the node's function, in every revision.
        stores: Gives the node its ``runtime.store``.
    """

    def __init__(
        self,
        etcd: Etcd,
        loaded: LoadedGraph,
        node: str,
        blobs: Blobs,
        *,
        body: Callable[..., Any] | None = None,
        stores: Stores | None = None,
    ) -> None:
        self._etcd = etcd
        self._node = node
        self.blobs = blobs
        """Where large values are."""
        self._body = body
        self._stores = stores
        self._policy = NodePolicy()
        self.own = NodeRunner(loaded, node, blobs, body=body, stores=stores)
        """What the process has imported."""
        self._runners = {loaded.topology.revision: self.own}
        self._loading = asyncio.Lock()

    def configure(self, policy: NodePolicy) -> None:
        """Let a policy count from the next attempt on, in every revision."""
        self._policy = policy
        for runner in self._runners.values():
            runner.configure(policy)

    def known(self, revision: str) -> NodeRunner | None:
        """The runner for a revision that was asked for before."""
        return self._runners.get(revision)

    async def find(self, context: TaskContext) -> NodeRunner:
        """The runner for a task's revision.

        Raises:
            MeshError: GRAPH_CHANGED if the code here does not have that revision;
                REGISTRY_UNAVAILABLE.
        """
        async with self._loading:
            if (runner := self._runners.get(context.revision)) is None:
                runner = await self._made(context)
                runner.configure(self._policy)
                self._runners[context.revision] = runner
            return runner

    async def _made(self, context: TaskContext) -> NodeRunner:
        where = {"tenant": context.tenant, "graph": context.graph}
        wanted = await directory.route(self._etcd, **where, revision=context.revision)
        for runner in self._runners.values():
            if runner.loaded.topology.around(self._node) == wanted.around(self._node):
                log.info("tasks of revision %s are served as before", context.revision)
                return runner
        loaded = await asyncio.to_thread(
            load_revision,
            wanted.source,
            tenant=context.tenant,
            name=context.graph,
            revision=context.revision,
        )
        log.info("imported revision %s of graph %s", context.revision, context.graph)
        return NodeRunner(loaded, self._node, self.blobs, body=self._body, stores=self._stores)
