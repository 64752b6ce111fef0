"""docs/protocol.md: up to date, and complete without an edit when the contract grows."""

import re
from pathlib import Path

import msgspec
import pytest

from langmesh.errors import CATALOGUE
from langmesh.wire import document, examples, items, messages, rpc, streams, tables


def test_the_page_is_up_to_date(capsys):
    assert document.main(["--check"]) == 0, capsys.readouterr().err


def test_rendering_twice_gives_the_same_page():
    assert document.render() == document.render()


def test_a_stale_page_is_shown_as_a_difference_and_left_alone(tmp_path: Path, capsys):
    page = tmp_path / "protocol.md"
    page.write_text(document.render().replace("# The langmesh protocol", "# A langmesh protocol"))
    before = page.read_text()
    assert document.main(["--check", str(page)]) == 1
    assert page.read_text() == before
    error = capsys.readouterr().err
    assert "-# A langmesh protocol" in error
    assert "python -m langmesh.wire.document" in error

    assert document.main([str(page)]) == 0
    assert page.read_text() == document.render()


def test_the_page_names_everything_that_is_declared():
    page = document.render()
    kinds = [
        *tables.structs(),
        *tables.structs(rpc),
        *tables.structs(items),
        *document._log_structs(),
    ]
    for kind in kinds:
        assert page.count(f"\n### {tables.heading(kind)}\n") == 1
        for field in msgspec.structs.fields(kind):
            assert f"| `{field.encode_name}` |" in page
    for spec in streams.STREAMS:
        assert f"| {spec.name} | `{spec.subjects[0]}`" in page
    for verb in rpc.VERBS:
        assert f"| `{verb}` |" in page
    for code in CATALOGUE:
        assert f"| `{code}` |" in page


def test_every_field_has_a_meaning():
    bare = [
        f"{kind.__name__}: {line}"
        for kind in [
            *tables.structs(),
            *tables.structs(rpc),
            *tables.structs(items),
            *document._log_structs(),
        ]
        for line in tables.field_table(kind).splitlines()
        if line.endswith("|  |")
    ]
    assert not bare, "write a string literal below the field"


def test_links_lead_somewhere():
    page = document.render()
    anchors = {tables.anchor(line.lstrip("# ")) for line in page.splitlines() if line[:1] == "#"}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors


def test_the_program_on_the_page_is_python_and_comes_first():
    blocks = re.findall(r"```python\n(.*?)```", document.render(), flags=re.DOTALL)
    (program,) = [block for block in blocks if block.startswith("# submit.py\n")]
    compile(program, "submit.py", "exec")


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """A part."""

    weights: dict[str, float] = {}


class Surprise(messages.Event, frozen=True, kw_only=True, tag="surprise.v1"):
    """An event that was added."""

    amount: float
    pair: tuple[int, str]
    flag: bool
    inner: Inner
    blob: bytes = b""


@pytest.fixture
def grown_contract(monkeypatch):
    for kind in (Inner, Surprise):
        monkeypatch.setattr(kind, "__module__", messages.__name__)
        monkeypatch.setattr(messages, kind.__name__, kind, raising=False)


@pytest.mark.usefixtures("grown_contract")
def test_a_new_message_needs_no_edit_of_its_example():
    example = examples.example(Surprise)
    assert msgspec.json.decode(examples.body(Surprise), type=Surprise) == example
    assert "| `amount` | number | required |" in tables.field_table(Surprise)
    assert "| `pair` | [integer, string] | required |" in tables.field_table(Surprise)
    assert "| `inner` | [Inner](#inner) | required |" in tables.field_table(Surprise)
    assert Surprise in tables.structs()
