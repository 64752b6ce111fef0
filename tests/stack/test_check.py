"""New code is tried out, and what each agent imports of it is found."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from langmesh.errors import ErrorCode, MeshError
from langmesh.stack.check import Checked, check

GRAPH = """
    from typing import TypedDict
    from langgraph.graph import START, StateGraph
    from langmesh import lazy
    from shop import state

    graph = StateGraph(state.State)
    graph.add_node("near", lambda state: state)
    graph.add_node("first", lazy("shop.first:run"))
    graph.add_node("second", lazy("shop.second:run"))
    graph.add_edge(START, "near").add_edge("near", "first").add_edge("first", "second")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    files = {
        "graph": GRAPH,
        "state": "from typing import TypedDict\nclass State(TypedDict):\n    n: int",
        "common": "import json",
        "deep/__init__": "",
        "deep/tool": "from . import inner",
        "deep/inner": "",
        "first": "from shop.common import json\nimport shop.deep.tool\nrun = dict",
        "second": "from .common import json\nrun = dict",
        "__init__": "",
    }
    for name, text in files.items():
        path = tmp_path / "shop" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "shop"


async def look(shop: Path) -> Checked:
    path = os.pathsep.join([str(shop.parent), *filter(None, sys.path)])
    return await check([f"shop={shop}/graph.py:graph"], {"PYTHONPATH": path})


def named(shop: Path, files: list[str]) -> set[str]:
    return {str(Path(file).relative_to(shop).with_suffix("")) for file in files}


async def test_the_files_of_the_graph_and_of_each_lazy_node_are_told_apart(shop: Path):
    found = await look(shop)
    assert found.nodes == {"shop": ["near", "first", "second"]}
    assert named(shop, found.files) == {"__init__", "graph", "state"}
    bodies = {node: named(shop, body.files) for node, body in found.bodies["shop"].items()}
    assert bodies == {
        "first": {"__init__", "first", "common", "deep/__init__", "deep/tool", "deep/inner"},
        "second": {"__init__", "second", "common"},
    }


async def test_a_body_that_cannot_be_imported_is_told_with_its_files(shop: Path):
    (shop / "deep" / "tool.py").write_text("import no_such_module")
    bodies = (await look(shop)).bodies["shop"]
    assert bodies["second"].failure is None
    failure = bodies["first"].failure
    assert failure is not None
    assert "no_such_module" in failure.message
    assert {"first", "deep/tool"} <= named(shop, bodies["first"].files)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("graph = 1", "is a int"),
        ("import no_such_module", "no_such_module"),
        ("def f(:", "SyntaxError"),
        ("print('gone', flush=True); import os; os._exit(3)", "ended the process"),
    ],
)
async def test_a_graph_that_cannot_be_served_is_refused(shop: Path, text: str, words: str):
    (shop / "graph.py").write_text(text)
    with pytest.raises(MeshError) as caught:
        await look(shop)
    assert caught.value.code in {ErrorCode.GRAPH_IMPORT_FAILED, ErrorCode.GRAPH_NOT_SUPPORTED}
    assert words in caught.value.message
    assert caught.value.remedy


def test_what_the_modules_print_and_start_does_not_matter(shop: Path):
    noisy = "import threading, time\nprint('loud', end='')\n"
    noisy += "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    graph = shop / "graph.py"
    graph.write_text(noisy + graph.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "langmesh.stack.check", f"{graph}:graph"],
        env={"PYTHONPATH": os.pathsep.join([str(shop.parent), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("loud\n{")
