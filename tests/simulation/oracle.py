"""What LangGraph makes of the simulated graph in one process, where nothing fails."""

from __future__ import annotations

import asyncio

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.simulation import graph


def trail(rounds: int) -> list[str]:
    """The trail that a run leaves which goes so many rounds."""
    return asyncio.run(_trail(rounds))


async def _trail(rounds: int) -> list[str]:
    compiled = graph.graph()
    compiled.checkpointer = InMemorySaver()
    config = {"configurable": {"thread_id": "t"}}
    given: object = {"trail": [], "rounds": rounds, "seconds": [0, 0]}
    for _ in range(graph.GATES):
        await compiled.ainvoke(given, config)
        given = Command(resume="yes")
    ended = await compiled.ainvoke(given, config)
    state = await compiled.aget_state(config)
    assert state.next == ()
    found: list[str] = ended["trail"]
    return found
