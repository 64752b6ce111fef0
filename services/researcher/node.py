"""The researcher's node."""

from __future__ import annotations

from typing import Any

from langmesh import settings
from research.state import Assignment, Finding
from services.researcher.index import load_index

PASSAGES_PER_SUBQUESTION = 4


def research(assignment: Assignment) -> dict[str, Any]:
    """Find the passages that fit a sub-question best; none if no passage shares a word with it.

    Runs in a thread (LangGraph's rule for sync nodes): the first call reads and indexes the corpus.

    Raises:
        MeshError: CORPUS_MISSING if ``LANGMESH_CORPUS`` names no folder with text.
    """
    index = load_index(settings.load().corpus)
    found = index.search(assignment["subquestion"], PASSAGES_PER_SUBQUESTION)
    return {
        "findings": [
            Finding(
                question=assignment["question"],
                subquestion=assignment["subquestion"],
                source=passage.source,
                line=passage.line,
                title=passage.title,
                text=passage.text,
                score=score,
            )
            for passage, score in found
        ]
    }
