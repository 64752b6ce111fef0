"""What the nodes of the research graph read and write: plain data, since it crosses processes."""

from __future__ import annotations

from typing import Annotated

from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

ROUNDS_MAX = 3
"""Rounds of planning, research, writing and review after which the draft stands as it is."""

SCORE_MIN = 0.8
"""Coverage, from 0 to 1, from which the reviewer accepts a draft."""


class Question(TypedDict):
    """The graph's input."""

    question: str


class Citation(TypedDict):
    """What a mark such as ``[1]`` in the answer stands for."""

    id: int
    """The number in the mark; counts from 1 without gaps."""
    source: str
    """The document: a path below the corpus, or ``pydoc_data/topics.py#TOPIC``."""
    line: int
    """Where the passage starts in the document, from 1."""
    quote: str
    """A sentence of the document, word for word, its white space collapsed."""


class Answer(TypedDict):
    """The graph's output."""

    answer: str
    citations: list[Citation]


class Assignment(TypedDict):
    """What the planner sends to one researcher."""

    question: str
    subquestion: str


class Finding(TypedDict):
    """A passage that a researcher found for its sub-question."""

    question: str
    subquestion: str
    source: str
    line: int
    title: str
    text: str
    """The passage's paragraphs, separated by blank lines."""
    score: float
    """The passage's BM25 score for the sub-question; above 0."""


class Feedback(TypedDict):
    """What the reviewer asks of the next round."""

    question: str
    missing: list[str]
    """Words or aspects of the question that the draft does not cover."""


def gather(kept: list[Finding], new: list[Finding]) -> list[Finding]:
    """Add findings to those of the same question; a new question discards the last one's.

    A passage that is found again for the same sub-question is kept once, so a thread stays small
    however long the conversation is.
    """
    if not new:
        return kept
    question = new[-1]["question"]
    merged = {
        (f["subquestion"], f["source"], f["line"]): f
        for f in [*kept, *new]
        if f["question"] == question
    }
    return list(merged.values())


class State(TypedDict):
    """The channels of the graph."""

    question: str
    rounds: int
    """Rounds begun for this question, 1 to ROUNDS_MAX."""
    plan: list[str]
    """This round's sub-questions; one researcher each."""
    asked: list[str]
    """The sub-questions of all rounds so far."""
    findings: Annotated[list[Finding], gather]
    draft: str
    citations: list[Citation]
    score: float
    """The reviewer's score of the draft, 0 to 1."""
    feedback: Feedback | None
    """Set while another round is wanted."""
    answer: str
