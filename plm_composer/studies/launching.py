"""Starting a run as a process of its own, ending it with the study, and one study at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from plm_composer.callbacks.preemption import EXIT_CODE
from plm_composer.errors import UserError
from plm_composer.studies.plan import PlannedRun

_TO_END = 5.0
"""Seconds that a process gets beyond its grace period."""


class ProcessLauncher:
    """Trains in a process of its own, with this interpreter and environment.

    Args:
        lock: Of the study's folder. The run holds it as well, so that no study begins where one that was killed has
            left its run.
    """

    def __init__(self, lock: IO[str]) -> None:
        self._lock = lock

    def __call__(self, run: PlannedRun, arguments: Sequence[str]) -> int:
        """Trains, the output appended to the run's log, and returns the exit code."""
        process: subprocess.Popen[bytes] | None = None
        # A signal may come as soon as there is a process to end.
        try:
            with run.log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "plm_composer.run.command", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Of this package, whatever lies in the working folder; Python 3.10 does not know it.
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                    pass_fds=(self._lock.fileno(),),
                    # Ctrl-C would end it at once; SIGTERM has it save.
                    start_new_session=True,
                )
            _write(self._lock, process.pid)
            return process.wait()
        finally:
            if process is not None:
                _end(process, run.config.preemption_grace + _TO_END)
            _write(self._lock, os.getpid())


@contextlib.contextmanager
def only_study(out: Path) -> Iterator[IO[str]]:
    """Keeps other studies out of a folder.

    Yields:
        The lock.

    Raises:
        UserError: Another is at work there, or a run that a killed one left.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{out}: another plm ablate is at work there, or a run that one left (process {lock.read().strip()}); "
                "wait for it, or end it"
            ) from error
        _write(lock, os.getpid())
        yield lock


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Has Ctrl-C and SIGTERM raise their exceptions, so that the run that is under way is ended in an orderly manner.

    Composer takes both signals over when it is imported, and would exit on Ctrl-C without a word.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise SystemExit(EXIT_CODE)

    handlers = {signal.SIGTERM: leave, signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace)
    except BaseException as error:  # A second Ctrl-C as well.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _write(lock: IO[str], process: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"{process}\n")
    lock.flush()
