"""A lazy map over threads, with results in order and a bounded number of tasks in flight."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from plm_composer.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

_SPARE_TASKS = 1
"""Tasks queued beyond one per thread, so that no thread idles while the next task is made."""


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(function: Callable[[Task], Result], tasks: Iterable[Task], threads: int) -> Iterator[Result]:
    """Maps lazily over threads, with results in the order of the tasks.

    Threads suffice: the slow steps (compression, hashing, writing) let other threads run, and passing shards to
    processes costs as much as making them. Meanwhile the caller's thread makes the next tasks.

    Args:
        function: Applied to each task.
        tasks: The tasks; few more than ``threads`` are in memory at once.
        threads: Number of threads, at least 1; 1 runs the tasks in the caller's thread.

    Yields:
        The results.

    Raises:
        UserError: There is not enough memory.
    """
    try:
        yield from map(function, tasks) if threads == 1 else _threaded_map(function, tasks, threads)
    except MemoryError:
        raise UserError("out of memory; try again with fewer --processes or a smaller --shard-size") from None


def _threaded_map(function: Callable[[Task], Result], tasks: Iterable[Task], threads: int) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(threads)
    try:
        for task in tasks:
            pending.append(executor.submit(function, task))
            if len(pending) >= threads + _SPARE_TASKS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
