"""Signals that reach a DataLoader's worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from plm_composer.data.streaming.workers import explain_killed_workers, ignore_preemption
from plm_composer.errors import UserError
from tests.run.interrupted_runs import DEADLINE, Run


def _work(ready: Event, done: Event) -> None:
    ignore_preemption(0)
    ready.set()
    done.wait()


def test_only_the_training_process_ends_a_worker() -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    worker = context.Process(target=_work, args=(ready, done), daemon=True)
    worker.start()
    assert worker.pid is not None
    assert ready.wait(60)
    for _ in range(3):
        # From another process, as from a scheduler.
        kill = f"import os, signal; os.kill({worker.pid}, signal.SIGTERM)"
        subprocess.run([sys.executable, "-c", kill], check=True)
    assert worker.is_alive()
    deadline = time.monotonic() + 60
    while worker.is_alive() and time.monotonic() < deadline:
        # Again and again, because the kernel merges a signal with one from elsewhere that the worker has yet to take.
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(0.1)
    assert worker.exitcode == 0
    assert not done.is_set()


def _try_get_data(error: Exception) -> None:
    """By the name of the DataLoader's function that takes a batch from a worker."""
    raise error


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError("Connection reset by peer")])
def test_a_connection_that_a_killed_worker_closed_is_told_from_others(error: Exception) -> None:
    with pytest.raises(UserError, match="a process of the loader was killed"), explain_killed_workers():
        _try_get_data(error)
    with pytest.raises(type(error)), explain_killed_workers():
        raise error.with_traceback(None)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(small_set: Path, tiny: tuple[str, ...]) -> None:
    overrides = ("data.num_workers=1", "max_duration=100000ba", "save_folder=null", "eval_interval=0")
    run = Run(small_set, "killed-worker", (*tiny, *overrides))
    process = run.start("autoresume=false")
    run.wait_for_batch(process, 2)
    os.kill(_worker_of(process.pid), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2, stdout + stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: a process of the loader was killed, perhaps for lack of memory; continue with autoresume=true, and "
        "with a lower data.num_workers or data.prefetch_factor if it happens again"
    ]
    assert "Traceback" not in stderr


def _worker_of(pid: int) -> int:
    """The one child that was forked: it has its parent's command line."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    (worker,) = (child for child in children if Path(f"/proc/{child}/cmdline").read_bytes() == command)
    return worker
