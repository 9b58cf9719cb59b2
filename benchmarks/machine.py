"""The device that is measured, and how long and how much memory a piece of work takes of it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from plm_composer.hardware.machine import synchronize


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def send(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors on a device; what the host must know of it stays on the host."""
    return {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a piece of work takes, by the GPU's own events where it runs on one."""
    synchronize(device)
    if device.type == "cuda":
        make_event: Any = torch.cuda.Event
        start, end = make_event(enable_timing=True), make_event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory_mb(device: torch.device) -> float:
    """Most memory that this process has had: on a GPU by torch's count, on a CPU by the system's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
