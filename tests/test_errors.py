"""What a command says when it fails, and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from plm_composer.errors import UserError, run_command
from tests.commands import REPOSITORY


def fail(error: BaseException) -> None:
    raise error


def end_of(error: BaseException) -> int:
    with pytest.raises(SystemExit) as raised:
        run_command(lambda: fail(error))
    return int(raised.value.code or 0)


def test_a_user_error_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(UserError("x: no such file")) == 2
    assert capsys.readouterr().err == "error: x: no such file\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(130)], ids=["python", "composer"])
def test_an_interruption_is_a_line(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    assert end_of(error) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("error", "said"), [(KeyboardInterrupt(), "interrupted\n"), (typer.Exit(130), "")])
def test_an_interruption_of_typer(error: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(lambda: fail(error))
    with pytest.raises(SystemExit) as raised:
        run_command(lambda: app([]))
    assert raised.value.code == 130
    assert capsys.readouterr().err == said


FAILING = """
from plm_composer.errors import UserError, run_command

def main():
    print("ready", flush=True)
    raise UserError("bad")

run_command(main)
"""


def start_as_rank_one() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FAILING],
        cwd=REPOSITORY,
        env={**os.environ, "RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_other_ranks_leave_the_error_to_the_first() -> None:
    """The launcher, which ends them, would print it again for each of them."""
    process = start_as_rank_one()
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGTERM


def test_other_ranks_have_errors_of_their_own() -> None:
    process = start_as_rank_one()
    assert process.communicate(timeout=60) == ("ready\n", "error: bad\n")
    assert process.returncode == 2


def test_an_error_may_end_a_command_at_once() -> None:
    """Without what the interpreter does at its end, which may not come."""
    code = """
import atexit, sys
from plm_composer.errors import UserError, run_command
class Lost(UserError):
    code = 1
    ends_at_once = True
def main():
    raise Lost("another process has ended")
atexit.register(print, "late")
run_command(main)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "error: another process has ended\n")


def test_a_name_that_no_file_can_have_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: Path("a" * 300).read_text() and 0)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no file can have a name as long as aaa")
    with pytest.raises(FileNotFoundError):
        run_command(lambda: Path("no such file").read_text() and 0)
