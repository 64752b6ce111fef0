"""A graph's topology without LangGraph: what is pinned for a run, stored in etcd and printed.

The revision is a hash of everything that decides what a run does next, so that two processes that
imported different code notice it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from langmesh.wire import subjects


class Branch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conditional edge: its function's name and where it may lead; no ends means anywhere."""

    name: str
    ends: list[str] = []


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One node and what follows from it."""

    successors: list[str] = []
    branches: list[Branch] = []
    commands: list[str] = []
    """Nodes that the node's ``Command(goto=…)`` is declared to reach."""
    reads: list[str] = []
    """State channels that its branches read; they travel with each task."""
    deferred: bool = False
    attempts_max: int = 1
    timeout_s: float | None = None


class Join(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node that waits for several others."""

    sources: list[str]
    target: str


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One revision of one graph."""

    tenant: str
    graph: str
    source: str
    """``module:attribute``."""
    revision: str = ""
    nodes: dict[str, NodeSpec]
    entry: list[str] = []
    entry_branches: list[Branch] = []
    joins: list[Join] = []
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    interrupt_before: list[str] = []
    interrupt_after: list[str] = []

    def pinned(self) -> Topology:
        """The same topology with its revision filled in."""
        body = msgspec.json.encode(msgspec.structs.replace(self, revision=""), order="sorted")
        return msgspec.structs.replace(self, revision=hashlib.sha256(body).hexdigest()[:12])

    def around(self, node: str) -> tuple[NodeSpec | None, list[Join]]:
        """What decides where a node leads; equal in revisions that treat the node alike."""
        return self.nodes.get(node), [join for join in self.joins if node in join.sources]

    def subject(self, node: str, release: str) -> str:
        """Where the tasks of a release of a node go by default."""
        return subjects.execution(self.tenant, self.graph, node, release)


def mermaid(topology: Topology) -> str:
    """Draw the topology as a Mermaid flow chart."""
    names = {name: f"n{i}" for i, name in enumerate(topology.nodes)}
    ids = names | {"__start__": "START", "__end__": "END"}
    lines = ["flowchart TD", "    START([start])", "    END([end])"]
    lines += [f'    {ids[name]}["{_escape(name)}"]' for name in topology.nodes]
    lines += [f"    START --> {ids[end]}" for end in topology.entry if end in ids]
    lines += _branch_lines("START", topology.entry_branches, ids)
    for name, node in topology.nodes.items():
        lines += [f"    {ids[name]} --> {ids[end]}" for end in node.successors if end in ids]
        lines += _branch_lines(ids[name], node.branches, ids)
        lines += [f"    {ids[name]} -. command .-> {ids[e]}" for e in node.commands if e in ids]
    for join in topology.joins:
        lines += [f"    {ids[s]} -- join --> {ids[join.target]}" for s in join.sources if s in ids]
    return "\n".join(lines)


def _branch_lines(start: str, branches: list[Branch], ids: dict[str, str]) -> list[str]:
    return [
        f"    {start} -. {_escape(branch.name)} .-> {ids[end]}"
        for branch in branches
        for end in branch.ends or list(ids)[:-2]
        if end in ids
    ]


def _escape(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_- " else f"#{ord(c)};" for c in text)


def routes(topology: Topology) -> list[tuple[str, str]]:
    """Where each node leads, as text: ``(node, "writer · [route] → planner | end")``."""
    table = [("start", _leads(topology.entry, topology.entry_branches, []))]
    for name, node in topology.nodes.items():
        joined = [f"{join.target} (join)" for join in topology.joins if name in join.sources]
        table.append((name, _leads([*node.successors, *joined], node.branches, node.commands)))
    return table


def _leads(successors: list[str], branches: list[Branch], commands: list[str]) -> str:
    parts = [_end(name) for name in successors]
    parts += [f"[{b.name}] → {' | '.join(map(_end, b.ends)) or 'any node'}" for b in branches]
    if commands:
        parts.append(f"command → {' | '.join(map(_end, commands))}")
    return " · ".join(parts) or "end"


def _end(name: str) -> str:
    return "end" if name == "__end__" else name
