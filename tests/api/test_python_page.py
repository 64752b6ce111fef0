"""The programs of docs/python.md do what the page says."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from langmesh.testing import LocalMesh
from tests import registered

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
PROGRAM = re.compile(r"```python\n# (?P<name>\w+\.py)\n(?P<code>.*?)```", re.DOTALL)
SERVICES = {
    "coordinator": ("langmesh.coordinator", "forecast=forecasts:forecast", "trip=forecasts:trip"),
    "look": ("weather",),
    "plan": ("langmesh.agent", "trip", "plan"),
}


async def test_the_programs_of_the_page(mesh: LocalMesh, tmp_path: Path):
    for program in PROGRAM.finditer(PAGE):
        (tmp_path / program["name"]).write_text(program["code"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "forecasts.py",
        "weather.py",
        "ask.py",
        "script.py",
        "remember.py",
        "notes.py",
    }
    env = {**mesh.environ, "PYTHONPATH": f"{tmp_path}:{mesh.environ['PYTHONPATH']}"}
    children = [mesh.spawn(name, *command, env=env) for name, command in SERVICES.items()]
    async with asyncio.timeout(60):
        while len(await registered.services(mesh.etcd)) < len(SERVICES):
            for child in children:
                assert child.returncode is None, child.output()
            await asyncio.sleep(0.1)

    async def output(program: str) -> list[str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(tmp_path / program),
            env=env,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
        assert process.returncode == 0
        return told.decode().splitlines()

    plan = ["Bergen: rain", "Rome: sun"]
    assert await output("ask.py") == [
        f"updates {{'plan': {{'plan': {plan}}}}}",
        str({"cities": ["Bergen", "Rome"], "plan": plan}),
        "success",
    ]
    assert await output("script.py") == [str(["Rome: sun"])]
    said = ["hello", "answer 1"]
    assert await output("remember.py") == [str(said)]
    assert await output("remember.py") == [str([*said, "hello", "answer 3"])]
    assert await output("notes.py") == [
        str(["likes tea", "plays chess"]),
        "put ('notes', 'ada') likes tea",
    ]
