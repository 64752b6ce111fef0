"""The operations page names every setting and every command."""

from dataclasses import fields
from pathlib import Path

from langmesh.cli.main import parser
from langmesh.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def test_every_setting_is_documented():
    missing = [f.metadata["env"] for f in fields(Settings) if f"`{f.metadata['env']}`" not in PAGE]
    assert missing == []


def test_every_command_is_documented():
    commands = next(
        action.choices for action in parser()._subparsers._group_actions if action.choices
    )
    assert [name for name in commands if f"| `{name}" not in PAGE] == []
