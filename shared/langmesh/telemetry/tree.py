"""Traces as people read them: spans to a tree, a tree to text, and what is wrong with a trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from langmesh.telemetry.store import StoredSpan

BAR_COLUMNS: Final = 24
_BAR_COLUMNS_MIN: Final = 8
_LINKS_COLUMNS: Final = 12
_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class Branch:
    """A span with what it caused, by start time."""

    span: StoredSpan
    children: list[Branch] = field(default_factory=list)
    orphan: bool = False
    """Its parent is not among the spans: not received yet, or lost."""


def build(spans: Sequence[StoredSpan]) -> list[Branch]:
    """Arrange spans as trees; true roots come before orphans, then by start time.

    Every span appears exactly once, also when parents form a circle.
    """
    branches = {(s.trace_id, s.span_id): Branch(s) for s in sorted(spans, key=_start)}
    roots: list[Branch] = []
    for branch in branches.values():
        parent = branches.get((branch.span.trace_id, branch.span.parent_id))
        if parent is not None:
            parent.children.append(branch)
        else:
            branch.orphan = bool(branch.span.parent_id)
            roots.append(branch)
    reached = {id(branch) for root in roots for branch, _ in _walk(root)}
    for branch in branches.values():
        if id(branch) in reached:
            continue
        # A circle of parents: cut it at its earliest span.
        parent = branches[branch.span.trace_id, branch.span.parent_id]
        parent.children.remove(branch)
        branch.orphan = True
        roots.append(branch)
        reached.update(id(found) for found, _ in _walk(branch))
    return sorted(roots, key=lambda root: (root.orphan, *_start(root.span)))


def render(spans: Sequence[StoredSpan], *, width: int | None = None) -> list[str]:
    """Draw spans as lines: tree, service, duration in ms, when it ran, errors and links.

    Args:
        spans: Of one trace or more.
        width: Columns that a line without an error should not exceed; bars shrink for that.
    """
    if not spans:
        return []
    roots = build(spans)
    begin = min(span.start_ns for span in spans)
    total = max(max(span.end_ns for span in spans) - begin, 1)
    rows = [row for root in roots for row in _walk(root)]
    name_columns = max(len(prefix) + len(branch.span.name) for branch, prefix in rows)
    service_columns = max(len(branch.span.service) for branch, _ in rows)
    services = {branch.span.service for branch, _ in rows}
    traces = list(dict.fromkeys(branch.span.trace_id for branch, _ in rows))
    # Three gaps of two columns, the duration with its unit, and the bar's ends.
    taken = name_columns + service_columns + 20
    taken += _LINKS_COLUMNS if any(branch.span.links for branch, _ in rows) else 0
    room = BAR_COLUMNS if width is None else width - taken
    bar_columns = min(max(room, _BAR_COLUMNS_MIN), BAR_COLUMNS)
    totals = (_count(len(rows), "span"), _count(len(services), "service"))
    lines = [f"trace {', '.join(traces)} · {' · '.join(totals)} · {total / _NS_PER_MS:.1f} ms"]
    for branch, prefix in rows:
        span = branch.span
        duration_ms = (span.end_ns - span.start_ns) / _NS_PER_MS
        line = (
            f"{prefix}{span.name}".ljust(name_columns)
            + f"  {span.service:<{service_columns}}  {duration_ms:>9.1f} ms"
            + f"  |{_bar(span, begin, total, bar_columns)}|"
            + "".join(f"  {note}" for note in _notes(branch))
        )
        lines.append(line)
    return lines


def check(spans: Sequence[StoredSpan]) -> list[str]:
    """Name what is wrong with traces; empty when they are whole.

    Found: a span stored twice, more or less than one root per trace, a parent that is missing, a
    consumer whose parent is no producer, a link into one of these traces to a span that is missing.
    """
    known = {(span.trace_id, span.span_id): span for span in spans}
    traces = {span.trace_id for span in spans}
    defects = [
        f"{trace_id}/{span_id}: stored {times} times"
        for (trace_id, span_id), times in Counter((s.trace_id, s.span_id) for s in spans).items()
        if times > 1
    ]
    for trace_id in sorted(traces):
        roots = sorted(s.name for s in known.values() if s.trace_id == trace_id and not s.parent_id)
        if len(roots) != 1:
            defects.append(f"{trace_id}: {len(roots)} roots {roots}")
    for span in sorted(known.values(), key=_start):
        where = f"{span.name} ({span.span_id})"
        parent = known.get((span.trace_id, span.parent_id))
        if span.parent_id and parent is None:
            defects.append(f"{where}: its parent {span.parent_id} is missing")
        if span.kind == "consumer" and (parent is None or parent.kind != "producer"):
            found = "missing" if parent is None else parent.kind
            defects.append(f"{where}: a consumer's parent must be a producer, it is {found}")
        defects.extend(
            f"{where}: it links to {link.span_id}, which is missing"
            for link in span.links
            if link.trace_id in traces and (link.trace_id, link.span_id) not in known
        )
    return defects


def _walk(root: Branch) -> Iterator[tuple[Branch, str]]:
    """A tree's branches in reading order, each with the glyphs before it; of any depth."""
    pending = [(root, "", "")]
    while pending:
        branch, prefix, indent = pending.pop()
        yield branch, prefix
        last = len(branch.children) - 1
        for position in range(last, -1, -1):
            glyph, below = ("└─ ", "   ") if position == last else ("├─ ", "│  ")
            pending.append((branch.children[position], indent + glyph, indent + below))


def _bar(span: StoredSpan, begin_ns: int, total_ns: int, columns: int) -> str:
    first = min((span.start_ns - begin_ns) * columns // total_ns, columns - 1)
    # Round the end up, so that the shortest span still shows.
    after = -((begin_ns - span.end_ns) * columns // total_ns)
    length = min(max(after - first, 1), columns - first)
    return (" " * first + "█" * length).ljust(columns)


def _notes(branch: Branch) -> Iterator[str]:
    span = branch.span
    if span.status == "error":
        yield f"✗ {span.status_message}".rstrip().partition("\n")[0]
    if span.links:
        yield f"⇢ {_count(len(span.links), 'link')}"
    if branch.orphan:
        yield "? parent missing"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _start(span: StoredSpan) -> tuple[int, str]:
    return (span.start_ns, span.span_id)
