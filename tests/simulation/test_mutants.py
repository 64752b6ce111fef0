"""The checks find what they are there for: each rule of the protocol, broken, is noticed."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from langmesh.agent.executor import NodeExecutor
from langmesh.bus.client import ACK_TIMEOUT_S
from langmesh.coordinator import revival, run, tasks
from langmesh.coordinator.admission import Admission, Arrival
from langmesh.coordinator.events import EventWriter
from langmesh.coordinator.live import LiveRuns
from langmesh.coordinator.mark import Mark
from langmesh.coordinator.runlog import RunLog
from langmesh.log.outbox import Outbox
from tests.simulation import stories
from tests.simulation.stories import Story

Patch = Callable[[pytest.MonkeyPatch], None]
SEEDS_MAX = 40
"""With so many seeds its story is told at most; most mutants do not outlive the first."""


def entries_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    """R1: what is stated does not depend on the entry before."""

    def send(self: Any, flight: Any) -> None:
        on_answer = functools.partial(self._on_answer, flight)
        self._bus.append_nowait(
            self._chain.subject, flight.body, on_answer, timeout_s=ACK_TIMEOUT_S
        )

    patch.setattr(Outbox, "_send", send)


def tasks_before_their_checkpoint(patch: pytest.MonkeyPatch) -> None:
    """R2: a task goes out at once."""

    async def stored(self: Any, checkpoint_id: str) -> None:
        self.begun.set()

    patch.setattr(RunLog, "stored", stored)


def one_slot_for_all_attempts(patch: pytest.MonkeyPatch) -> None:
    """R3: the second attempt has the slot of the first."""
    capability = tasks.capability
    patch.setattr(
        tasks, "capability", lambda key, **names: capability(key, **names | {"attempt": 1})
    )


def answers_in_the_slots_of_questions(patch: pytest.MonkeyPatch) -> None:
    """R3: a task that goes on after an answer has the slot in which it asked."""
    capability = tasks.capability
    patch.setattr(
        tasks, "capability", lambda key, **names: capability(key, **names | {"invocation": ""})
    )


def acknowledged_before_it_is_written(patch: pytest.MonkeyPatch) -> None:
    """R4: an agent does not wait until its outcome is stored."""

    original = NodeExecutor._write

    async def soon(self: Any, *given: Any) -> None:
        asyncio.get_running_loop().create_task(original(self, *given))

    patch.setattr(NodeExecutor, "_write", soon)


def full_taken_for_written(patch: pytest.MonkeyPatch) -> None:
    """R4: an agent takes each refusal of the stream for a slot that is filled."""

    async def filled(self: Any, slot: str) -> bool:
        return True

    patch.setattr(NodeExecutor, "_slot_is_filled", filled)


def gates_open_at_takeovers(patch: pytest.MonkeyPatch) -> None:
    """R7: who takes over goes on where LangGraph would stop for a human."""
    patch.setattr(run, "gate", lambda *_, **__: False)


def runs_without_a_mark(patch: pytest.MonkeyPatch) -> None:
    """R9: nobody knows where to look for unfinished runs."""

    async def no_mark(self: Any) -> None:
        """It is not set."""

    patch.setattr(Mark, "set", no_mark)
    patch.setattr(Mark, "begin", lambda self: None)


def marks_removed_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    """R9: an owner before may state a run after its mark was removed."""

    async def no_fence(self: Any, thread: Any, last: Any) -> None:
        if last is not None:
            await revival.tell_the_rest(self._bus, thread, last)

    patch.setattr(LiveRuns, "_fence", no_fence)


def events_without_a_condition(patch: pytest.MonkeyPatch) -> None:
    """R10: two coordinators may both write a run's events."""

    def send(self: Any) -> None:
        self._bus.append_nowait(self._subject, self._body, self._on_done)

    patch.setattr(EventWriter, "_send", send)


def events_told_twice(patch: pytest.MonkeyPatch) -> None:
    """R10: who takes over tells again what was told after the log's last entry."""
    patch.setattr(revival, "Counter", lambda _: Counter())


def submissions_let_go_of_too_early(patch: pytest.MonkeyPatch) -> None:
    """A submission is acknowledged before its run's beginning is in the log."""
    decide = Arrival.decide

    def decide_and_let_go(self: Any, decision: Any) -> None:
        decide(self, decision)
        self.begun()

    patch.setattr(Arrival, "decide", decide_and_let_go)


def submissions_begun_twice(patch: pytest.MonkeyPatch) -> None:
    """A submission that is handed over again begins another run."""

    async def unknown(self: Any, thread: Any, submitted: Any) -> bool:
        return False

    async def nothing_earlier(self: Any, *_: Any) -> tuple[int, int, bool, bool]:
        return 0, 0, False, False

    patch.setattr(Admission, "_is_known", unknown)
    patch.setattr(Admission, "_earlier", nothing_earlier)


MUTANTS: dict[Patch, Story] = {
    entries_without_a_fence: stories.two_owners_of_a_fan_out,
    tasks_before_their_checkpoint: stories.a_coordinator_dies_in_the_first_superstep,
    one_slot_for_all_attempts: stories.a_coordinator_dies_in_the_first_superstep,
    answers_in_the_slots_of_questions: stories.a_coordinator_dies_in_the_first_superstep,
    acknowledged_before_it_is_written: stories.no_room_for_outcomes,
    full_taken_for_written: stories.no_room_for_outcomes,
    gates_open_at_takeovers: stories.a_death_before_the_question,
    runs_without_a_mark: stories.a_coordinator_dies_in_the_first_superstep,
    marks_removed_without_a_fence: stories.a_run_stated_after_its_mark_was_found,
    events_without_a_condition: stories.two_owners_in_the_backoff_of_three_runs,
    events_told_twice: stories.a_coordinator_dies_in_a_fan_out,
    submissions_let_go_of_too_early: stories.a_coordinator_dies_in_the_first_superstep,
    submissions_begun_twice: stories.acknowledgements_of_submissions_are_lost,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_rule_is_noticed(mutant: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    assert any(_is_noticed(MUTANTS[mutant], seed) for seed in range(SEEDS_MAX))


def _is_noticed(story: Story, seed: int) -> bool:
    mesh = story(seed)
    try:
        mesh.teardown()
    except AssertionError:
        return True
    return False
