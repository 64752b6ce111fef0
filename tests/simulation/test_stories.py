"""What once lost a run or left it lying, and moments like it, with one seed after the other."""

from __future__ import annotations

import pytest

from tests.simulation import stories
from tests.simulation.stories import Story

STORIES: list[Story] = [
    stories.a_run_stated_after_its_mark_was_found,
    stories.two_owners_in_the_backoff_of_three_runs,
    stories.a_run_begun_by_an_owner_that_was_replaced,
    stories.outcomes_that_cannot_be_read_at_a_takeover,
    stories.a_death_before_the_question,
    stories.no_room_for_outcomes,
    stories.an_agent_dies_while_it_writes,
    stories.a_coordinator_dies_in_the_first_superstep,
    stories.acknowledgements_of_submissions_are_lost,
    stories.two_owners_of_a_fan_out,
    stories.a_coordinator_dies_in_a_fan_out,
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_it_ends_well(story: Story, seed: int) -> None:
    mesh = story(seed)
    mesh.nothing_is_out_of_order()
    mesh.teardown()
