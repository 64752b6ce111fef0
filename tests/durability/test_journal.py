"""What a log tells of a thread's runs, and the gate that a takeover must not open."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from langgraph.pregel._algo import should_interrupt
from langgraph.types import PregelExecutableTask

from langmesh.coordinator.journal import Journal, gate
from langmesh.wire.log import (
    AppliedTask,
    Record,
    RunCancellingRecord,
    RunEndedRecord,
    RunInterruptedRecord,
    RunResumedRecord,
    RunStartedRecord,
    SuperstepRecord,
)


def started(seq: int = 2, run: str = "r1", **fields: object) -> RunStartedRecord:
    given = {"submit_seq": 1, "graph": "g", "revision": "v", **fields}
    return RunStartedRecord(
        run_id=run, seq=seq, submit_epoch="e", submission=b"{}", stop=25, **given
    )


def resumed(seq: int, submit_seq: int) -> RunResumedRecord:
    return RunResumedRecord(
        run_id="r1", seq=seq, submit_epoch="e", submit_seq=submit_seq, submission=b"{}", stop=30
    )


def step(seq: int, checkpoint: str, *nodes: str) -> SuperstepRecord:
    applied = [AppliedTask(f"{checkpoint}-{node}", node, 1) for node in nodes]
    return SuperstepRecord(
        run_id="r1", seq=seq, checkpoint_id=checkpoint, applied=applied, events=[b"e"]
    )


def folded(*records: Record) -> Journal:
    journal = Journal()
    journal.apply(records)
    return journal


def test_a_run_goes_on_from_its_last_step():
    journal = folded(started(), step(3, "c0"), step(6, "c1", "a", "b"))
    assert journal.last is not None
    assert (journal.last.phase, journal.last.seq, journal.last.events) == ("running", 6, [b"e"])
    assert journal.last.step == step(6, "c1", "a", "b")
    assert (journal.last.supersteps, journal.last.tasks) == (1, 2)
    assert journal.submissions == {("e", 1)}


def test_an_answer_begins_the_loop_anew():
    question = RunInterruptedRecord(run_id="r1", seq=7)
    asking = folded(started(), step(6, "c1", "a"), question)
    assert asking.last is not None
    assert asking.last.phase == "asking"
    answered = folded(started(), step(6, "c1", "a"), question, resumed(8, 2))
    assert answered.last is not None
    assert (answered.last.phase, answered.last.step, answered.last.begun.stop) == (
        "running",
        None,
        30,
    )
    assert answered.submissions == {("e", 1), ("e", 2)}


def test_a_run_that_is_called_off_or_over():
    calling = RunCancellingRecord(run_id="r1", seq=9)
    journal = folded(started(), step(6, "c1", "a"), calling)
    assert journal.last is not None
    # It fixes no event: what the step holds is still to be told.
    assert (journal.last.cancelling, journal.last.seq, journal.last.events) == (True, 6, [b"e"])
    ended = RunEndedRecord(run_id="r1", seq=10, status="cancelled")
    journal.apply([ended])
    assert (journal.last.phase, journal.last.seq) == ("ended", 10)
    journal.apply([started(2, run="r2", submit_seq=5)])
    assert (journal.last.started.run_id, journal.last.phase) == ("r2", "running")


def test_the_durability_exit_hides_all_but_the_last_step_of_each_life():
    question = RunInterruptedRecord(run_id="r1", seq=7)
    journal = folded(
        started(shows_last=True),
        *(step(3, "c0"), step(4, "c1", "a"), step(5, "c2", "b")),
        question,
        resumed(8, 2),
        *(step(9, "c3", "c"), step(10, "c4", "d")),
    )
    assert journal.hidden == {"c0", "c1"}


NAMES = st.lists(st.sampled_from("abc"), max_size=3, unique=True)
VERSIONS = st.dictionaries(st.sampled_from("xyz"), st.integers(1, 5).map(lambda n: f"{n:04}.x"))


@given(VERSIONS, st.one_of(st.none(), VERSIONS), NAMES, NAMES)
def test_a_gate_is_closed_where_langgraph_stops(versions, seen, names, gates):
    checkpoint = {
        "channel_versions": versions,
        "versions_seen": {} if seen is None else {"__interrupt__": seen},
    }
    tasks = [
        PregelExecutableTask(name, None, None, [], {}, [], None, None, name, ()) for name in names
    ]
    stops = bool(should_interrupt(checkpoint, gates, tasks))
    given_to = {"interrupt_after": (), "interrupt_before": gates, "applied": ()}
    assert gate(checkpoint, following=names, **given_to) == stops
    after = {"interrupt_after": gates, "interrupt_before": (), "following": ()}
    assert gate(checkpoint, applied=names, **after) == stops
