"""Every command of the README runs, on less data and smaller models than it names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands import TINY, run_in
from tests.documented_commands import Command, blocks_of, fenced_commands, make_place, problem_of, run_documented

COMMANDS = fenced_commands("README.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with the proteins that the README names."""
    return make_place(tmp_path_factory.mktemp("readme"))


def test_it_has_commands() -> None:
    assert len(COMMANDS) > 5


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_works(command: Command, place: Path) -> None:
    assert problem_of(command) is None
    result = run_documented(command.words, place)
    assert result is None or result.returncode == 0, result.stdout + result.stderr


def test_the_python_works(place: Path) -> None:
    (snippet,) = [block.text for block in blocks_of("README.md")[0] if block.language == "python"]
    snippet = snippet.replace('"budget=5min"', f"*{TINY!r}")
    result = run_in(place, sys.executable, "-c", snippet)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("(32,)")
