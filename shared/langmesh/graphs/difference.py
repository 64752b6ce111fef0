"""What differs between two topologies of a graph, for people who publish and roll back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from langmesh.graphs.topology import NodeSpec, Topology, routes

Kind = Literal["added", "removed", "changed"]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not the same."""

    kind: Kind
    what: str
    """``node writer``, ``start``, ``source``, ``input schema: question``, …"""
    before: str = ""
    """Empty for what was added."""
    after: str = ""
    """Empty for what was removed."""


def difference(before: Topology, after: Topology) -> list[Difference]:
    """What makes the revisions of two topologies differ, in the order of reading a graph."""
    found = _compared("", {"source": before.source}, {"source": after.source})
    found += _compared("", _leads(before), _leads(after))
    for name in before.nodes.keys() & after.nodes.keys():
        old, new = _policies(before.nodes[name]), _policies(after.nodes[name])
        found += _compared(f"node {name}: ", old, new)
    found += _compared("", _interrupts(before), _interrupts(after))
    for which in ("input_schema", "output_schema"):
        schemas = getattr(before, which), getattr(after, which)
        found += _compared(which.replace("_", " ") + ": ", *map(_fields, schemas))
    return found


def _compared(prefix: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[Difference]:
    return [
        Difference(
            kind="changed" if name in before and name in after else _kind(name in after),
            what=prefix + name,
            before=before.get(name, ""),
            after=after.get(name, ""),
        )
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _kind(is_there: bool) -> Kind:
    return "added" if is_there else "removed"


def _leads(topology: Topology) -> dict[str, str]:
    """Where each node leads, by ``start`` or ``node NAME``."""
    (start, leads), *nodes = routes(topology)
    return {start: leads} | {f"node {name}": leads for name, leads in nodes}


def _policies(node: NodeSpec) -> dict[str, str]:
    """What of a node decides how its tasks run, where it is not the default."""
    fields = msgspec.to_builtins(node)
    usual = msgspec.to_builtins(NodeSpec())
    names = ("reads", "deferred", "attempts_max", "timeout_s")
    return {name: _text(fields[name]) for name in names if fields[name] != usual[name]}


def _interrupts(topology: Topology) -> dict[str, str]:
    found = {
        "interrupt before": topology.interrupt_before,
        "interrupt after": topology.interrupt_after,
    }
    return {name: ", ".join(nodes) for name, nodes in found.items() if nodes}


def _fields(schema: Mapping[str, Any]) -> dict[str, str]:
    properties = schema.get("properties", {})
    required = set(schema.get("required", ()))
    return {
        name: _text(shape) + (" (required)" if name in required else "")
        for name, shape in properties.items()
    }


def _text(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
