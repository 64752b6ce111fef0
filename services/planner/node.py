"""The planner's node."""

from __future__ import annotations

from typing import Any

from langmesh.errors import ErrorCode, MeshError
from research.models import ask, chat_model, first_json
from research.state import State
from services.planner.decompose import SUBQUESTIONS_MAX, first_plan, next_plan

_INSTRUCTION = (
    "Split the question into 2 to 4 short search queries that together find what is needed to "
    "answer it. Do not repeat a query that was asked before; look for what is still missing, if "
    'anything is. Reply with a JSON array of strings only, such as ["what X is", "how X uses Y"].'
)


async def plan(state: State) -> dict[str, Any]:
    """Plan the sub-questions of this round: 2 to 4 that no earlier round of the question asked.

    Raises:
        MeshError: INVALID_INPUT if there is no question.
    """
    question: Any = state.get("question")
    if not isinstance(question, str) or not question.strip():
        raise MeshError(ErrorCode.INVALID_INPUT, "question: expected a text that is not empty")
    feedback = state.get("feedback")
    if feedback is None or feedback["question"] != question:
        # A new question of the thread: nothing of the last one's rounds counts.
        rounds, asked, missing = 1, [], []
    else:
        rounds, asked, missing = state["rounds"] + 1, state["asked"], feedback["missing"]
    planned = await _model_plan(question, asked, missing) or (
        next_plan(question, missing, asked) if asked else first_plan(question)
    )
    return {"rounds": rounds, "plan": planned, "asked": [*asked, *planned], "feedback": None}


async def _model_plan(question: str, asked: list[str], missing: list[str]) -> list[str]:
    if (model := await chat_model()) is None:
        return []
    material = f"Question: {question}\nAsked before: {asked}\nStill missing: {missing}"
    reply = first_json(await ask(model, _INSTRUCTION, material))
    queries = [q.strip() for q in reply if isinstance(q, str)] if isinstance(reply, list) else []
    new = [q for q in dict.fromkeys(queries) if q and q not in asked]
    return new[:SUBQUESTIONS_MAX] if len(new) > 1 else []
