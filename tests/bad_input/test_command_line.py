"""Whatever is wrong with a command: exit code, what is wrong and the way out, and no traceback."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from langmesh.embedded.nats import EmbeddedNats
from langmesh.embedded.process import Guard
from langmesh.errors import ErrorCode, MeshError
from langmesh.testing import local_mesh

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "127.0.0.1:1"
RUN = ("run", "research", "--input")


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    args: tuple[str, ...]
    code: str
    says: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    """``{home}`` stands for a folder, ``{nats}`` and ``{etcd}`` for servers that run."""


def setting(name: str, value: str, *says: str) -> Case:
    return Case(f"{name}={value}", ("status",), "invalid_setting", (name, *says), {name: value})


CASES = [
    Case("status without a mesh", ("status",), "not_running", ("home", "langmesh up")),
    Case("down without a mesh", ("down",), "not_running", ("home", "langmesh up")),
    Case("run without a mesh", (*RUN, "{}"), "not_running", ("NATS_URL",)),
    Case("routes without a mesh", ("routes", "x"), "not_running", ("langmesh up",)),
    Case("trace of no run", ("trace", "nosuch"), "unknown_trace", ("'nosuch'", "collector")),
    Case("input of no JSON", (*RUN, '{"question"'), "invalid_input", ("--input", "Quote it")),
    Case("input file missing", (*RUN, "@nofile"), "invalid_input", ("@nofile", "No such file")),
    Case("input a folder", (*RUN, "@."), "invalid_input", ("--input @.", "directory")),
    Case("input file not text", (*RUN, "@binary"), "invalid_input", ("binary", "utf-8")),
    Case("standard input empty", (*RUN, "-"), "invalid_input", ("standard input",)),
    Case("submit without a mesh", ("submit", "x", "--input", "1"), "not_running", ("NATS_URL",)),
    Case("runs without a mesh", ("runs", "ls"), "not_running", ("langmesh up",)),
    Case("events without a mesh", ("events",), "not_running", ("langmesh up",)),
    Case("logs without a mesh", ("logs",), "not_running", ("home/logs", "LANGMESH_HOME")),
    Case("config of no JSON", (*RUN, "1", "--config", "{"), "invalid_input", ("--config", "Quote")),
    Case(
        "an answer of no JSON",
        ("runs", "resume", "t", "--graph", "g", "--value", "yes"),
        "invalid_input",
        ("--value", "Quote"),
    ),
    Case(
        "an unknown field of config",
        ("submit", "x", "--input", "1", "--config", '{"recursion": 3}'),
        "invalid_field",
        ("config", "recursion"),
        {"NATS_URL": "{nats}"},
    ),
    Case(
        "a graph that is no name",
        ("submit", "", "--input", "1"),
        "invalid_name",
        ("graph",),
        {"NATS_URL": "{nats}"},
    ),
    Case(
        "runs of a graph that is no name",
        ("runs", "ls", "--graph", "x" * 200),
        "invalid_name",
        ("graph",),
        {"NATS_URL": "{nats}"},
    ),
    Case(
        "a run without a coordinator",
        ("runs", "show", "x"),
        "broker_unavailable",
        ("run.get", "langmesh status"),
        {"NATS_URL": "{nats}"},
    ),
    setting("LANGMESH_MAX_INFLIGHT", "1", "not a setting", "LANGMESH_MAX_IN_FLIGHT"),
    setting("LANGMESH_MAX_IN_FLIGHT", "many", "whole number", "unset"),
    setting("LANGMESH_MAX_IN_FLIGHT", "0", "at least 1"),
    setting("LANGMESH_SAMPLE_RATIO", "half", "0 to 1"),
    setting("LANGMESH_LOG_LEVEL", "LOUD", "DEBUG"),
    setting("NATS_URL", "127.0.0.1:4222", "nats://HOST:PORT"),
    setting("NATS_URL", "nats://127.0.0.1:port", "'port'"),
    setting("NATS_URL", "nats://127.0.0.1:70000", "'70000'"),
    setting("ETCD_ENDPOINTS", "localhost", "HOST:PORT"),
    setting("ETCD_ENDPOINTS", "127.0.0.1:0", "HOST:PORT"),
    setting("OTEL_EXPORTER_OTLP_PROTOCOL", "udp", "http/protobuf"),
    Case(
        "nats-server down",
        (*RUN, "{}"),
        "broker_unavailable",
        ("nats://127.0.0.1:1", "refused", "NATS_URL"),
        {"NATS_URL": f"nats://{NOWHERE}"},
    ),
    Case(
        "status with etcd down",
        ("status",),
        "registry_unavailable",
        (NOWHERE, "ETCD_ENDPOINTS"),
        {"NATS_URL": "{nats}", "ETCD_ENDPOINTS": NOWHERE},
    ),
    Case(
        "routes with etcd down",
        ("routes", "research"),
        "registry_unavailable",
        (NOWHERE, "ETCD_ENDPOINTS"),
        {"NATS_URL": "{nats}", "ETCD_ENDPOINTS": NOWHERE},
    ),
    Case(
        "routes of no graph",
        ("routes", "nosuch"),
        "unknown_graph",
        ("'nosuch'", "none", "langmesh up"),
        {"NATS_URL": "{nats}", "ETCD_ENDPOINTS": "{etcd}"},
    ),
    Case("up with no module", ("up", "nosuch:graph"), "graph_import_failed", ("nosuch", "MODULE:")),
    Case("up with no attribute", ("up", "raising"), "graph_import_failed", ("MODULE:ATTRIBUTE",)),
    Case(
        "up with a module that raises",
        ("up", "raising:graph"),
        "graph_import_failed",
        ("raising:graph", "RuntimeError: out of order", "import"),
    ),
    Case(
        "up with a factory that raises",
        ("up", "factory:make"),
        "graph_import_failed",
        ("factory:make", "calling make", "KeyError", "without parameters"),
    ),
    Case(
        "up with a program",
        ("up", "factory:leave"),
        "graph_import_failed",
        ("factory:leave", "SystemExit"),
    ),
    Case("up with a number", ("up", "raising:f"), "graph_import_failed", ("raising:f",)),
    Case(
        "up with no graph, detached",
        ("up", "number:graph", "--detach"),
        "graph_not_supported",
        ("number:graph", "int", "StateGraph"),
    ),
    Case(
        "up in a home that is a file",
        ("up", "--detach"),
        "invalid_setting",
        ("LANGMESH_HOME", "File exists", "folder"),
        {"LANGMESH_HOME": "{home}/../number.py"},
    ),
    Case("no corpus", ("demo", "--corpus", "/nosuch"), "corpus_missing", ("/nosuch", ".txt")),
    Case("an empty corpus", ("demo", "--corpus", "empty"), "corpus_missing", ("empty", "no text")),
    Case(
        "a corpus of the environment",
        ("demo",),
        "corpus_missing",
        ("LANGMESH_CORPUS", "/nosuch"),
        {"LANGMESH_CORPUS": "/nosuch"},
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "raising.py").write_text("raise RuntimeError('out of order')\n")
    (tmp_path / "factory.py").write_text(
        "import sys\ndef make():\n    raise KeyError('model')\ndef leave():\n    sys.exit(3)\n"
    )
    (tmp_path / "number.py").write_text("graph = 42\n")
    return tmp_path


@pytest.fixture(scope="module")
def lent() -> Iterator[dict[str, str]]:
    """Servers that run."""
    import asyncio

    with asyncio.Runner() as runner:
        context = local_mesh()
        mesh = runner.run(context.__aenter__())
        yield {"nats": mesh.nats_url, "etcd": ",".join(mesh.etcd_endpoints)}
        runner.run(context.__aexit__(None, None, None))


def langmesh(
    folder: Path, *args: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LANGMESH_", "OTEL_"))}
    paths = f"{ROOT / 'shared'}{os.pathsep}{ROOT}"
    return subprocess.run(
        [sys.executable, "-m", "langmesh.cli", *args],
        cwd=folder,
        env={**kept, "PYTHONPATH": paths, "LANGMESH_HOME": str(folder / "home"), **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_failing_command_says_what_is_wrong_and_how_to_mend_it(
    folder: Path, lent: dict[str, str], case: Case
):
    values = {"home": str(folder / "home"), **lent}
    env = {name: text.format(**values) for name, text in case.env.items()}
    done = langmesh(folder, *case.args, "--json", env=env)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr, done.stderr
    error = json.loads(done.stdout.splitlines()[-1])["error"]
    assert error["code"] == case.code, error
    assert ErrorCode(error["code"])
    assert error["message"] in done.stderr, "people read the same as programs"
    assert error["remedy"] in done.stderr
    for words in case.says:
        assert words in f"{error['message']} {error['remedy']}", error
    left = list((folder / "home").glob("mesh.json"))
    assert not left


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "COMMAND"),
        (("bogus",), "'bogus'"),
        (("run",), "GRAPH, --input"),
        (("trace",), "RUN"),
        (("bench", "chain", "--steps", "0"), "at least 1"),
        (("status", "--jsn"), "--jsn"),
        (("up", "--nats-port", "70000"), "0 to 65535"),
        (("submit", "x", "--input", "1", "--stream", "all"), "'updates'"),
        (("runs",), "ACTION"),
        (("runs", "ls", "--status", "done"), "'success'"),
        (("events", "--since", "yesterday"), "90s"),
        (("events", "--since", "99999999999d"), "90s"),
        (("logs", "--tail", "-1"), "a number or all"),
        (("logs", "--level", "LOUD"), "'WARNING'"),
        (("completion", "fish"), "'bash'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_is_answered_with_the_right_one(folder: Path, args: tuple[str, ...], says: str):
    done = langmesh(folder, *args)
    assert done.returncode == 2
    assert "usage: langmesh" in done.stderr
    assert says in done.stderr


async def test_a_port_in_use_is_named(tmp_path: Path):
    async with Guard() as guard:
        first = EmbeddedNats(tmp_path / "one", tmp_path / "one.log", guard=guard)
        await first.start()
        second = EmbeddedNats(tmp_path / "two", tmp_path / "two.log", guard=guard, port=first.port)
        with pytest.raises(MeshError, match=str(first.port)) as caught:
            await second.start()
        assert caught.value.code is ErrorCode.PORT_IN_USE
        assert "another port" in caught.value.remedy
        assert first.running


@pytest.mark.parametrize("server", ["nats", "etcd"])
def test_up_names_a_port_that_is_taken(folder: Path, server: str):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = langmesh(folder, "up", f"--{server}-port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Choose another port" in done.stderr
