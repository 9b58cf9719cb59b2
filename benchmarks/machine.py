"""What a machine is, and how long and how much memory a piece of work takes of it."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from plm_composer.hardware import synchronize


def best_device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe() -> str:
    """The machine in one line."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        processor = f"{names[0].split(':')[1].strip()}, {torch.get_num_threads()} threads, "
        processor += f"{torch.backends.cpu.get_cpu_capability()}"
        processor += ", bf16 products" if torch.cpu._is_avx512_bf16_supported() else ""
        processor += ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{processor}; torch {torch.__version__}, Python {platform.python_version()}"


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
