"""`langmesh new` begins a project, and leaves alone what is there."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from langmesh import __version__
from langmesh.cli import new
from langmesh.cli.main import main
from langmesh.errors import ErrorCode, MeshError


def run(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> Any:
    assert main(["new", *args, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_named_project_gets_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = run(capsys, "hello-mesh")
    folder = tmp_path / "hello-mesh"
    assert made["folder"] == str(folder)
    found = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    assert made["files"] == found
    assert {"hello_mesh/graph.py", "langgraph.json", "compose.yaml", ".gitignore"} <= set(found)
    for file in found:
        text = (folder / file).read_text()
        assert "{{" not in text, file
        if file.endswith(".py"):
            compile(text, file, "exec")
    graphs = json.loads((folder / "langgraph.json").read_text())["graphs"]
    assert graphs == {"hello-mesh": "./hello_mesh/graph.py:graph"}
    assert f"langmesh=={__version__}" in (folder / "requirements.txt").read_text()


@pytest.mark.parametrize(
    ("folder", "name"),
    [("shop", "shop"), ("tmp.X1 y", "tmp-X1-y"), ("2024", "mesh-2024"), ("json", "json-mesh")],
)
def test_without_a_name_the_working_folder_is_filled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folder: str,
    name: str,
):
    (tmp_path / folder / ".git").mkdir(parents=True)
    (tmp_path / folder / "env").mkdir()
    (tmp_path / folder / "env" / "pyvenv.cfg").touch()
    monkeypatch.chdir(tmp_path / folder)
    made = run(capsys)
    assert (made["name"], made["folder"]) == (name, str(tmp_path / folder))
    assert (tmp_path / folder / "langgraph.json").exists()


def test_a_folder_with_content_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    error = run(capsys, "mine", code=1)["error"]
    assert error["code"] == ErrorCode.INVALID_PROJECT
    assert "notes.txt" in error["message"]
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert run(capsys, code=1)["error"]["code"] == ErrorCode.INVALID_PROJECT, "mine/ is there"


def test_an_empty_folder_of_the_name_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert run(capsys, "mine")["name"] == "mine"


@pytest.mark.parametrize("name", ["9lives", "a/b", "..", "a b", "-", "é", "a" * 41])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str):
    with pytest.raises(MeshError) as caught:
        new.make(name, tmp_path / "x")
    assert caught.value.code is ErrorCode.INVALID_NAME
    assert "langmesh new" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["json", "class", "tests", "LangGraph", "langmesh"])
def test_a_name_that_would_hide_a_module_is_refused(tmp_path: Path, name: str):
    with pytest.raises(MeshError) as caught:
        new.make(name, tmp_path / "x")
    assert caught.value.code is ErrorCode.INVALID_NAME
    assert name.lower() in caught.value.message


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(MeshError) as caught:
        new.make("mine", tmp_path / "file" / "mine")
    assert caught.value.code is ErrorCode.INVALID_PROJECT


def test_the_containers_are_the_services_that_up_starts(tmp_path: Path):
    new.make("hello-mesh", tmp_path)
    services = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]
    assert services.keys() == {"nats", "etcd", "coordinator", "outline", "write"}
    commands = {name: shlex.split(service["command"]) for name, service in services.items()}
    for node in ("outline", "write"):
        assert commands[node] == ["python", "-m", "langmesh.agent", "hello-mesh", node]
    source = "hello-mesh=hello_mesh.graph:graph"
    assert commands["coordinator"] == ["python", "-m", "langmesh.coordinator", source]
    for service in services.values():
        assert service["environment"]["ETCD_ENDPOINTS"] == "etcd:2379"
        assert service["build"] == "."
