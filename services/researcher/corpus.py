"""Documents as passages: paragraphs of prose of about 120 words, with their source and line.

The corpus is a folder of ``.txt``, ``.md``, ``.rst`` and ``.py`` files (of the last, the
docstrings), or, without a folder, what every Python installation has: the language reference that
``help()`` prints and the docstrings of some modules and their classes. Code, tables and headings
are not prose and left out.
"""

from __future__ import annotations

import ast
import logging
import re
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path

from langmesh.errors import ErrorCode, MeshError
from research.text import sentences

PASSAGE_WORDS = 120
PASSAGES_MAX = 4000
"""Passages in memory, about 1 kB of text and 1 kB of index each; what a folder holds beyond that
is left out, in the order of the files' names."""
FILE_BYTES_MAX = 4_000_000

SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})
_STDLIB_MODULES = """
abc ast asyncio bdb cmd collections concurrent configparser contextlib contextvars copy csv
dataclasses datetime enum fractions functools gc glob heapq http importlib inspect io json
logging multiprocessing os pathlib pickle queue random re sched selectors shelve shlex socket
socketserver statistics string subprocess tempfile threading timeit traceback typing unittest
urllib warnings weakref
"""
_DOCSTRING_WORDS_MIN = 30
"""Of Python's own docstrings; shorter passages name things and explain nothing."""

_log = logging.getLogger(__name__)
_WORDLIKE = re.compile(r"""["“*`(\[]*[^\W\d_][\w'’-]*["”*`)\].,:;!?…]*""")
_SENTENCE_END = re.compile(r"""[.!?]["”’')\]*]*(\s|$)""")
_MARKDOWN_HEADING = re.compile(r"#{1,6}\s+(.+?)[\s#]*")
_LIST_ITEM = re.compile(r"([-*+•]|\d{1,3}[.)])\s+")
_SIGNATURE = re.compile(r"(?:class |async )?(\w+(?:\.\w+)*)(?:\(.*\)|\[.*\])(?: ->.*)?")
_LINE_CHARS_MAX = 1000
_UNDERLINE = re.compile(r"([=\-~*^#\"'`+])\1{2,}")

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive paragraphs of one section of one document."""

    source: str
    line: int
    title: str
    text: str


def read_corpus(folder: str) -> list[Passage]:
    """Read up to PASSAGES_MAX passages of a folder, or of Python itself if ``folder`` is empty.

    Raises:
        MeshError: CORPUS_MISSING naming the folder if it does not exist or holds no prose.
    """
    stream = _distinct(_folder_passages(Path(folder)) if folder else _python_passages())
    passages = list(islice(stream, PASSAGES_MAX))
    if not passages:
        what = f"LANGMESH_CORPUS={folder!r}" if folder else "this Python's own documentation"
        raise MeshError(ErrorCode.CORPUS_MISSING, f"{what} holds no text to search")
    if next(stream, None) is not None:
        _log.warning("corpus cut off after %d passages, at %s", PASSAGES_MAX, passages[-1].source)
    return passages


def _distinct(passages: Iterator[Passage]) -> Iterator[Passage]:
    texts = set[str]()
    for passage in passages:
        if passage.text not in texts:
            texts.add(passage.text)
            yield passage


def _folder_passages(folder: Path) -> Iterator[Passage]:
    if not folder.is_dir():
        raise MeshError(
            ErrorCode.CORPUS_MISSING, f"LANGMESH_CORPUS={str(folder)!r} is not a folder"
        )
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.suffix in SUFFIXES and path.is_file() and not _is_hidden(name):
            yield from _file_passages(path, name.as_posix())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _python_passages() -> Iterator[Passage]:
    try:
        topics = import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions package it apart
        topics = {}
    # Long topics repeat short ones; the short one is the better source.
    for topic, text in sorted(topics.items(), key=lambda item: len(item[1])):
        yield from _text_passages(f"pydoc_data/topics.py#{topic}", topic, text, 1)
    root = Path(sysconfig.get_path("stdlib"))
    for module in _STDLIB_MODULES.split():
        files = [root / f"{module}.py", *sorted((root / module).glob("*.py"))]
        for path in files:
            if path.is_file():
                found = _file_passages(path, path.relative_to(root).as_posix(), functions=False)
                yield from (p for p in found if len(p.text.split()) >= _DOCSTRING_WORDS_MIN)


def _file_passages(path: Path, source: str, *, functions: bool = True) -> Iterator[Passage]:
    if path.stat().st_size > FILE_BYTES_MAX:
        _log.warning("%s is larger than %d bytes and left out", path, FILE_BYTES_MAX)
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        _log.warning("%s cannot be read and is left out: %s", path, exc.strerror)
        return
    if path.suffix != ".py":
        yield from _text_passages(source, path.stem, text, 1)
        return
    try:
        with warnings.catch_warnings():
            # What the compiler thinks of a document's escapes is not this process's business.
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):  # a template, or code for another Python
        return
    for title, docstring, line in _docstrings(tree, _module_name(source), functions):
        yield from _text_passages(source, title, docstring, line)


def _module_name(source: str) -> str:
    return source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _docstrings(node: _Documented, title: str, functions: bool) -> Iterator[tuple[str, str, int]]:
    """The title, text and first line of the docstrings of a module's public parts, in order."""
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str() as text), lineno=line), *_]:
            yield title, text, line
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef if functions else ast.ClassDef
    for child in node.body:
        if isinstance(child, kinds) and not child.name.startswith("_"):
            yield from _docstrings(child, f"{title}.{child.name}", functions)


