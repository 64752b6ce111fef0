"""What `langmesh up` makes of its arguments and of a langgraph.json."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.graphs.sources import GraphSource
from langmesh.stack import dotenv
from langmesh.stack.project import Project, of_arguments, of_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a graph in a package, one beside it, and one in a src layout."""
    for name in ("my_agent/agent.py", "other.py", "lib/src/inner/graph.py", "lib/pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "my_agent" / "__init__.py").touch()
    return tmp_path


def project(folder: Path, **keys: Any) -> Project:
    document = {"dependencies": ["."], "graphs": {"agent": "./my_agent/agent.py:graph"}, **keys}
    (folder / "langgraph.json").write_text(json.dumps(document))
    return of_file(folder / "langgraph.json")


def refusal(folder: Path, **keys: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        project(folder, **keys)
    assert caught.value.remedy
    return caught.value


def test_graphs_have_their_names_and_absolute_paths(folder: Path):
    found = project(
        folder,
        graphs={
            "agent": "./my_agent/agent.py:graph",
            "second": {"path": "other.py:make", "description": "…"},
            "third": "my_agent.agent:graph",
        },
    )
    assert found.sources == (
        GraphSource("agent", f"{folder}/my_agent/agent.py:graph"),
        GraphSource("second", f"{folder}/other.py:make"),
        GraphSource("third", "my_agent.agent:graph"),
    )
    assert (found.root, found.notes, found.env) == (folder, (), {})


def test_local_dependencies_are_importable_as_an_installation_makes_them(folder: Path):
    assert project(folder).paths == (folder,)
    assert project(folder, dependencies=["./my_agent"]).paths == (folder,), "a package: its parent"
    found = project(folder, dependencies=[".", "./lib"])
    assert found.paths == (folder, folder / "lib", folder / "lib" / "src")
    assert "there is no folder ./gone" in refusal(folder, dependencies=["./gone"]).message


def test_packages_that_are_not_installed_are_told(folder: Path):
    wanted = ["langgraph>=0.2", "pytest[dev]==1", "no-such-thing~=1.0", "git+ssh://git@a/b.git"]
    assert project(folder, dependencies=wanted).notes == (
        "langgraph.json: not installed here; run: pip install 'no-such-thing~=1.0'",
    )


def test_the_environment_comes_from_an_object_or_a_file_and_what_is_set_wins(folder: Path):
    (folder / ".env").write_text("KEY=from file\nPATH=never\n")
    found = project(folder, env=".env")
    environ = found.environment({"PATH": "/bin", "PYTHONPATH": "/before"})
    assert environ["KEY"] == "from file"
    assert environ["PATH"] == "/bin"
    assert environ["PYTHONPATH"] == os.pathsep.join([str(folder), "/before"])
    assert project(folder, env={"KEY": "text", "N": 1}).env == {"KEY": "text", "N": "1"}
    missing = project(folder, env=".env.local")
    assert (missing.env, len(missing.notes)) == ({}, 1)
    assert "there is no file .env.local" in missing.notes[0]


def test_keys_without_effect_are_told(folder: Path):
    found = project(folder, store={}, auth={"path": "x"}, python_version="3.12", **{"$schema": "x"})
    assert found.notes == (
        "langgraph.json: langmesh does not support auth, store; left out",
        "langgraph.json: python_version: for container images, no effect here",
    )


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"graphs": {}}, "at least one graph"),
        ({"graphs": ["x"]}, "expected an object"),
        ({"graphs": {"agent": 7}}, "graphs.agent"),
        ({"graphs": {"": "other.py:graph"}}, "not a name"),
        ({"graphs": {"agent": "./agent.ts:graph"}}, "not Python"),
        ({"dependencies": "."}, "dependencies: expected a list"),
        ({"env": 7}, "env: expected"),
        ({"env": {"A": []}}, "env: expected text"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(folder: Path, keys: dict, words: str):
    error = refusal(folder, **keys)
    assert error.code is ErrorCode.INVALID_PROJECT
    assert words in error.message


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_file_that_is_no_json_object_is_refused(folder: Path, text: bytes):
    (folder / "langgraph.json").write_bytes(text)
    with pytest.raises(MeshError) as caught:
        of_file(folder / "langgraph.json")
    assert caught.value.code is ErrorCode.INVALID_PROJECT
    assert "langgraph.json" in caught.value.message


def test_a_graph_whose_file_is_missing_is_refused(folder: Path):
    error = refusal(folder, graphs={"agent": "./gone.py:graph"})
    assert error.code is ErrorCode.GRAPH_IMPORT_FAILED
    assert f"{folder}/gone.py" in error.message


def test_arguments_name_graphs_or_a_file(folder: Path):
    found = of_arguments(["other.py:graph", "two=./my_agent/agent.py:graph", "a.b:c"], folder)
    assert found.sources == (
        GraphSource("other", f"{folder}/other.py:graph"),
        GraphSource("two", f"{folder}/my_agent/agent.py:graph"),
        GraphSource("b", "a.b:c"),
    )
    assert found.paths == (folder,)
    project(folder)
    assert of_arguments(["langgraph.json"], folder).sources[0].name == "agent"


def test_two_graphs_of_one_name_are_refused(folder: Path):
    with pytest.raises(MeshError) as caught:
        of_arguments(["other.py:graph", "x.other:graph"], folder)
    assert "other" in caught.value.message
    assert "OTHER=" in caught.value.remedy


def test_an_env_file_is_read_as_dotenv_tools_do():
    text = """\ufeff# comment
A=1
export B = two words # comment
C='a # b'\r
D="x\\n\\"y\\"" # comment
E=
F=a#b
G="two
lines"
H=it's

  I = 3"""
    assert dotenv.parse(text) == {
        "A": "1",
        "B": "two words",
        "C": "a # b",
        "D": 'x\n"y"',
        "E": "",
        "F": "a#b",
        "G": "two\nlines",
        "H": "it's",
        "I": "3",
    }
    with pytest.raises(MeshError) as caught:
        dotenv.parse("A=1\nthis is no variable\n", name=".env.local")
    assert ".env.local, line 2" in caught.value.message
