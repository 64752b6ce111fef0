"""How much of a question a draft covers, measured by words."""

from __future__ import annotations

from dataclasses import dataclass

from research.text import content_words, matches, phrases


@dataclass(frozen=True, slots=True)
class Coverage:
    """A score from 0 to 1, and what of the question the draft leaves out."""

    score: float
    missing: list[str]


def coverage(question: str, draft: str, asked: list[str]) -> Coverage:
    """Compare a draft with its question.

    The score is the mean of two shares: of the question's content words, those that the draft has;
    of the things it names (what the first round's sub-questions ask for), those with a paragraph
    that has all their words. A question that names nothing is covered by any draft.

    Args:
        question: The question.
        draft: Paragraphs, separated by blank lines.
        asked: The sub-questions so far; where one asks for words that begin alike (``seriali*``),
            such a word in the draft stands for the question's.
    """
    words = list(dict.fromkeys(content_words(question)))
    if not words:
        return Coverage(1.0 if draft else 0.0, [])
    beginnings = [
        word for q in asked for word in content_words(q, beginnings=True) if word.endswith("*")
    ]
    paragraphs = [frozenset(content_words(paragraph)) for paragraph in draft.split("\n\n")]

    def has(paragraph: frozenset[str], word: str) -> bool:
        # Half a word in common is chance: data* says nothing about dataclasses.
        close = (b for b in beginnings if word.startswith(b[:-1]) and len(b) - 1 > len(word) / 2)
        forms = [word, *close]
        return any(matches(form, paragraph) for form in forms)

    things = phrases(question)
    missing = [
        thing
        for thing in things
        if not any(all(has(p, w) for w in content_words(thing)) for p in paragraphs)
    ]
    words_share = sum(any(has(p, word) for p in paragraphs) for word in words) / len(words)
    things_share = 1 - len(missing) / len(things)
    return Coverage(round((words_share + things_share) / 2, 3), missing)
