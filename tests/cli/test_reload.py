"""Changed code goes into a running mesh; what runs meanwhile is not lost."""

import json
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.cli.conftest import Shell, until

APP = """
    import asyncio, operator
    from pathlib import Path
    from typing import Annotated, TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        said: Annotated[list[str], operator.add]

    async def first(state):
        return {"said": ["VERSION"]}

    async def second(state):
        Path("second-runs").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.02)
        return {"said": ["end"]}

    graph = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
"""
LAZY_GRAPH = """
    import operator
    from typing import Annotated, TypedDict
    from langgraph.graph import START, StateGraph
    from langmesh import lazy

    class State(TypedDict):
        said: Annotated[list[str], operator.add]

    graph = StateGraph(State)
    graph.add_node("speak", lazy("body:speak"))
    graph.add_edge(START, "speak")
"""
BODY = """
    def speak(state):
        return {"said": ["VERSION"]}
"""


def app(text: str, version: str) -> str:
    return textwrap.dedent(text).replace("VERSION", version)


def told(process: subprocess.Popen[str]) -> dict:
    """What the next change came to."""
    assert process.stdout is not None
    for line in process.stdout:
        if "reload" in (found := json.loads(line)):
            return found["reload"]
    raise AssertionError("the mesh has ended")


def up(shell: Shell, *args: str) -> subprocess.Popen[str]:
    process = shell.start("up", *args, "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["pid"] == process.pid
    return process


def pids(shell: Shell) -> dict[str, int]:
    return {
        service["name"]: service["pid"]
        for service in shell.json("status")["services"]
        if service["state"] == "ready"
    }


def test_a_run_that_is_under_way_ends_once_with_the_new_code(shell: Shell):
    code = shell.folder / "talk.py"
    code.write_text(app(APP, "old"))
    mesh = up(shell, "talk.py:graph")
    run = shell.start("run", "talk", "--input", '{"said": []}', "--json")
    until((shell.folder / "second-runs").exists)
    code.write_text(app(APP, "new"))
    reload = told(mesh)
    assert reload["error"] is None
    assert reload["files"] == ["talk.py"]
    assert reload["services"] == ["coordinator", "first", "second"]
    (shell.folder / "go").touch()
    out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    ends = [
        event for line in out.splitlines() if "run.ended" in (event := json.loads(line))["type"]
    ]
    assert [end["status"] for end in ends] == ["success"]
    assert ends[0]["output"]["said"][-1] == "end"
    assert shell.json("run", "talk", "--input", '{"said": []}')["output"]["said"] == ["new", "end"]
    shell.call("down")


def test_threads_stay_when_only_an_agent_imports_the_changed_code(shell: Shell):
    (shell.folder / "talk.py").write_text(app(LAZY_GRAPH, ""))
    body = shell.folder / "body.py"
    body.write_text(app(BODY, "old"))
    mesh = up(shell, "talk.py:graph")
    say = ("run", "talk", "--input", '{"said": []}', "--thread", "t")
    assert shell.json(*say)["output"]["said"] == ["old"]
    before = pids(shell)

    # What an agent alone imports is looked at too, although the graph's import does not show it.
    body.write_text("def speak(state)\n")
    assert "SyntaxError" in told(mesh)["error"]["message"]
    body.write_text("import no_such_module\n")
    assert "no_such_module" in told(mesh)["error"]["message"]
    assert shell.json(*say)["output"]["said"] == ["old", "old"]
    body.write_text(app(BODY, "new"))
    assert told(mesh)["services"] == ["speak"]
    assert shell.json(*say)["output"]["said"] == ["old", "old", "new"]
    until(lambda: pids(shell)["speak"] != before["speak"])
    assert pids(shell)["coordinator"] == before["coordinator"]

    (shell.folder / "tests").mkdir()
    (shell.folder / "tests" / "helper.py").write_text("x = 1\n")
    body.write_text(app(BODY, "newer"))
    assert "body.py" in told(mesh)["files"], "a change of tests alone concerns no service"
    shell.call("down")


def test_a_service_that_dies_while_the_code_is_broken_is_back_with_the_next_change(shell: Shell):
    code = shell.folder / "numbers_app.py"
    good = code.read_text()
    mesh = up(shell, "numbers_app.py:graph")
    code.write_text(good.replace("class State", "clas State"))
    assert told(mesh)["error"]["code"] == "graph_import_failed"
    os.kill(pids(shell)["double"], signal.SIGKILL)
    down = told(mesh)
    assert down["files"] == []
    assert "double" in down["error"]["message"]
    code.write_text(good.replace("2 *", "3 *"))
    assert told(mesh)["error"] is None
    ended = shell.json("run", "numbers_app", "--input", '{"number": 10}')
    assert ended["output"] == {"number": 31}
    mesh.send_signal(signal.SIGTERM)
    assert mesh.wait(30) == 0


@pytest.mark.parametrize("arguments", [["gone.py:graph"], ["numbers_app.py"], ["gone.json"]])
def test_what_cannot_be_served_is_told_before_anything_starts(shell: Shell, arguments: list[str]):
    error = shell.json("up", *arguments, code=1)["error"]
    assert error["code"] in {"graph_import_failed", "invalid_project"}
    assert Path(arguments[0].partition(":")[0]).stem in error["message"]
    assert not shell.home.exists()
