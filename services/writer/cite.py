"""Drafts and their citations; the marks that a model sets are checked and numbered anew."""

from __future__ import annotations

import re
from dataclasses import dataclass

from research.state import Citation, Finding
from research.text import content_words, matches, sentences

PASSAGES_MAX = 12
"""Passages that a model is given: about 2,500 tokens."""

_MARK = re.compile(r"\s?\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer with marks such as ``[1]``, and what they stand for."""

    text: str
    citations: list[Citation]


def cite(number: int, finding: Finding, quote: str) -> Citation:
    """The citation of a sentence of a finding."""
    return Citation(id=number, source=finding["source"], line=finding["line"], quote=quote)


def numbered(findings: list[Finding]) -> dict[int, Finding]:
    """The best passages by number from 1; a passage found for several sub-questions comes once."""
    best = {
        (f["source"], f["line"]): f for f in sorted(findings, key=lambda finding: finding["score"])
    }
    ranked = sorted(best.values(), key=lambda finding: -finding["score"])
    return dict(enumerate(ranked[:PASSAGES_MAX], 1))


def cite_marks(text: str, question: str, passages: dict[int, Finding]) -> Draft:
    """Number the marks of a text in the order of their appearance, and cite what they stand for.

    Marks of passages that do not exist are removed. The quote is the passage's sentence that shares
    most with the question.
    """
    numbers: dict[int, int] = {}

    def renumber(mark: re.Match[str]) -> str:
        given = [int(n) for n in mark[1].split(",") if int(n) in passages]
        return "".join(f" [{numbers.setdefault(n, len(numbers) + 1)}]" for n in given)

    answer = _MARK.sub(renumber, text).strip()
    return Draft(
        answer,
        [cite(id_, passages[n], _quote(question, passages[n])) for n, id_ in numbers.items()],
    )


def _quote(question: str, finding: Finding) -> str:
    wanted = set(content_words(question))

    def shared(sentence: str) -> int:
        words = frozenset(content_words(sentence))
        return sum(matches(word, words) for word in wanted)

    return max(sentences(finding["text"]), key=shared)
