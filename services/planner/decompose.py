"""Decomposition of a question without a model: by the things that it names."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, zip_longest

from research.text import content_words, phrases

SUBQUESTIONS_MIN = 2
SUBQUESTIONS_MAX = 4


def first_plan(question: str) -> list[str]:
    """What each thing in the question is, at most three of them, then the question itself."""
    topics = phrases(question)
    if len(topics) > SUBQUESTIONS_MAX - 1:
        # Long names are the specific ones; they are asked in the question's order.
        longest = sorted(topics, key=len, reverse=True)[: SUBQUESTIONS_MAX - 1]
        topics = [topic for topic in topics if topic in longest]
    return [*map(_meaning, topics or [question.strip(" ?!.")]), question]


def next_plan(question: str, missing: list[str], asked: list[str]) -> list[str]:
    """Other sub-questions than those asked, for what the last draft did not cover.

    Each missing thing is asked for beside what is covered, then by how its words begin
    (``zeppe*``), which finds other forms and spellings, then word by word: two ways per thing and
    round.
    """
    covered = [topic for topic in phrases(question) if topic not in missing]
    per_thing = (
        islice((q for q in _ways(thing, covered) if q not in asked), SUBQUESTIONS_MIN)
        for thing in missing
    )
    # In turns, so that the limit leaves every missing thing its share.
    in_turns = chain.from_iterable(zip_longest(*per_thing))
    new = [q for q in dict.fromkeys(in_turns) if q is not None][:SUBQUESTIONS_MAX]
    about = (missing or phrases(question) or [question.strip(" ?!.")])[0]
    others = (q for q in _otherwise(about) if q not in asked)
    return [*new, *islice(others, max(0, SUBQUESTIONS_MIN - len(new)))]


def _ways(thing: str, covered: list[str]) -> Iterator[str]:
    words = content_words(thing)
    yield from (f"How do {thing} and {topic} relate?" for topic in covered[:1])
    for share in (0.6, 0.5):
        for word in words:
            yield f"What is said on {word[: max(4, int(len(word) * share))]}*?"
    if len(words) > 1:
        yield from map(_meaning, thing.split())


def _otherwise(thing: str) -> Iterator[str]:
    """Enough further ways to ask for two of them in each of the later rounds."""
    yield f"What else is said on {thing}?"
    yield f"What is related to {thing}?"
    yield f"Which uses of {thing} are there?"
    yield f"What else is like {thing}?"


def _meaning(topic: str) -> str:
    return f"What is meant by {topic}?"
