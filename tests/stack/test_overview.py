"""How a mesh stands, put together from what the registry and the broker hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from langmesh.cli.board import board
from langmesh.registry.loads import Load
from langmesh.registry.records import Binding, Bindings, ServiceRecord
from langmesh.stack.overview import Overview, overview
from langmesh.wire.names import to_token

NOW = "2026-01-01T00:01:00.000000Z"
FRESH = "2026-01-01T00:00:58.000000Z"
OLD = "2026-01-01T00:00:44.000000Z"


def record(instance: str, node: str = "", **fields: Any) -> ServiceRecord:
    given = {
        "service": node or "coordinator",
        "instance": instance,
        "pid": 7,
        "host": "h",
        "state": "ready",
        "event_loop": "uvloop",
        "release": "v1",
        "capacity": 16,
        "started_at": "2026-01-01T00:00:00.000000Z",
        "graph": "g" if node else "",
        "node": node,
    }
    return ServiceRecord(**(given | fields))


def load(instance: str, **fields: Any) -> Load:
    return Load(**({"agent_id": instance, "timestamp": FRESH, "interval_s": 5.0} | fields))


def seen(
    agents: list[ServiceRecord],
    reports: list[Load] = [],  # noqa: B006  nobody writes to it
    nodes: tuple[str, ...] = ("a", "b"),
    backlogs: dict[str, int] | None = None,
) -> Overview:
    by_instance = {each.agent_id: each for each in reports}
    keyed = {f"t/{each.graph}/{each.node}/{each.instance}": each for each in agents}
    table = {node: Binding(subject=f"s.{node}", release="v1") for node in nodes}
    return overview(
        coordinators={"t/c-1": record("c-1")},
        agents=keyed,
        loads={
            key: by_instance[each.instance]
            for key, each in keyed.items()
            if each.instance in by_instance
        },
        bindings={"t/g/bindings": Bindings(revision="r", nodes=table)},
        backlogs=backlogs or {},
        now=NOW,
    )


def test_a_node_sums_up_the_agents_of_its_release():
    mesh = seen(
        [record("a-1", "a"), record("a-2", "a", state="draining"), record("a-3", "a", release="x")],
        [
            load("a-1", in_flight=3, request_rate=3.0, queue_wait_ms=10.0, memory_bytes=5),
            load("a-2", in_flight=1, request_rate=1.0, queue_wait_ms=50.0, cpu_usage=0.25),
            load("a-3", in_flight=9, failures=1),
        ],
        backlogs={"s.a": 4},
    )
    a, b = mesh.nodes
    assert (a.replicas, a.ready, a.served, a.capacity, a.in_flight) == (2, 1, True, 32, 4)
    assert (a.request_rate, a.queue_wait_ms, a.cpu_usage, a.memory_bytes) == (4.0, 20.0, 0.25, 5)
    assert (a.backlog, a.failures, a.release, a.subject) == (4, 0, "v1", "s.a")
    assert (b.replicas, b.served, b.backlog, b.queue_wait_ms) == (0, False, None, None)
    bound = {each.instance: each.bound for each in mesh.services}
    assert bound == {"a-1": True, "a-2": True, "a-3": False, "c-1": False}


@pytest.mark.parametrize(
    ("state", "timestamp", "health"),
    [
        ("ready", FRESH, "ready"),
        ("ready", OLD, "silent"),
        ("draining", OLD, "draining"),
        ("starting", FRESH, "starting"),
        ("ready", "yesterday", "silent"),
        ("ready", "2026-01-01T00:00:58", "silent"),
        ("ready", None, "ready"),
    ],
)
def test_who_should_have_reported_is_silent(state: str, timestamp: str | None, health: str):
    reports = [load("a-1", timestamp=timestamp)] if timestamp else []
    mesh = seen([record("a-1", "a", state=state)], reports)
    [service] = [each for each in mesh.services if each.node]
    assert (service.state, service.health) == (state, health)
    assert mesh.nodes[0].ready == (health == "ready")
    assert mesh.nodes[0].served == (state == "ready")


def test_who_registered_by_request_is_told():
    mesh = seen([record("a-1", "a", ttl_s=15), record("b-1", "b")])
    by = {each.instance: each.registered_by for each in mesh.services}
    assert by == {"a-1": "agent.register", "b-1": "itself", "c-1": "itself"}


def test_the_board_groups_services_and_marks_what_nobody_serves():
    lines = board(
        seen(
            [record("a-1", "a"), record("a-2", "a"), record("z-1", "z")],
            [load("a-1", in_flight=2, request_rate=1.5, queue_wait_ms=3.2, memory_bytes=10**8)],
            backlogs={"s.a": 7},
        ),
        now=NOW,
    )
    assert lines[0] == "4 services, 2 nodes: 1 not served"
    assert [line.split()[0] for line in lines[2:-1]] == [
        *("coordinators", "c-1", "t/g", "a", "a-1", "a-2", "b", "z", "z-1")
    ]
    row = next(line for line in lines if line.startswith("  a "))
    assert re.sub(" +", " ", row) == " a 2 ready v1 2/32 0% 100 MB 1.5 3 ms 7"
    assert re.search(
        r"^ {4}a-1 +ready +v1 +2/16 +0% +100 MB +1.5 +3 ms +60 s$", "\n".join(lines), re.MULTILINE
    )
    assert "NOT SERVED" in next(line for line in lines if line.startswith("  b "))
    assert lines[-1] == "nobody serves t/g/b, release v1"


def test_the_board_fits_where_it_is_drawn():
    long = [record(f"a-{'x' * 50}{n}", "a") for n in range(40)]
    nodes = tuple(f"n{n}" for n in range(5))
    for width, height in ((100, 27), (60, 12)):
        lines = board(
            seen([*long, record("n0", "n0")], nodes=("a", *nodes)),
            now=NOW,
            width=width,
            height=height,
        )
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
    everything = board(seen(long), now=NOW, width=100)
    assert len(everything) > 40
    small = board(seen(long, nodes=("a",)), now=NOW, width=100, height=10)
    assert any(line.startswith("  a ") for line in small), "single services go first"


def test_names_do_not_steer_the_terminal():
    name = "a-\x1b[2J\n1"
    token = to_token(name, field="instance")
    agents = {f"t/g/a/{token}": record(name, "a")}
    mesh = overview(coordinators={}, agents=agents, loads={}, bindings={}, backlogs={}, now=NOW)
    text = "".join(board(mesh, now=NOW))
    assert "a-?[2J?1" in text
    assert text.isprintable()


def test_a_mesh_without_services_says_so():
    empty = overview(coordinators={}, agents={}, loads={}, bindings={}, backlogs={}, now=NOW)
    assert board(empty, now=NOW)[0] == "no service is registered"