def _text_passages(source: str, title: str, text: str, first_line: int) -> Iterator[Passage]:
    section, start, words, paragraphs = title, first_line, 0, list[str]()
    for heading, line, paragraph in _paragraphs(text, title, first_line):
        count = len(paragraph.split())
        if paragraphs and (heading != section or words + count > 1.4 * PASSAGE_WORDS):
            yield Passage(source, start, section, "\n\n".join(paragraphs))
            words, paragraphs = 0, []
        if not paragraphs:
            section, start = heading, line
        paragraphs.append(paragraph)
        words += count
    if paragraphs:
        yield Passage(source, start, section, "\n\n".join(paragraphs))


def _paragraphs(text: str, title: str, first_line: int) -> Iterator[tuple[str, int, str]]:
    """The paragraphs of prose, each with the heading it stands under and its first line."""
    reader = _Reader(title)
    for number, line in enumerate([*text.splitlines(), ""], first_line):
        for piece in _pieces(line):
            yield from reader.feed(number, piece)


def _pieces(line: str) -> list[str]:
    """A line as it is; a long one, which is a paragraph or no prose, by sentences."""
    if len(line) <= _LINE_CHARS_MAX:
        return [line]
    return [
        part for sentence in sentences(line) for part in textwrap.wrap(sentence, _LINE_CHARS_MAX)
    ]


class _Reader:
    """Takes a document line by line and gives its paragraphs as they end."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._member: tuple[int, str] | None = None  # indentation and name of a documented object
        self._start = 0
        self._lines: list[str] = []
        self._words = 0

    def feed(self, number: int, line: str) -> Iterator[tuple[str, int, str]]:
        content = line.strip()
        if _UNDERLINE.fullmatch(content):
            if self._lines:
                self._title, self._member = self._lines[-1].strip(" *"), None
            self._lines = []
            return
        heading = _MARKDOWN_HEADING.fullmatch(content)
        item = _LIST_ITEM.match(content)
        if not content or heading or item or self._is_full():
            yield from self._close()
        if heading:
            self._title, self._member = heading[1], None
        elif content:
            if not self._lines:
                self._start, self._words = number, 0
                self._note_member(line, content)
            self._lines.append(content[item.end() :] if item else content)
            self._words += len(content.split())

    def _note_member(self, line: str, content: str) -> None:
        indentation = len(line) - len(line.lstrip())
        if signature := _SIGNATURE.fullmatch(content):
            self._member = (indentation, signature[1])
        elif self._member and indentation <= self._member[0]:
            self._member = None

    def _is_full(self) -> bool:
        at_sentence = bool(self._lines) and self._lines[-1].endswith((".", "!", "?"))
        return self._words >= (PASSAGE_WORDS if at_sentence else 2 * PASSAGE_WORDS)

    def _close(self) -> Iterator[tuple[str, int, str]]:
        paragraph, self._lines, self._words = "\n".join(self._lines), [], 0
        if _is_prose(paragraph):
            heading = f"{self._title}: {self._member[1]}" if self._member else self._title
            yield heading, self._start, paragraph


def _is_prose(paragraph: str) -> bool:
    tokens = paragraph.split()
    wordlike = sum(_WORDLIKE.fullmatch(token) is not None for token in tokens)
    return (
        len(tokens) >= 5
        and wordlike >= 0.7 * len(tokens)
        and _SENTENCE_END.search(paragraph) is not None
    )
