"""A mesh that `up` started serves what is published while it is up."""

import json

from tests.cli.conftest import GRAPH, Shell


def test_what_is_published_gets_its_agents_and_its_revisions_can_be_told_apart(shell: Shell):
    shell.json("up", "numbers_app.py:graph", "--detach", "--no-reload")
    more = shell.folder / "more_app.py"
    more.write_text(GRAPH)
    first = shell.json("publish", "more=more_app.py:graph")
    assert (first["nodes"], first["new"], first["taken"]) == (["double", "increment"], True, True)
    assert output_of(shell) == {"number": 7}

    more.write_text(GRAPH + 'graph.add_node("square", lambda s: {"number": s["number"] ** 2})\n')
    with more.open("a") as file:
        file.write('graph.add_edge("increment", "square")\n')
    second = shell.json("publish", "more=more_app.py:graph")
    assert output_of(shell) == {"number": 49}
    assert not shell.json("publish", "more=more_app.py:graph")["new"]
    assert "functions" in shell.call("publish", "more=more_app.py:graph")

    known = shell.json("routes", "more", "--revisions")
    assert [(each["revision"], each["current"]) for each in known] == [
        (second["revision"], True),
        (first["revision"], False),
    ]
    assert second["revision"] in shell.call("routes", "more", "--revisions")
    old = shell.json("routes", "more", "--revision", first["revision"][:6])
    assert list(old["nodes"]) == ["double", "increment"]
    told = shell.json("routes", "more", "--diff", first["revision"])
    assert (told["before"], told["after"]) == (first["revision"], second["revision"])
    assert told["differences"] == [
        {"kind": "changed", "what": "node increment", "before": "end", "after": "square"},
        {"kind": "added", "what": "node square", "before": "", "after": "end"},
    ]
    assert "+ node square" in shell.call("routes", "more", "--diff", first["revision"])
    unknown = shell.json("routes", "more", "--diff", "nosuch", code=1)["error"]
    assert first["revision"] in unknown["message"]
    assert shell.json("publish", "more=nowhere.py:graph", code=1)["error"]["code"] == (
        "graph_import_failed"
    )
    shell.json("down")


def output_of(shell: Shell) -> dict[str, int]:
    lines = shell.call("run", "more", "--input", '{"number": 3}', "--json").splitlines()
    output: dict[str, int] = json.loads(lines[-1])["output"]
    return output
