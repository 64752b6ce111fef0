"""English text as the nodes compare it."""

from __future__ import annotations

import pytest

from research.text import content_words, matches, phrases, sentences, stem


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        ("exception exceptions", "exception"),
        ("raise raised raises raising", "rais"),
        ("class classes", "class"),
        ("query queries", "query"),
        ("thread threads threaded threading", "thread"),
        ("string strings", "string"),
        ("zepp*", "zepp*"),
    ],
)
def test_stem(forms, expected):
    assert {stem(form) for form in forms.split()} == {expected}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "How do Python's context managers and exceptions work together?",
            ["context managers", "exceptions"],
        ),
        ("What is the difference between `yield` and return?", ["yield", "return"]),
        (
            "Is a module's name one of the modules' or the scope's names?",
            ["module", "name", "scope"],
        ),
        ("How do you do?", []),
        ("", []),
    ],
)
def test_phrases(question, expected):
    assert phrases(question) == expected


def test_content_words_keep_stars_only_of_questions():
    assert content_words("the *managers* of x") == ["manager"]
    assert content_words("what of zepp*?", beginnings=True) == ["zepp*"]


@pytest.mark.parametrize(
    ("word", "said", "expected"),
    [
        ("exception", "exception", True),
        ("exception", "except", True),
        ("asynchronou", "asynchronously", True),
        ("context", "content", False),
        ("zepp*", "zeppelin", True),
        ("zep*", "zeppelin", False),
    ],
)
def test_matches(word, said, expected):
    assert matches(word, {said}) is expected


def test_sentences():
    text = 'One, e.g. two. "Three" is\nfour! Is it (five?) Yes.\n\nSix by M. Seven'
    assert sentences(text) == [
        "One, e.g. two.",
        '"Three" is four!',
        "Is it (five?)",
        "Yes.",
        "Six by M. Seven",
    ]
    assert sentences("  \n\n ") == []
