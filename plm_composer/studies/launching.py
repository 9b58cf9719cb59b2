"""Starts each run as a process, ends it with the study, and allows one study at a time in a folder."""

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
"""Seconds that a process gets to exit after its grace period."""


class ProcessLauncher:
    """Trains in a separate process, with this interpreter and environment.

    Args:
        lock: Lock of the study's folder. The run holds it too, so that no study starts in a folder where the run of
            a killed study is still going.
    """

    def __init__(self, lock: IO[str]) -> None:
        self._lock = lock

    def __call__(self, run: PlannedRun, arguments: Sequence[str]) -> int:
        """Trains, appends the output to the run's log and returns the exit code."""
        process: subprocess.Popen[bytes] | None = None
        # A signal may arrive as soon as the process exists.
        try:
            with run.log.open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "plm_composer.run", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Imports this package, not one in the working folder; Python 3.10 ignores it.
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                    pass_fds=(self._lock.fileno(),),
                    # Keeps Ctrl-C from the run, which would exit at once; on SIGTERM it saves.
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
    """Locks a folder against other studies.

    Yields:
        The lock.

    Raises:
        UserError: Another study, or a run of a killed study, is still running there.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UserError(
                f"{out}: another plm ablate, or a run that it started, is still running there (process "
                f"{lock.read().strip()}); wait for it or end it"
            ) from error
        _write(lock, os.getpid())
        yield lock


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Raises an exception on Ctrl-C and SIGTERM, so that the current run saves a checkpoint and exits.

    Importing Composer replaces both handlers; its own would exit silently on Ctrl-C.
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
    except BaseException as error:  # Includes a second Ctrl-C.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def _write(lock: IO[str], process: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(f"{process}\n")
    lock.flush()
