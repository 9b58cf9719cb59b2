"""The loader's processes: they ignore a scheduler's SIGTERM, and the loss of one becomes a one-line error."""

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
    """Makes a DataLoader's worker ignore SIGTERM from others than the training process; a ``worker_init_fn``.

    A scheduler may send SIGTERM to every process of a job. The training process then finishes its batch and saves, for
    which it needs its workers: a dead worker raises an error there. A SIGTERM from the training process itself still
    ends the worker, and torch ends it if the training process is gone.

    Args:
        worker_id: Index of the worker; not used.
    """
    del worker_id
    # A handler cannot see who sent the signal; `sigwaitinfo` can, and needs the signal blocked in all threads.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextlib.contextmanager
def explain_killed_workers() -> Iterator[None]:
    """Explains the loss of a DataLoader's worker, which the kernel most often kills for lack of memory.

    Raises:
        UserError: A worker was killed.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        if not _is_lost_worker(error):
            raise
        raise UserError(
            "a process of the loader was killed, perhaps for lack of memory; continue with autoresume=true, and with "
            "a lower data.num_workers or data.prefetch_factor if it happens again"
        ) from error


def _is_lost_worker(error: Exception) -> bool:
    if isinstance(error, RuntimeError):
        return re.match(r"DataLoader worker .*(exited unexpectedly|killed by signal)", str(error)) is not None
    # multiprocessing reports a worker that was killed while it sent a batch as a closed connection.
    return any(frame.name == "_try_get_data" for frame in traceback.extract_tb(error.__traceback__))
