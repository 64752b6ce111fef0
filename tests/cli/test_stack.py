"""A whole mesh by the command line, as people use it; each command is a process."""

import json
import os
import signal
from pathlib import Path

import pytest

from langmesh.testing import local_mesh
from tests.cli.conftest import Shell, runs, until

RESEARCH = {"coordinator": 1, "planner": 1, "researcher": 2, "writer": 1, "reviewer": 1}
QUESTION = '{"question": "How do context managers and exceptions work together?"}'


def names(services: list[dict]) -> dict[str, int]:
    found: dict[str, int] = {}
    for service in services:
        found[service["name"]] = found.get(service["name"], 0) + 1
    return found


def test_a_detached_mesh_from_up_to_down(shell: Shell):
    up = shell.json("up", "--detach")
    assert up["pid"] in shell.stack()
    status = shell.json("status")
    for key in ("nats_url", "etcd_endpoints", "otlp_endpoint"):
        assert status[key] == up[key]
    assert status["nats_url"].startswith("nats://127.0.0.1:")
    assert names(status["services"]) == RESEARCH
    for service in status["services"]:
        assert service["instance"].startswith(service["name"])
        assert runs(service["pid"])
        assert (service["state"], service["event_loop"]) == ("ready", "uvloop"), service
    assert len({service["instance"] for service in status["services"]}) == 6
    assert "researcher" in shell.call("status")

    again = shell.json("up", "--detach", code=1)["error"]
    assert again["code"] == "already_running"
    assert str(up["pid"]) in again["message"]
    assert "langmesh down" in again["remedy"]
    assert shell.json("up", code=1)["error"]["code"] == "already_running"

    routes = shell.json("routes", "research")
    assert set(routes["nodes"]) == set(RESEARCH) - {"coordinator"}
    assert routes["bindings"]["planner"]["subject"] == "mesh.v1.exec.default.research.planner.v1"
    mermaid = shell.call("routes", "research", "--mermaid")
    assert "planner" in mermaid
    assert "-->" in mermaid or "-.->" in mermaid
    assert "mesh.v1.exec.default.research.writer.v1" in shell.call("routes", "research")

    bound = shell.json("bind", "research", "writer", "--release", "x", "--encoding", "json")
    assert bound["subject"] == "mesh.v1.exec.default.research.writer.x"
    assert bound["consumer"] == "default=research=writer=x"
    binding = shell.json("routes", "research")["bindings"]["writer"]
    assert (binding["release"], binding["encoding"]) == ("x", "json")
    unknown = shell.json("bind", "research", "nobody", "--release", "x", code=1)["error"]
    assert unknown["code"] == "unknown_node"
    assert "reviewer" in unknown["message"]
    assert shell.json("unbind", "research", "writer")["release"] == "v1"
    binding = shell.json("routes", "research")["bindings"]["writer"]
    assert binding == {"subject": "mesh.v1.exec.default.research.writer.v1", "release": "v1"}

    (shell.folder / "question.json").write_text(QUESTION)
    lines = shell.call("run", "research", "--input", "@question.json", "--json").splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "run.accepted.v1"
    ended = events[-1]
    assert (ended["type"], ended["status"]) == ("run.ended.v1", "success")
    assert ended["output"]["citations"]
    told = shell.call("run", "research", "--input", QUESTION, "--thread", "a thread")
    assert "on thread a thread" in told
    assert "success after" in told

    refused = shell.json("run", "research", "--input", '{"question": 7}', code=1)["error"]
    assert (refused["code"], "input.question" in refused["message"]) == ("invalid_input", True)
    unknown = shell.json("run", "nosuch", "--input", "{}", code=1)["error"]
    assert (unknown["code"], "research" in unknown["message"]) == ("unknown_graph", True)

    # Agents send their spans in batches, a moment after the run has ended.
    expected = 1 + 3 * ended["tasks"]
    seen = lambda: shell.json("trace", ended["run_id"])["spans"]  # noqa: E731
    until(lambda: len(seen()) == expected)
    assert {span["trace_id"] for span in seen()} == {ended["trace_id"]}
    tree = shell.call("trace", ended["run_id"])
    assert "invoke_workflow research" in tree
    assert "invoke_agent planner" in tree

    lines = shell.call("logs", "--tail", "all", "--json").splitlines()
    logged = [json.loads(line) for line in lines]
    assert all({"timestamp", "level", "service", "message"} <= line.keys() for line in logged)
    assert {line["service"] for line in logged} >= {*RESEARCH, "nats-server", "etcd"}
    (refusal,) = (line for line in logged if "unknown_graph" in line["message"])
    assert refusal["service"] == "coordinator"
    assert refusal["message"] in shell.call("logs", "coordinator", "--tail", "all")

    assert shell.json("down")["stopped"] == up["pid"]
    assert not shell.stack()
    assert shell.json("status", code=1)["error"]["code"] == "not_running"
    assert shell.json("trace", ended["run_id"])["trace_id"] == ended["trace_id"], "spans are kept"


