"""Worlds in which one thing happens at the worst moment; the seed decides all the rest."""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.test_machine import Mesh

Story = Callable[[int], Mesh]
QUICK = (1, [0.0, 0.0], False)


def a_run_stated_after_its_mark_was_found(seed: int) -> Mesh:
    """The mark of an owner arrives, and the run's beginning only when another one has looked."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[], points=[("log", 1, False, False)])
    mesh.submit(wanted=QUICK)
    mesh.wait_a_moment(seconds=0.01)
    mesh.start_coordinator()
    mesh.replace_owner_unknown_to_it(number=0)
    mesh.wait_and_answer(seconds=1.0)
    return mesh


def two_owners_in_the_backoff_of_three_runs(seed: int) -> Mesh:
    """Each fences the other in the middle of a superstep."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=2, first=[QUICK] * 3, points=[])
    mesh.replace_owner_unknown_to_it(number=0)
    mesh.wait_and_answer(seconds=1.0)
    return mesh


def a_run_begun_by_an_owner_that_was_replaced(seed: int) -> Mesh:
    """Marks are set after the new owner has listed them."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[QUICK], points=[])
    mesh.submit(wanted=QUICK)
    mesh.start_coordinator()
    mesh.replace_owner_unknown_to_it(number=0)
    mesh.start_coordinator()
    mesh.cut(number=0, seconds=0.1)
    mesh.wait_and_answer(seconds=1.0)
    return mesh


def outcomes_that_cannot_be_read_at_a_takeover(seed: int) -> Mesh:
    """The next owner is cut off while it looks for the outcomes of a fan-out."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=2, first=[(1, [6.0, 0.5], True)], points=[])
    mesh.wait_and_answer(seconds=3.0)
    mesh.replace_owner_unknown_to_it(number=0)
    mesh.wait_a_moment(seconds=0.003)
    mesh.cut(number=1, seconds=8.0)
    return mesh


def a_death_before_the_question(seed: int) -> Mesh:
    """The last superstep before a gate is in the log, and that it asks is not."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[QUICK], points=[("log", 7, False, True)])
    mesh.wait_and_answer(seconds=7.0)
    return mesh


def no_room_for_outcomes(seed: int) -> Mesh:
    """Agents write when there is room again."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[], points=[])
    mesh.fill_slots(full=True)
    mesh.submit(wanted=QUICK)
    mesh.wait_and_answer(seconds=3.0)
    return mesh


def an_agent_dies_while_it_writes(seed: int) -> Mesh:
    """Its outcome is lost with it."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[QUICK] * 3, points=[("slot", 2, False, True)])
    mesh.wait_and_answer(seconds=7.0)
    return mesh


def a_coordinator_dies_in_the_first_superstep(seed: int) -> Mesh:
    """What it began and told is found by the next one."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[QUICK] * 3, points=[("event", 8, True, True)])
    mesh.wait_and_answer(seconds=7.0)
    return mesh


def acknowledgements_of_submissions_are_lost(seed: int) -> Mesh:
    """They are handed out again when their runs have begun."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[QUICK] * 3, points=[("ack", 1, False, True)])
    mesh.wait_and_answer(seconds=7.0)
    return mesh


def two_owners_of_a_fan_out(seed: int) -> Mesh:
    """Both wait for the same outcomes, and both go on."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=2, first=[(2, [0.5, 6.0], True)] * 3, points=[])
    mesh.wait_and_answer(seconds=3.0)
    mesh.replace_owner_unknown_to_it(number=0)
    mesh.replace_owner_unknown_to_it(number=1)
    mesh.wait_and_answer(seconds=7.0)
    mesh.wait_and_answer(seconds=7.0)
    return mesh


def a_coordinator_dies_in_a_fan_out(seed: int) -> Mesh:
    """One branch has ended, and clients know."""
    mesh = Mesh()
    mesh.begin(seed=seed, coordinators=1, first=[(1, [0.0, 6.0], True)] * 3, points=[])
    mesh.wait_and_answer(seconds=3.0)
    mesh.kill(number=0)
    mesh.wait_and_answer(seconds=7.0)
    return mesh
