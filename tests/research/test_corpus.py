"""The folder that LANGMESH_CORPUS names, and the index over it."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from langmesh.errors import ErrorCode, MeshError
from services.researcher import corpus as corpus_module
from services.researcher.corpus import PASSAGES_MAX, Passage, read_corpus
from services.researcher.index import Index, load_index

ROOT = Path(__file__).parents[2]
ZEPPELIN = "A zeppelin is a rigid airship whose frame of metal rings holds the gas cells inside."


async def test_a_folder_replaces_the_corpus(run, corpus: Path):
    (corpus / "ships").mkdir()
    (corpus / "ships" / "air.md").write_text(f"# Airships\n\nIntro.\n\n{ZEPPELIN}\n")
    output, updates = await run("What are zeppelins?")
    assert output["answer"] == f"{ZEPPELIN} [1]"
    assert output["citations"] == [
        {"id": 1, "source": "ships/air.md", "line": 5, "quote": ZEPPELIN}
    ]
    assert [name for name, _ in updates].count("planner") == 1


@pytest.mark.parametrize("make", [False, True])
async def test_a_missing_or_empty_folder_is_named(run, corpus: Path, make: bool):
    folder = corpus / "nothing here"
    if make:
        folder.mkdir()
        (folder / "picture.png").write_bytes(b"\x89PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGMESH_CORPUS", str(folder))
        with pytest.raises(MeshError) as caught:
            await run("What are zeppelins?")
    assert caught.value.code is ErrorCode.CORPUS_MISSING
    assert str(folder) in caught.value.message


async def test_a_corpus_that_appears_is_read_without_a_restart(run, corpus: Path):
    with pytest.raises(MeshError):
        await run("What are zeppelins?")
    (corpus / "air.txt").write_text(ZEPPELIN)
    output, _ = await run("What are zeppelins?")
    assert output["citations"][0]["source"] == "air.txt"


def test_reads_each_kind_of_file_with_lines_and_titles(tmp_path: Path):
    sentence = "The {} tells what this short paragraph of prose is about."
    (tmp_path / "a.rst").write_text(f"Title A\n=======\n\n{sentence.format('rst')}\n")
    (tmp_path / "b.md").write_text(f"# Title B\n{sentence.format('md')}\n\n- {ZEPPELIN}\n")
    (tmp_path / "c.py").write_text(
        f'x = 1\n\n\nclass C:\n    """C.\n\n    {sentence.format("class")}\n    """\n\n'
        f'    def f(self):\n        """{sentence.format("function")}"""\n'
    )
    (tmp_path / "d.txt").write_text(f"{sentence.format('txt')}\n")
    (tmp_path / "e.log").write_text(sentence.format("log"))
    (tmp_path / ".hidden.txt").write_text(sentence.format("hidden"))
    (tmp_path / "broken.py").write_text("def (:\n")
    found = [(p.source, p.line, p.title, p.text) for p in read_corpus(str(tmp_path))]
    assert found == [
        ("a.rst", 4, "Title A", sentence.format("rst")),
        ("b.md", 2, "Title B", f"{sentence.format('md')}\n\n{ZEPPELIN}"),
        ("c.py", 7, "c.C", sentence.format("class")),
        ("c.py", 11, "c.C.f", sentence.format("function")),
        ("d.txt", 1, "d", sentence.format("txt")),
    ]


def test_leaves_out_code_and_repetitions(tmp_path: Path):
    code = "    for x in range(10):\n        print(x[0], y[1])  # done.\n"
    (tmp_path / "a.txt").write_text(f"{ZEPPELIN}\n\n{code}\n\n{ZEPPELIN}\n")
    (tmp_path / "b.txt").write_text(f"{ZEPPELIN}\n\n{ZEPPELIN}\n")
    (passage,) = read_corpus(str(tmp_path))
    assert passage.text == f"{ZEPPELIN}\n\n{ZEPPELIN}"
    assert passage.source == "a.txt"


def test_passages_are_bounded_in_words_and_number(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(corpus_module, "PASSAGES_MAX", 3)
    (tmp_path / "one_line.txt").write_text(
        " ".join(f"{ZEPPELIN} It has number {i} of all." for i in range(400))
    )
    with caplog.at_level(logging.WARNING):
        passages = read_corpus(str(tmp_path))
    assert len(passages) == 3
    assert all(len(p.text.split()) <= 300 for p in passages)
    assert "one_line.txt" in caplog.text


def test_the_default_corpus_is_small_and_indexed_fast():
    started = time.process_time()
    index = Index(read_corpus(""))
    seconds = time.process_time() - started
    assert 300 < len(index) < PASSAGES_MAX
    # 0.6 s of a core's time; what other processes take does not count.
    assert seconds < 5


def test_searches_words_titles_and_beginnings():
    index = Index([Passage("a", 1, "Airships", ZEPPELIN), Passage("b", 1, "B", "Something else.")])
    for query in ("What are zeppelins?", "airship", "zepp*"):
        ((passage, score),) = index.search(query, 4)
        assert passage.source == "a"
        assert score > 0
    assert index.search("quaternions", 4) == []
    assert index.search("what is it?", 4) == []
    assert len(index.search("zeppelin something", 1)) == 1


def test_the_index_is_built_once_and_prints_nothing(corpus: Path, capfd):
    (corpus / "a.txt").write_text(ZEPPELIN)
    index = load_index(str(corpus))
    index.search("zeppelin", 1)
    assert load_index(str(corpus)) is index
    assert capfd.readouterr() == ("", "")


def test_the_index_imports_no_accelerator_that_happens_to_be_installed(tmp_path: Path):
    for name in ("jax", "numba", "scipy", "tqdm"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    code = (
        "import sys\n"
        "from services.researcher.index import load_index\n"
        "load_index('').search('exceptions', 3)\n"
        "assert not {'jax', 'numba', 'scipy', 'tqdm'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT / 'shared'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_reading_stops_at_the_limit(tmp_path: Path):
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"{ZEPPELIN} It has number {number} of all.")
    assert [p.source for p in islice(read_corpus(str(tmp_path)), 2)] == ["0.txt", "1.txt"]
