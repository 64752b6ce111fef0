"""English text as the nodes compare it: content words, phrases, sentences. Needs no package."""

from __future__ import annotations

import re
from functools import lru_cache

_NO_SUBJECT = """
a about above after again against all also always an and another any anything are aren as at be
because been before being below between both but by can cannot could did do does doesn doing don
done down during each either else etc even ever every few for from further general generally get
give given got had has have having he her here hers him his how however if in inside instead into is
isn it its itself just ll made make may me might mine more most much must my never no nor not of off
often on once one only onto or other others our out over own per rather re same shall she should
since so some still such than that the their theirs them then there these they this those through
thus to too two under until up upon us ve very via was we were what whatever when where whether
which while who whom whose why will with within without won would yet you your yours

answer apply compare deal depend describe detail differ difference different differently exactly
explain explained fit happen happening happens help interact involve kind know let like main mean
meaning means meant need needs play please python question relate related relation relationship role
said say show sort tell thing things together understand use used useful uses using way ways work
working works
"""
STOP_WORDS = frozenset(_NO_SUBJECT.split())
"""Words that tell nothing about a subject: English's, those that questions are made of, and
"python", which is the subject of the whole default corpus."""

_WORD = re.compile(r"[^\W_]+")
_WORD_OR_BEGINNING = re.compile(r"[^\W_]+\*?")
_POSSESSIVE = re.compile(r"['’]s?\b")
_SENTENCE_END = re.compile(r"""(?<=[.!?])(?P<close>["”’')\]]*)\s+(?=["“*`(]*[A-Z])""")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|etc|Dr|Mr|Ms|No|Fig|resp)|\b[A-Z])\.$")


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Reduce a word to what its plural, its past and its -ing form have in common."""
    word = word.lower()
    if word.endswith("*"):
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            word = word[: -len(suffix)]
            if word[-1] == word[-2] and word[-1] not in "aeiouls":
                word = word[:-1]
            break
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def content_words(text: str, *, beginnings: bool = False) -> list[str]:
    """The stems of the words that carry meaning, in order, with repetitions.

    Args:
        text: A question or a document.
        beginnings: Whether ``word*`` keeps its star, standing for all words that begin so; for
            questions, since documents mark emphasis with stars.
    """
    words = _WORD_OR_BEGINNING if beginnings else _WORD
    return [
        stem(word)
        for word in words.findall(_POSSESSIVE.sub("", text))
        if len(word) > 1 and word.lower() not in STOP_WORDS
    ]


def phrases(question: str) -> list[str]:
    """The things a question is about: its unbroken runs of content words, as written, each once."""
    found: dict[tuple[str, ...], str] = {}
    for part in re.split(r"[^\w\s*'’-]+|['’]s\b", question):
        run: list[str] = []
        for word in [*part.split(), ""]:
            if content_words(word):
                run.append(word.strip("'’-_*"))
            elif run:
                phrase = " ".join(run)
                found.setdefault(tuple(content_words(phrase)), phrase)
                run = []
    return list(found.values())


def matches(word: str, stems: set[str] | frozenset[str]) -> bool:
    """Whether one of the stems is the word's or shares all but the ending with it."""
    if word in stems:
        return True
    root = word[:-1] if word.endswith("*") else word[: max(6, len(word) - 3)]
    return len(root) >= 4 and any(s.startswith(root) for s in stems)


def sentences(text: str) -> list[str]:
    """Split paragraphs (separated by blank lines) into sentences, their white space collapsed."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        flat, start = " ".join(paragraph.split()), 0
        for end in _SENTENCE_END.finditer(flat):
            if _ABBREVIATION.search(flat[start : end.start()]) is None:
                found.append(flat[start : end.end("close")])
                start = end.end()
        found.append(flat[start:])
    return [sentence for sentence in found if sentence]
