"""Every command of the README runs, on less data and smaller models than it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documented_commands import Command, fenced_commands, make_place, problem_of, run_documented

COMMANDS = fenced_commands("README.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with the proteins that the README names."""
    return make_place(tmp_path_factory.mktemp("readme"))


def test_it_has_commands() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_works(command: Command, place: Path) -> None:
    assert problem_of(command) is None
    result = run_documented(command.words, place)
    assert result is None or result.returncode == 0, result.stdout + result.stderr
