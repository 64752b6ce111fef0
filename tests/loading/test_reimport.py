"""A revision is loaded from disk beside what was imported before."""

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.loading import LoadedGraph, load
from langmesh.graphs.reimport import load_revision

GRAPH = """
    from typing import TypedDict
    from langgraph.graph import START, StateGraph
    from . import words

    class State(TypedDict, total=False):
        said: str

    def say(state):
        return {"said": words.WORD}

    graph = StateGraph(State).add_node("NAME", say).add_edge(START, "NAME")
"""


class App:
    """A package of two modules, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "reimported_app"
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        self.source = f"app={self.folder / 'graph.py'}:graph"

    def write(self, *, node: str, word: str) -> None:
        (self.folder / "graph.py").write_text(textwrap.dedent(GRAPH).replace("NAME", node))
        (self.folder / "words.py").write_text(f"WORD = {word!r}\n")

    def on_disk(self) -> str:
        """The revision of the code on disk, as the refusal of another one tells it."""
        with pytest.raises(MeshError) as refused:
            self.load("0123456789ab")
        found = re.search(r"has revision ([0-9a-f]{12})", refused.value.message)
        assert found is not None
        return found[1]

    def load(self, revision: str) -> LoadedGraph:
        return load_revision(self.source, tenant="t", name="app", revision=revision)


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path)


def said(loaded: LoadedGraph) -> Any:
    return loaded.compiled.invoke({})


def test_new_code_is_imported_as_a_whole_and_the_old_one_lives_on(app: App):
    app.write(node="first", word="old")
    old = load(app.source, tenant="t")
    assert app.load(old.topology.revision).compiled.builder is old.compiled.builder
    app.write(node="second_node", word="brand new")
    new = app.load(app.on_disk())
    assert (said(old), said(new)) == ({"said": "old"}, {"said": "brand new"})
    assert list(new.topology.nodes) == ["second_node"]


def test_what_has_another_revision_is_refused_and_nothing_changes(app: App):
    app.write(node="first", word="old")
    old = load(app.source, tenant="t")
    modules = dict(sys.modules)
    app.write(node="second_node", word="brand new")
    with pytest.raises(MeshError) as refused:
        app.load("0123456789ab")
    assert refused.value.code is ErrorCode.GRAPH_CHANGED
    assert "0123456789ab" in refused.value.message
    assert sys.modules == modules
    assert said(old) == {"said": "old"}


def test_code_that_cannot_be_imported_leaves_the_old_one_in_place(app: App):
    app.write(node="first", word="old")
    old = load(app.source, tenant="t")
    modules = dict(sys.modules)
    (app.folder / "words.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(MeshError, match="nowhere_to_be_found"):
        app.load("0123456789ab")
    assert sys.modules == modules
    app.write(node="first", word="repaired, but of the same revision")
    assert said(app.load(old.topology.revision)) == {"said": "old"}


def test_installed_packages_stay_what_they_are(app: App):
    import langgraph.graph

    from langmesh import errors

    app.write(node="first", word="old")
    load(app.source, tenant="t")
    app.write(node="second_node", word="new")
    app.load(app.on_disk())
    assert sys.modules["langgraph.graph"] is langgraph.graph
    assert sys.modules["langmesh.errors"] is errors


LAZY = """
    from typing import TypedDict
    from langgraph.graph import START, StateGraph
    from langmesh import lazy

    class State(TypedDict, total=False):
        said: str

    graph = StateGraph(State).add_node("NAME", lazy("reimported_app.words:say")).add_edge(
        START, "NAME")
"""


async def test_bodies_of_lazy_nodes_are_new_too(app: App, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(app.folder.parent))

    def write(node: str, word: str) -> None:
        (app.folder / "graph.py").write_text(textwrap.dedent(LAZY).replace("NAME", node))
        (app.folder / "words.py").write_text(f"def say(state):\n    return {{'said': {word!r}}}\n")

    write("first", "old")
    old = load(app.source, tenant="t")
    assert await old.compiled.ainvoke({}) == {"said": "old"}
    write("second_node", "brand new")
    new = app.load(app.on_disk())
    assert await new.compiled.ainvoke({}) == {"said": "brand new"}
    assert await old.compiled.ainvoke({}) == {"said": "old"}
