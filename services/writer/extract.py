"""Drafts made of the sources' own sentences.

A sentence is worth what it shares with its sub-question and with the question, more if it defines
the thing that is asked for, less if it cannot be read out of its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from research.state import Citation, Finding
from research.text import content_words, matches, sentences
from services.writer.cite import Draft, cite

_FULL_PARAGRAPHS = 4
"""Paragraphs of two sentences: as many as the first round has sub-questions. What later rounds add
has one, so that a loop adds to an answer and does not bloat it."""
_SENTENCES_MAX = 12
_WORTH_MIN = 1.2
"""Rather no sentence than one that shares a single word of several with what is asked."""

_PROSE_END = re.compile(r"""[.!?]["”’')\]]*""")
_DANGLING = re.compile(
    r"(And|Also|Although|As|But|Consequently|Conversely|For example|Furthermore|Hence|However|"
    r"If so|In addition|In that case|In the latter|In this case|It|Its|Likewise|Moreover|Note|Or|"
    r"Otherwise|See|Similarly|Since|So|Such|That|The above|The following|The former|The latter|"
    r"Their|Then|Therefore|These|They|This|Those|Thus|When this|You can also)\b"
)
"""Starts of sentences that lean on the sentence before."""
_DEFINING = re.compile(r"\b(is|are|means?|refers?|allows?|provides?|lets?|specify|specifies)\b")
_INSTRUCTION = re.compile(
    r"(Add|Append|Call|Check|Close|Convert|Create|Default|Enter|Execute|Exit|Find|Format|Generate|"
    r"Get|Give|Like|Load|Make|Open|Parse|Print|Raise|Read|Register|Remove|Return|Run|Same|"
    r"Schedule|Send|Set|Start|Stop|Test|Useful|Wait|Write|Yield)(s|es)?\b"
)
"""Starts of sentences that have a function for their unnamed subject."""
_ELSEWHERE = re.compile(
    r"\b(see|section|below|above|following|previous|versions?|deprecated|e\.g\.|PEP)\b|::|>>>",
    re.IGNORECASE,
)
_DOTTED = re.compile(r"\w+(\.\w+)+")
_MARKUP = re.compile(
    r":[a-z:]+:(?=`)|(?<!\w)\*{1,2}(?=\w)|(?<=[\w:.])\*{1,2}(?![\w(])|``"
    r"|\s\((?:described in|refer to|see)\b[^()]*\)"
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    finding: Finding
    sentence: str
    words: frozenset[str]
    position: tuple[bool, int, int]
    """Where it is read among others: definitions first, then in the order of the sources."""
    worth: float


def extract(question: str, asked: list[str], findings: list[Finding]) -> Draft:
    """Answer from the best sentences per sub-question, a paragraph for each.

    Args:
        question: The question.
        asked: Sub-questions, in the order in which they are answered.
        findings: Passages of all of them, best first per sub-question.
    """
    chosen: list[list[_Candidate]] = []
    for subquestion in asked:
        own = [f for f in findings if f["subquestion"] == subquestion]
        room = 2 if len(chosen) < _FULL_PARAGRAPHS else 1
        taken = [candidate for group in chosen for candidate in group]
        if len(taken) + room <= _SENTENCES_MAX and (
            group := _best(question, subquestion, own, taken, room)
        ):
            chosen.append(group)
    citations: list[Citation] = []
    paragraphs: list[str] = []
    for group in chosen:
        parts, subject = [], ""
        for candidate in sorted(group, key=lambda c: c.position):
            number = len(citations) + 1
            citations.append(cite(number, candidate.finding, candidate.sentence))
            if (about := _member(candidate)) and about != subject:
                parts.append(f"On `{about}`:")
            subject = about
            parts.append(f"{plain(candidate.sentence)} [{number}]")
        paragraphs.append(" ".join(parts))
    return Draft("\n\n".join(paragraphs), citations)


def _best(
    question: str, subquestion: str, findings: list[Finding], taken: list[_Candidate], room: int
) -> list[_Candidate]:
    ranked = sorted(_candidates(question, subquestion, findings), key=lambda c: -c.worth)
    picked: list[_Candidate] = []
    for candidate in ranked:
        if len(picked) == room or candidate.worth < _WORTH_MIN:
            break
        if all(_overlap(candidate.words, other.words) < 0.6 for other in [*taken, *picked]):
            picked.append(candidate)
    return picked


def _candidates(question: str, subquestion: str, findings: list[Finding]) -> Iterator[_Candidate]:
    wanted, context = set(content_words(subquestion, beginnings=True)), set(content_words(question))
    for rank, finding in enumerate(findings):
        # A section's title says what its sentences are about without repeating it.
        title = frozenset(content_words(finding["title"]))
        for place, sentence in enumerate(sentences(finding["text"])):
            words = frozenset(content_words(sentence))
            if not _is_readable(sentence) or _share(wanted, words) == 0:
                continue
            defines = _defines(sentence, wanted)
            worth = (
                2 * _share(wanted, words | title) ** 2
                + _share(wanted | context, words)
                + (1.2 if defines else 0.0)
                + 0.6 / (1 + rank)
                + (0.2 if place == 0 else 0.0)
                - (0.8 if _DANGLING.match(sentence) else 0.0)
                - (0.5 if _INSTRUCTION.match(sentence) else 0.0)
                - (0.5 if _ELSEWHERE.search(sentence) else 0.0)
            )
            yield _Candidate(finding, sentence, words, (not defines, rank, place), worth)


def _share(wanted: set[str], words: frozenset[str]) -> float:
    return sum(matches(word, words) for word in wanted) / max(1, len(wanted))


def _is_readable(sentence: str) -> bool:
    return (
        7 <= len(sentence.split()) <= 45
        and _PROSE_END.search(sentence[-3:]) is not None
        and (sentence[0].isupper() or sentence[0] in '"“*`')
    )


def _defines(sentence: str, wanted: set[str]) -> bool:
    """Whether the sentence starts with what is asked for and goes on to say what it is or does."""
    head, verb, _ = (
        _DEFINING.split(sentence, maxsplit=1) if _DEFINING.search(sentence) else ("", "", "")
    )
    named = set(content_words(head))
    return bool(verb) and bool(named) and named == wanted


def _member(candidate: _Candidate) -> str:
    """The function or class that the sentence is about and does not name; empty for other prose."""
    name = candidate.finding["title"].rpartition(": ")[2]
    dotted = _DOTTED.fullmatch(name) is not None
    return name if dotted and name.rpartition(".")[2] not in candidate.sentence else ""


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, min(len(a), len(b)))


def plain(sentence: str) -> str:
    """The sentence without the markup of emphasis, literals and roles, and without references."""
    return _MARKUP.sub(lambda m: "`" if m[0] == "``" else "", sentence)
