"""The help of every command: an example that works, in lines that a terminal has room for."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from plm_composer.cli import COMMANDS, app
from plm_composer.shards import command as converter
from tests.commands import REPOSITORY
from tests.terminal.streams import run_on_a_terminal

PLM = typer.main.get_command(app)
PARSERS = {"fasta": converter.fasta_parser, "hf": converter.huggingface_parser, "spark": converter.spark_parser}


def names() -> list[str]:
    return sorted(PLM.commands)


def help_of(*words: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0
    return re.sub(r"\x1b\[[\d;]*m", "", result.stdout)  # Typer colours in GitHub's actions, terminal or not


def example_of(text: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.strip().startswith("Example: "))
    return shlex.split(line.strip().removeprefix("Example: "))


def test_every_command_is_in_a_panel() -> None:
    named = {function.__name__ for panel in COMMANDS.values() for function in panel}
    assert set(names()) == named | {"convert"}
    text = help_of()
    assert all(f"─ {panel} ─" in text for panel in COMMANDS)
    assert example_of(text) == ["plm", "train", "esm2_small"]


@pytest.mark.parametrize("name", names())
def test_the_example_is_one_line_that_the_command_reads(name: str) -> None:
    program, command, *words = example_of(help_of(name))
    assert (program, command) == ("plm", name)
    if name == "convert":
        PARSERS[words[0]]().parse_args(words[1:])
    else:
        PLM.commands[name].make_context(name, words)


@pytest.mark.parametrize("kind", PARSERS)
def test_the_example_of_a_conversion(kind: str) -> None:
    text = PARSERS[kind](f"plm convert {kind}").format_help()
    program, command, found, *words = example_of(text)
    assert [program, command, found] == ["plm", "convert", kind]
    PARSERS[kind]().parse_args(words)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", [None, *names()])
def test_no_line_is_wider_than_the_terminal(name: str | None, columns: int) -> None:
    text = help_of(*([] if name is None else [name]), columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    for line in text.splitlines():
        if line.lstrip().startswith("│"):
            assert line.rstrip().endswith("│"), line  # no box is cut off


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)], ids=["", "NO_COLOR"])
def test_a_terminal_gets_colours_unless_it_wants_none(
    variables: dict[str, str], coloured: bool, tmp_path: Path
) -> None:
    for words in (["--help"], ["nonsense"]):
        command = (sys.executable, "-m", "plm_composer.cli", *words)
        _, written = run_on_a_terminal(tmp_path, *command, variables=variables)
        codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", written) for code in found.split(";")}
        assert any(code.startswith(("3", "9")) for code in codes) == coloured


def test_nothing_is_coloured_in_a_pipe() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    for words in (["--help"], ["train", "--help"], ["evaluate"], ["nonsense"]):
        command = [sys.executable, "-m", "plm_composer.cli", *words]
        result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert "\x1b" not in result.stdout + result.stderr
