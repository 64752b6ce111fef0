"""What is shown to people fits their terminal; what programs read is never cut."""

import pytest

from langmesh.cli import terminal
from langmesh.cli.terminal import fit, styled, table


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("short", 5, "short"),
        ("longer", 5, "long…"),
        ("é→…", 3, "é→…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("two\nlines", 20, "two lines"),
        ("x", 0, "…"),
        ("\x1b[31mred and long\x1b[0m", 6, "\x1b[31mred a…\x1b[0m"),
        ("\x1b[31mred\x1b[0m", 3, "\x1b[31mred\x1b[0m"),
    ],
)
def test_text_is_cut_where_the_terminal_ends(text: str, width: int, shown: str):
    assert fit(text, width) == shown


def test_nothing_is_cut_where_there_is_no_terminal():
    assert fit("x" * 5_000) == "x" * 5_000
    assert styled("x", "red") == "x"
    assert len(table(("A", "B"), [("x" * 500, "y" * 500)], shrink=("A",))[1]) == 1_002


def test_a_table_shrinks_its_columns_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "columns", lambda: 30)
    head = ("ID", "NAME", "NOTE")
    rows = [("id-0123456789", "n" * 9, "o" * 20)]
    lines = table(head, rows, shrink=("NOTE", "NAME"))
    assert all(len(line) <= 30 for line in lines)
    assert "id-0123456789" in lines[1]
    assert len(table(head, rows)[1]) > 30, "nothing may be cut"
