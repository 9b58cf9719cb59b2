"""A pool of worker processes whose results come back in order, with a bounded number of tasks under way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from plm_composer.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")


class OrderedMap(Protocol):
    """A lazy ``map``: results come in the order of the tasks."""

    def __call__(self, function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterator[Result]:
        """Applies ``function`` to each task."""


_SPARE_TASKS = 2
"""Tasks waiting beyond one per worker, so that none idles while results are taken."""
_PRELOADED = ["plm_composer.shards.cleaning", "streaming"]
"""Imported once by the fork server; ``streaming`` brings torch along, which takes seconds."""


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_worker() -> None:
    # Ctrl-C goes to the whole process group; the main process alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    # A main process that was killed cannot stop its workers, and they would wait for tasks for ever.
    threading.Thread(target=leave_with_parent, daemon=True).start()


@contextmanager
def ordered_pool(processes: int) -> Iterator[OrderedMap]:
    """Opens worker processes, or with ``processes`` 1 none: everything then runs in this process.

    Yields:
        A lazy ``map(function, tasks)`` with results in the order of the tasks. Functions and tasks must pickle. Maps
        may be chained: one can take its tasks from the results of another.

    Raises:
        UserError: A worker died.
    """
    if processes == 1:
        yield map
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare_worker) as executor:

        def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
            pending: deque[Future[Result]] = deque()
            for task in tasks:
                pending.append(executor.submit(function, task))
                if len(pending) >= processes + _SPARE_TASKS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield ordered_map
        except BrokenProcessPool:
            raise UserError(
                "a worker process died, most likely for want of memory; try again with fewer --processes"
            ) from None
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
