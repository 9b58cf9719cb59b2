"""The loader's processes: what they do when the run is told to stop, and what a run says that has lost one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import traceback
from collections.abc import Iterator

from plm_composer.errors import UserError


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


@contextlib.contextmanager
def explain_killed_workers() -> Iterator[None]:
    """Says what to do where a DataLoader lost a worker, by the kernel for want of memory above all.

    Raises:
        UserError: It did.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if not _tells_of_a_lost_worker(error):
            raise
        raise UserError(
            "a process of the loader was killed, perhaps for want of memory; continue with autoresume=true, and with "
            "a lower data.num_workers or data.prefetch_factor if it happens again"
        ) from error


def _tells_of_a_lost_worker(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return re.match(r"DataLoader worker .*(exited unexpectedly|killed by signal)", str(error)) is not None
    # Killed while it handed a batch over: multiprocessing speaks of a closed connection.
    return any(frame.name == "_try_get_data" for frame in traceback.extract_tb(error.__traceback__))
