"""The device that is measured, and how long and how much memory a piece of work takes of it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from plm_composer.hardware import synchronize


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a piece of work takes."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def memory_mb(device: torch.device) -> float:
    """Most memory that this process has had: on a GPU by torch's count, on a CPU by the system's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
