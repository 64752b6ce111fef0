"""What the registry keeps of a graph that is published again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs import directory
from langmesh.graphs.difference import Difference, difference
from langmesh.graphs.topology import Branch, Join, NodeSpec, Topology
from langmesh.registry.records import Binding
from langmesh.testing import LocalMesh, local_mesh

OF = {"tenant": "default", "graph": "g"}
FIRST = Topology(
    tenant="default",
    graph="g",
    source="m:g",
    entry=["a"],
    nodes={"a": NodeSpec(successors=["b"]), "b": NodeSpec(successors=["__end__"])},
    input_schema={"properties": {"x": {"type": "integer"}}, "required": ["x"]},
).pinned()


def changed(topology: Topology = FIRST, **fields: object) -> Topology:
    return msgspec.structs.replace(topology, **fields).pinned()


@pytest.fixture
async def mesh() -> AsyncIterator[LocalMesh]:
    async with local_mesh() as mesh:
        yield mesh


async def test_revisions_are_kept_newest_first(mesh: LocalMesh):
    second = changed(nodes={"a": NodeSpec(successors=["c"]), "c": NodeSpec()})
    assert await directory.publish(mesh.etcd, FIRST, release="v1")
    assert await directory.publish(mesh.etcd, second, release="v1")
    assert not await directory.publish(mesh.etcd, second, release="v1")
    found = await directory.revisions(mesh.etcd, **OF)
    assert [(each.topology, each.current) for each in found] == [(second, True), (FIRST, False)]
    for each in found:
        assert each.published is not None
        assert "@" in each.published.published_by
    assert await directory.publish(mesh.etcd, FIRST, release="v1")
    found = await directory.revisions(mesh.etcd, **OF)
    assert [(each.topology, each.current) for each in found] == [(FIRST, True), (second, False)]


async def test_nodes_that_are_gone_stay_bound_for_runs_under_way(mesh: LocalMesh):
    await directory.publish(mesh.etcd, FIRST, release="v1")
    moved = Binding(subject="mesh.v1.exec.default.g.b.v7", release="v7")
    await directory.rebind(mesh.etcd, **OF, node="b", binding=moved)
    await directory.publish(mesh.etcd, changed(nodes={"a": NodeSpec()}), release="v2")
    topology, bindings = await directory.fetch(mesh.etcd, **OF)
    assert list(topology.nodes) == ["a"]
    assert bindings.nodes["a"].release == "v1"
    assert bindings.nodes["b"] == moved


async def test_the_oldest_revisions_are_dropped(mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(directory, "REVISIONS_MAX", 3)
    published = [changed(source=f"m{number}:g") for number in range(5)]
    for topology in published:
        await directory.publish(mesh.etcd, topology, release="v1")
    found = [each.topology for each in await directory.revisions(mesh.etcd, **OF)]
    assert found == published[:1:-1]
    with pytest.raises(MeshError) as refused:
        await directory.route(mesh.etcd, **OF, revision=published[0].revision)
    assert refused.value.code is ErrorCode.GRAPH_CHANGED


def test_what_differs_is_named():
    after = changed(
        nodes={
            "a": NodeSpec(branches=[Branch(name="pick", ends=["c", "__end__"])], timeout_s=9),
            "c": NodeSpec(),
        },
        joins=[Join(sources=["a"], target="c")],
        input_schema={"properties": {"x": {"type": "integer"}, "y": {"type": "string"}}},
        interrupt_before=["c"],
    )
    assert difference(FIRST, FIRST) == []
    assert difference(FIRST, after) == [
        Difference(kind="changed", what="node a", before="b", after="c (join) · [pick] → c | end"),
        Difference(kind="removed", what="node b", before="end"),
        Difference(kind="added", what="node c", after="end"),
        Difference(kind="added", what="node a: timeout_s", after="9"),
        Difference(kind="added", what="interrupt before", after="c"),
        Difference(
            kind="changed",
            what="input schema: x",
            before='{"type":"integer"} (required)',
            after='{"type":"integer"}',
        ),
        Difference(kind="added", what="input schema: y", after='{"type":"string"}'),
    ]
