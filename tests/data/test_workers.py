"""Signals that reach a DataLoader's worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.synchronize import Event

from plm_composer.data.workers import ignore_preemption


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
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(60)
    assert worker.exitcode == 0
    assert not done.is_set()
