"""Where a graph's code is, and what its modules and the graph are called."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.loading import load
from langmesh.graphs.sources import default_name, find, parse_source

GRAPH = """
from typing import TypedDict
from langgraph.graph import START, StateGraph

class State(TypedDict):
    number: int

builder = StateGraph(State)
builder.add_node("double", lambda state: {"number": 2 * state["number"]})
builder.add_edge(START, "double")
graph = builder.compile()

def plain(): return graph
def configured(config): return builder
def optional(config=None): return builder
async def later(): return graph
async def later_configured(config):
    assert config["configurable"] == {}
    return graph
def greedy(config, runtime): return graph
def failing(): raise RuntimeError("no key")
text = "graph"
"""


@pytest.mark.parametrize(
    ("text", "name", "ref"),
    [
        ("pkg.mod:graph", "mod", "pkg.mod:graph"),
        ("pkg.graph:graph", "pkg", "pkg.graph:graph"),
        ("app.py:graph", "graph", "app.py:graph"),
        ("/srv/shop/app.py:graph", "shop", "/srv/shop/app.py:graph"),
        ("sales=/srv/shop/app.py:graph", "sales", "/srv/shop/app.py:graph"),
        ("a name=app:made.graph", "a name", "app:made.graph"),
    ],
)
def test_a_source_has_a_name_and_a_reference(text: str, name: str, ref: str):
    source = parse_source(text)
    assert (source.name, source.ref) == (name, ref)
    assert parse_source(str(source)) == source
    assert "=" in text or default_name(text) == name


@pytest.mark.parametrize("text", ["", "app", "app.py", ":graph", "app:", "=app:graph", "name="])
def test_what_is_no_source_is_refused_with_the_form_to_use(text: str):
    with pytest.raises(MeshError) as caught:
        parse_source(text)
    assert caught.value.code is ErrorCode.GRAPH_IMPORT_FAILED
    assert "MODULE:ATTRIBUTE" in caught.value.message


@pytest.mark.parametrize(
    "attribute",
    ["graph", "builder", "plain", "configured", "optional", "later", "later_configured"],
)
async def test_a_graph_a_builder_or_a_factory_is_served(tmp_path: Path, attribute: str):
    (tmp_path / "several_kinds.py").write_text(GRAPH)
    # Inside a running loop, as in a coordinator.
    assert asyncio.get_running_loop()
    loaded = load(f"{tmp_path}/several_kinds.py:{attribute}", tenant="default")
    assert list(loaded.topology.nodes) == ["double"]
    assert loaded.topology.source == f"{tmp_path}/several_kinds.py:{attribute}"


@pytest.mark.parametrize(
    ("attribute", "code", "words"),
    [
        ("greedy", ErrorCode.GRAPH_IMPORT_FAILED, "missing 1 required"),
        ("failing", ErrorCode.GRAPH_IMPORT_FAILED, "no key"),
        ("text", ErrorCode.GRAPH_NOT_SUPPORTED, "is a str"),
        ("nothing", ErrorCode.GRAPH_IMPORT_FAILED, "no attribute 'nothing'"),
    ],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, attribute: str, code: ErrorCode, words: str):
    (tmp_path / "several_kinds.py").write_text(GRAPH)
    with pytest.raises(MeshError) as caught:
        load(f"{tmp_path}/several_kinds.py:{attribute}", tenant="default")
    assert caught.value.code is code
    assert words in caught.value.message


def test_a_name_is_taken_from_the_source(tmp_path: Path):
    (tmp_path / "several_kinds.py").write_text(GRAPH)
    loaded = load(f"sales={tmp_path}/several_kinds.py:graph", tenant="default")
    assert loaded.topology.graph == "sales"


def test_a_file_of_a_package_is_the_module_that_its_package_imports(tmp_path: Path):
    package = tmp_path / "shop_package" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("from shop_package.inner.agent import value\n")
    (package / "agent.py").write_text("from ..other import value\n")
    (package.parent / "other.py").write_text("value = object()\n")
    value = find(f"{package}/agent.py:value")
    assert value is sys.modules["shop_package.inner.agent"].value
    assert value is sys.modules["shop_package.other"].value


def test_files_of_one_name_in_two_folders_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "agent.py").write_text(f"class State: pass\nname = '{folder}'\n")
    for folder in ("second", "first"):
        assert find(f"{tmp_path}/{folder}/agent.py:name") == folder
        assert find(f"{folder}/agent.py:State").__module__ == f"{folder}.agent"
    assert find("first/agent.py:State") is find("first/agent.py:State")


def test_a_file_of_the_working_folder_is_its_plain_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plain_app.py").write_text("from plain_helper import value\n")
    (tmp_path / "plain_helper.py").write_text("value = 7\n")
    assert find(f"{tmp_path}/plain_app.py:value") == 7
    assert sys.modules["plain_app"].value == 7


def test_a_file_outside_may_import_its_neighbours(tmp_path: Path):
    (tmp_path / "lone_app.py").write_text("from lone_helper import value\n")
    (tmp_path / "lone_helper.py").write_text("value = 7\n")
    assert find(f"{tmp_path}/lone_app.py:value") == 7


def test_a_file_whose_name_is_taken_is_refused(tmp_path: Path):
    (tmp_path / "json.py").write_text("graph = 1\n")
    with pytest.raises(MeshError) as caught:
        find(f"{tmp_path}/json.py:graph")
    assert "'json' exists already" in caught.value.message
    assert "Rename" in caught.value.remedy


def test_what_an_import_raises_is_told_with_its_place(tmp_path: Path):
    (tmp_path / "broken_app.py").write_text("import sys\ndef f(:\n")
    with pytest.raises(MeshError) as caught:
        find(f"{tmp_path}/broken_app.py:graph")
    assert "SyntaxError" in caught.value.message
    assert "line 2" in caught.value.message
    (tmp_path / "broken_app.py").write_text("value = 7\n")
    assert find(f"{tmp_path}/broken_app.py:value") == 7, "nothing of the failure is left"


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(MeshError) as caught:
        find(f"{tmp_path}/none.py:graph")
    assert "there is no such file" in caught.value.message


def test_reading_a_source_imports_no_langgraph():
    code = (
        "import sys, langmesh.stack.project; sys.exit('langgraph' in sys.modules or 'watchfiles'"
        " in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
