"""Every command explains itself: examples that parse, and a place on the operations page."""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from langmesh.cli.main import main, parser
from tests.cli.conftest import Shell

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def subparsers(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    group = of._subparsers
    actions = group._group_actions if group is not None else []
    return {name: sub for action in actions for name, sub in (action.choices or {}).items()}


def commands(
    of: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    for name, sub in subparsers(of).items():
        yield (*path, name), sub
        yield from commands(sub, (*path, name))


COMMANDS = dict(commands(parser()))


def examples(text: str) -> list[list[str]]:
    """The words of the examples in a help."""
    _, _, section = text.partition("\nExamples:\n")
    lines = section.split("\n\n")[0].splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_examples_of_its_own_that_parse(path: tuple[str, ...]):
    shown = examples(COMMANDS[path].format_help())
    assert shown, "no examples"
    for words in shown:
        assert words[: len(path) + 1] == ["langmesh", *path]
        end = words.index(">") if ">" in words else len(words)
        args = parser(words[1:2]).parse_args(words[1:end])
        assert args.command == path[0]


def test_the_help_of_the_command_line_has_examples_and_exit_codes():
    text = parser().format_help()
    for words in examples(text):
        assert words[0] == "langmesh"
        assert words[1] in subparsers(parser())
    for code in ("0 success", "1 a failure", "2 wrong usage", "3 the run", "130 interrupted"):
        assert code in text
        assert re.search(rf"Exit codes: .*{code}", PAGE, re.DOTALL), "docs/operations.md"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_subcommand_is_on_the_operations_page(path: tuple[str, ...]):
    assert re.search(rf"`{' '.join(path)}[` ]", PAGE)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_json(path: tuple[str, ...]):
    assert "--json" in COMMANDS[path].format_help()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_prints_a_script(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["shell"] == shell
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out.strip() == told["script"].strip()
    for name in subparsers(parser()):
        assert name in told["script"]


def completed(script: str, *words: str) -> set[str]:
    """What bash offers for the last word."""
    function = re.findall(r"complete .*-F (\w+) langmesh", script)[0]
    program = [
        script,
        f"COMP_WORDS=({shlex.join(words)})",
        f"COMP_CWORD={len(words) - 1}",
        function,
        'echo "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(program)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(done.stdout.split())


def test_bash_completes_commands_choices_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
    assert completed(script, "langmesh", "ru") == {"run", "runs"}
    assert completed(script, "langmesh", "runs", "") >= {"ls", "show", "cancel", "resume"}
    assert completed(script, "langmesh", "runs", "ls", "--status", "e") == {"error"}
    assert completed(script, "langmesh", "run", "g", "--stream", "val") == {"values"}
    assert completed(script, "langmesh", "completion", "") >= {"bash", "zsh"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").touch()
    (tmp_path / "corpus").mkdir()
    assert completed(script, "langmesh", "up", "ap") == {"app.py"}
    assert completed(script, "langmesh", "demo", "--corpus", "co") == {"corpus"}


def test_no_other_command_loads_what_completion_needs(shell: Shell):
    program = (
        "import sys; from langmesh.cli.main import main; main(['trace', 'nosuch', '--json']);"
        "print(sorted(set(sys.modules) & {'shtab', 'watchfiles', 'langmesh.cli.completion'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=shell.folder,
        env=shell.environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]"
