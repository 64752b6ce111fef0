"""The mesh as a table for people: services under their nodes, nodes under their graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from langmesh.cli.terminal import styled
from langmesh.stack.overview import NodeView, Overview, ServiceView

_HEAD: Final = (
    *("SERVICE", "STATE", "RELEASE", "TASKS", "CPU", "MEMORY", "PER S", "WAIT", "AGE"),
    "BACKLOG",
)
_LEFT: Final = 3
"""So many columns are text; the others are numbers and stand to the right."""
_NAME_MIN: Final = 16
_NOTES_MAX: Final = 4
_STATES: Final = {"ready": "green", "silent": "red", "draining": "yellow", "starting": "yellow"}
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the table; ``style`` is the name's, ``state`` the state's."""

    cells: tuple[str, ...]
    style: str = ""
    state: str = ""
    detail: bool = False
    """Whether it may be left out where there is not enough room."""


def board(mesh: Overview, *, now: str, width: int = 100, height: int | None = None) -> list[str]:
    """The mesh as lines, with colours where standard output is a terminal.

    Args:
        mesh: What to show.
        now: RFC 3339, for ages.
        width: Columns that a line may have; what is longer is cut.
        height: Lines that there may be; single services are left out first.
    """
    rows = list(_rows(mesh, now))
    notes = [styled(_cut(note, width), "red") for note in _notes(mesh)]
    room = None if height is None else max(height - 2 - len(notes), 1)
    hidden = 0
    if room is not None and len(rows) > room:
        rows = [row for row in rows if not row.detail]
        if len(rows) > room:
            hidden = len(rows) - room + 1
            rows = rows[: room - 1]
    lines = [_summary(mesh), *_table(rows, width)]
    if hidden:
        lines.append(styled(f"… {hidden} more lines", "dim"))
    return [*lines, *notes]


def _summary(mesh: Overview) -> str:
    nodes, unserved = len(mesh.nodes), sum(not node.served for node in mesh.nodes)
    silent = sum(service.health == "silent" for service in mesh.services)
    parts = [_count(len(mesh.services), "service"), _count(nodes, "node")]
    problems = []
    if unserved:
        problems.append(f"{unserved} not served")
    if silent:
        problems.append(f"{silent} silent")
    if not mesh.services:
        return styled("no service is registered", "yellow")
    verdict = styled(", ".join(problems), "red") if problems else styled("all served", "green")
    return f"{', '.join(parts)}: {verdict}" if nodes else ", ".join(parts)


def _notes(mesh: Overview) -> list[str]:
    unserved = [
        f"nobody serves {_graph(node.tenant, node.graph)}/{node.node}, release {node.release}"
        for node in mesh.nodes
        if not node.served
    ]
    if len(unserved) <= _NOTES_MAX:
        return unserved
    more = len(unserved) - _NOTES_MAX + 1
    return [*unserved[: _NOTES_MAX - 1], f"nobody serves {more} more nodes"]


def _rows(mesh: Overview, now: str) -> Iterator[_Row]:
    coordinators = [service for service in mesh.services if not service.node]
    if coordinators:
        yield _title("coordinators")
    for service in coordinators:
        yield _of_service(service, now, "  ")
    graphs = {(node.tenant, node.graph) for node in mesh.nodes}
    graphs |= {(each.tenant, each.graph) for each in mesh.services if each.node}
    for graph in sorted(graphs):
        yield _title(_graph(*graph))
        nodes = {node.node: node for node in mesh.nodes if (node.tenant, node.graph) == graph}
        agents: dict[str, list[ServiceView]] = {}
        for service in mesh.services:
            if service.node and (service.tenant, service.graph) == graph:
                agents.setdefault(service.node, []).append(service)
        for name in [*nodes, *sorted(agents.keys() - nodes.keys())]:
            node = nodes.get(name)
            yield _title(f"  {name}") if node is None else _of_node(node)
            for service in agents.get(name, []):
                yield _of_service(service, now, "    ", detail=True)


def _title(text: str) -> _Row:
    return _Row((text, *[""] * (len(_HEAD) - 1)), style="bold")


def _of_node(node: NodeView) -> _Row:
    backlog = "?" if node.backlog is None else str(node.backlog)
    if not node.replicas:
        empty = [_NOTHING] * 6
        return _Row(
            (f"  {node.node}", "NOT SERVED", node.release, *empty, backlog), "bold", state="red"
        )
    of = "" if node.ready == node.replicas else f"/{node.replicas}"
    state = "green" if node.ready == node.replicas else "yellow" if node.ready else "red"
    return _Row(
        (
            f"  {node.node}",
            f"{node.ready}{of} ready",
            node.release,
            f"{node.in_flight}/{node.capacity}",
            _percent(node.cpu_usage),
            _bytes(node.memory_bytes),
            f"{node.request_rate:.1f}",
            _duration(node.queue_wait_ms),
            "",
            backlog,
        ),
        style="bold",
        state=state,
    )


def _of_service(service: ServiceView, now: str, indent: str, *, detail: bool = False) -> _Row:
    load = service.load
    numbers = (_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING)
    if load is not None:
        numbers = (
            f"{load.in_flight}/{service.capacity}",
            _percent(load.cpu_usage),
            _bytes(load.memory_bytes),
            f"{load.request_rate:.1f}",
            _duration(load.queue_wait_ms),
        )
    unbound = service.node and not service.bound
    return _Row(
        (
            indent + service.instance,
            service.health,
            service.release + (" unbound" if unbound else ""),
            *numbers,
            _age(service.started_at, now),
            "",
        ),
        style="dim" if detail else "",
        state=_STATES[service.health],
        detail=detail,
    )


def _table(rows: Sequence[_Row], width: int) -> Iterator[str]:
    everything = [_HEAD, *(row.cells for row in rows)]
    widths = [max(len(cells[i]) for cells in everything) for i in range(len(_HEAD))]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = max(min(widths[0], width - rest), _NAME_MIN)
    yield styled(_line(_HEAD, widths)[:width], "dim")
    for row in rows:
        yield _coloured(row, widths, width)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(_padded(cells, widths)).rstrip()


def _padded(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        _cut(cell, size).ljust(size) if i < _LEFT else cell.rjust(size)
        for i, (cell, size) in enumerate(zip(cells, widths, strict=True))
    ]


def _coloured(row: _Row, widths: Sequence[int], width: int) -> str:
    """The line, cut to its width before colours add what nobody sees."""
    text = _line(row.cells, widths)[:width]
    name, state = text[: widths[0]], text[widths[0] : widths[0] + 2 + widths[1]]
    rest = text[widths[0] + 2 + widths[1] :]
    if row.style:
        name = styled(name, row.style)
    if row.state and state.strip():
        state = styled(state, row.state)
    return name + state + rest


def _cut(text: str, size: int) -> str:
    """As much of a text as fits; names may hold what would steer the terminal."""
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= size else text[: size - 1] + "…"


def _graph(tenant: str, graph: str) -> str:
    return graph if tenant == "default" else f"{tenant}/{graph}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _bytes(number: int) -> str:
    if not number:
        return _NOTHING
    return f"{number / 1e6:.0f} MB" if number < 1e10 else f"{number / 1e9:.0f} GB"


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return _NOTHING
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.0f} s"


def _age(since: str, now: str) -> str:
    try:
        passed = datetime.fromisoformat(now) - datetime.fromisoformat(since)
    except (ValueError, TypeError):
        return _NOTHING  # what a process writes of itself may be anything
    seconds = max(passed.total_seconds(), 0)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
