"""What the loader's processes do when the run is told to stop."""

from __future__ import annotations

import os
import signal
import threading


def ignore_preemption(worker_id: int) -> None:
    """Has a DataLoader's worker leave SIGTERM to the training process; its ``worker_init_fn``.

    A scheduler may send SIGTERM to every process of a job. The training process then finishes its batch and saves, for
    which it needs its workers: one that dies raises an error there. A SIGTERM from the training process itself still
    ends the worker, and torch ends it where the training process is gone.

    Args:
        worker_id: Index of the worker; all do the same.
    """
    del worker_id
    # A handler is not told who sent the signal; `sigwaitinfo` is, and needs it blocked in all threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