def test_a_graph_of_the_working_folder_is_served_by_generic_agents(shell: Shell):
    shell.call("up", "numbers_app:graph", "--detach")
    assert names(shell.json("status")["services"]) == {
        "coordinator": 1,
        "double": 1,
        "increment": 1,
    }
    for service in shell.json("status")["services"]:
        assert service["event_loop"] == "uvloop"
    ended = shell.json("run", "numbers_app", "--input", '{"number": 20}')
    assert (ended["status"], ended["output"]) == ("success", {"number": 41})
    shell.call("down")

    # Another graph in the same home: what is stored of the first one does not count for it.
    (shell.folder / "more_app.py").write_text((shell.folder / "numbers_app.py").read_text())
    shell.call("up", "more_app:graph", "--detach")
    ended = shell.json("run", "more_app", "--input", '{"number": 1}')
    assert ended["output"] == {"number": 3}
    shell.call("down")
    assert not shell.stack()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_mesh_in_the_foreground_ends_with_all_that_belongs_to_it(shell: Shell, number: int):
    process = shell.start("up", "numbers_app:graph")
    until(lambda: (shell.home / "mesh.json").exists() or process.poll() is not None)
    services = [service["pid"] for service in shell.json("status")["services"]]
    stack = shell.stack()
    assert {process.pid, *services} <= stack.keys()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "the mesh is up" in out
    assert "stopping" in out
    assert "Traceback" not in err
    assert not shell.stack()
    assert not (shell.home / "mesh.json").exists()


def test_a_mesh_that_is_stopped_while_it_starts_leaves_nothing(shell: Shell):
    process = shell.start("up", "numbers_app:graph")
    until(lambda: any("coordinator" in command for command in shell.stack().values()))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert not shell.stack()


def test_a_killed_supervisor_leaves_no_orphans_and_its_home_can_be_used_again(shell: Shell):
    up = shell.json("up", "numbers_app:graph", "--detach")
    pids = set(shell.stack())
    assert len(pids) >= 5
    os.kill(up["pid"], signal.SIGKILL)
    until(lambda: not shell.stack(), 10)
    assert (shell.home / "mesh.json").exists(), "nobody took it back"
    assert shell.json("status", code=1)["error"]["code"] == "not_running"
    assert shell.json("down", code=1)["error"]["code"] == "not_running"

    # What the killed services had registered may still stand; it does not count.
    shell.call("up", "numbers_app:graph", "--detach")
    new = {service["pid"] for service in shell.json("status")["services"]}
    assert new & set(shell.stack())
    ended = shell.json("run", "numbers_app", "--input", '{"number": 1}')
    assert ended["output"] == {"number": 3}
    shell.call("down")


def test_the_pid_of_a_killed_mesh_may_be_another_programs(shell: Shell):
    shell.json("up", "numbers_app:graph", "--detach")
    text = (shell.home / "mesh.json").read_text()
    shell.call("down")
    state = json.loads(text)
    state["pid"] = os.getpid()
    (shell.home / "mesh.json").write_text(json.dumps(state))
    assert shell.json("down", code=1)["error"]["code"] == "not_running"


def test_a_service_that_dies_is_started_again(shell: Shell):
    shell.call("up", "numbers_app:graph", "--detach")
    before = {s["name"]: s["pid"] for s in shell.json("status")["services"]}
    os.kill(before["double"], signal.SIGKILL)
    ended = shell.json("run", "numbers_app", "--input", '{"number": 4}')
    assert ended["output"] == {"number": 9}
    after = {s["name"]: s["pid"] for s in shell.json("status")["services"]}
    assert after["increment"] == before["increment"]
    shell.call("down")


def test_the_demo_ends_with_one_line_of_json(shell: Shell):
    out = shell.call("demo", "--json")
    (line,) = out.splitlines()
    demo = json.loads(line)
    assert set(demo) >= {"run_id", "thread_id", "trace_id", "status", "supersteps", "tasks"}
    assert demo["status"] == "success"
    assert names(demo["services"]) == RESEARCH
    assert all({"name", "instance", "pid"} <= service.keys() for service in demo["services"])
    assert demo["output"]["answer"]
    assert demo["output"]["citations"]
    assert demo["tasks"] >= demo["supersteps"] >= 4
    assert not shell.stack()
    assert shell.json("trace", demo["run_id"])["trace_id"] == demo["trace_id"]


async def test_existing_servers_are_used_instead_of_embedded_ones(shell: Shell, tmp_path: Path):
    async with local_mesh() as mesh:
        shell.env = {
            "NATS_URL": mesh.nats_url,
            "ETCD_ENDPOINTS": ",".join(mesh.etcd_endpoints),
        }
        up = shell.json("up", "numbers_app:graph", "--detach")
        assert up["nats_url"] == mesh.nats_url
        assert up["etcd_endpoints"] == list(mesh.etcd_endpoints)
        commands = " ".join(shell.stack().values())
        assert "nats-server" not in commands
        assert "etcd " not in commands
        ended = shell.json("run", "numbers_app", "--input", '{"number": 1}')
        assert ended["output"] == {"number": 3}
        shell.call("down")
        assert not shell.stack()
        assert (await mesh.bus.api("STREAM.INFO.SUBMIT"))["config"]["name"] == "SUBMIT"
