"""Trees of spans: their shape, their picture, and what is wrong with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from langmesh.telemetry.store import StoredLink
from langmesh.telemetry.tree import Branch, build, check, render
from tests.telemetry.builders import stored

TRACE = f"{1:032x}"


def run_of_two_nodes():
    to = "mesh.v1.exec.research"
    hub = {"service": "coordinator"}
    join = [StoredLink(TRACE, f"{3:016x}")]
    failed = {"status": "error", "status_message": "ValueError: no\nsecond line"}
    return [
        stored(1, name="invoke_workflow research", end=100, **hub),
        stored(2, 1, name=f"send {to}.plan", kind="producer", start=1, end=3, **hub),
        stored(3, 2, name=f"process {to}.plan", kind="consumer", service="plan", start=4, end=40),
        stored(4, 3, name="invoke_agent plan", service="plan", start=5, end=39),
        stored(5, 1, name=f"send {to}.write", kind="producer", start=41, end=42, links=join, **hub),
        stored(6, 5, name=f"process {to}.write", kind="consumer", service="write", start=43, end=97,
               **failed),
    ]  # fmt: skip


def test_a_whole_run_has_no_defects():
    assert check(run_of_two_nodes()) == []
    assert check([]) == []


DRAWN = """\
trace 00000000000000000000000000000001 · 6 spans · 3 services · 100.0 ms
invoke_workflow research                   coordinator      100.0 ms  |████████████████████████|
├─ send mesh.v1.exec.research.plan         coordinator        2.0 ms  |█                       |
│  └─ process mesh.v1.exec.research.plan   plan              36.0 ms  |██████████              |
│     └─ invoke_agent plan                 plan              34.0 ms  | █████████              |
└─ send mesh.v1.exec.research.write        coordinator        1.0 ms  |         ██             |  ⇢ 1 link
   └─ process mesh.v1.exec.research.write  write             54.0 ms  |          ██████████████|  ✗ ValueError: no
"""  # noqa: E501


def test_a_run_is_drawn_as_a_tree():
    assert render(run_of_two_nodes()) == DRAWN.splitlines()


def test_orphans_stand_beside_the_root_and_say_so():
    spans = [stored(2, 9, start=0, end=1), stored(3, 2, start=1), stored(1, start=5, end=9)]
    root, orphan = build(spans)
    assert (root.span.span_id, root.orphan) == (f"{1:016x}", False)
    assert (orphan.span.span_id, orphan.orphan) == (f"{2:016x}", True)
    assert len(orphan.children) == 1
    assert render(spans)[2].endswith("  ? parent missing")


def test_children_stand_in_the_order_of_their_start():
    (root,) = build([stored(1), stored(2, 1, start=9), stored(3, 1, start=4)])
    assert [child.span.span_id for child in root.children] == [f"{3:016x}", f"{2:016x}"]


def test_every_defect_is_named():
    spans = [
        stored(1, name="root"),
        stored(1, name="root"),
        stored(2, name="second root"),
        stored(3, 99, name="orphan"),
        stored(4, 1, name="consumer", kind="consumer"),
        stored(5, 1, name="joiner", links=[StoredLink(t, "f" * 16) for t in (TRACE, "e" * 32)]),
    ]
    assert check(spans) == [
        f"{TRACE}/{1:016x}: stored 2 times",
        f"{TRACE}: 2 roots ['root', 'second root']",
        f"orphan ({3:016x}): its parent {99:016x} is missing",
        f"consumer ({4:016x}): a consumer's parent must be a producer, it is internal",
        f"joiner ({5:016x}): it links to ffffffffffffffff, which is missing",
    ]


def test_nothing_is_drawn_for_nothing():
    assert render([]) == []


def test_a_deep_trace_needs_no_recursion():
    spans = [stored(1), *(stored(i, i - 1, start=i) for i in range(2, 3_000))]
    assert len(build(spans)) == 1
    assert len(render(spans)) == 3_000


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 9), st.integers(0, 3)), max_size=12))
def test_every_span_appears_exactly_once_whatever_the_parents(rows):
    """Parents may be missing, one's own self, or a circle."""
    spans = list({i: stored(i, p or "", start=s) for i, p, s in rows}.values())

    def collect(branch: Branch) -> list[str]:
        return [branch.span.span_id] + [i for child in branch.children for i in collect(child)]

    found = [span_id for root in build(spans) for span_id in collect(root)]
    assert sorted(found) == sorted(span.span_id for span in spans)
    assert len(render(spans)) == (len(spans) + 1 if spans else 0)
    check(spans)
