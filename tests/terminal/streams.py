"""Streams that tests put in the place of stderr, while a test runs: pytest puts its own there before."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def drawn(self) -> list[str]:
        """What was drawn, each time."""
        return [line for line in self.getvalue().replace("\n", "\r").split("\r") if line.strip()]


@contextlib.contextmanager
def on_a_terminal(columns: int = 80, kind: str = "xterm") -> Iterator[Terminal]:
    """Makes stderr a terminal."""
    stream = Terminal()
    with contextlib.redirect_stderr(stream), pytest.MonkeyPatch.context() as patch:
        for name, value in (("COLUMNS", str(columns)), ("LINES", "24"), ("TERM", kind)):
            patch.setenv(name, value)
        yield stream


@contextlib.contextmanager
def in_a_log() -> Iterator[io.StringIO]:
    """Makes stderr a file."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        yield stream


def run_on_a_terminal(
    folder: Path, *command: object, columns: int = 80, variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs a command on a terminal of its own; returns the exit code and all that it wrote there."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1", **(variables or {})}
        environment.pop("COLUMNS", None)
        words = [str(word) for word in command]
        os.execvpe(words[0], words, environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written = b""
    while True:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # how Linux says that the other side has closed
            break
        if not piece:
            break
        written += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), written.decode()
