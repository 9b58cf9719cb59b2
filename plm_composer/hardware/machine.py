"""Peak speed of the hardware, and settings that help to reach it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import statistics
import time
from pathlib import Path

import psutil
import torch

from plm_composer.errors import UserError

_SHAPES = ((4096, 1024, 1024), (8192, 320, 1280), (2048, 2048, 2048))
"""Rows, inner size and columns of matrix products; which one is fastest depends on the processor."""

_ONEDNN_KERNELS = 4096
"""Number of compiled matmuls that oneDNN caches; its default is 1,024. Attention has about five shapes per protein
length, and lengths go to a thousand; linear layers add shapes that occur once, one per number of tokens."""

# Constants of malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def check_device(key: str, device: str | None) -> None:
    """Checks the name of a device.

    Args:
        key: Where it stands, for the message.
        device: ``cpu`` or ``gpu``; None for a GPU if there is one.

    Raises:
        UserError: It is another name, or there is no such device.
    """
    if device not in (None, "cpu", "gpu"):
        raise UserError(f"{key} is {device!r}; choose cpu or gpu, or leave it out")
    if device == "gpu" and not torch.cuda.is_available():
        raise UserError(f"{key} is gpu, but torch finds no CUDA device; leave it out, or choose cpu")


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    """Measures the dense matmul speed of a device in FLOP/s: the median time of the fastest of several shapes.

    Args:
        device: The device.
        dtype: Data type of the matrices.
        seconds: Time to spend on each shape, in seconds; at least three products run.
    """
    best = 0.0
    for rows, inner, columns in _SHAPES:
        left = torch.rand(rows, inner, device=device, dtype=dtype)
        right = torch.rand(inner, columns, device=device, dtype=dtype)
        torch.mm(left, right)
        timings: list[float] = []
        while sum(timings) < seconds or len(timings) < 3:
            synchronize(device)
            start = time.perf_counter()
            torch.mm(left, right)
            synchronize(device)
            timings.append(time.perf_counter() - start)
        best = max(best, 2 * rows * inner * columns / statistics.median(timings))
    return best


def describe_machine() -> str:
    """Describes the machine in one line: the GPU, or the CPU with threads and instructions; and versions."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{cpu_name()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        processor += f"{torch.backends.cpu.get_cpu_capability()}"
        processor += ", bf16 products" if torch.cpu._is_avx512_bf16_supported() else ""
        processor += ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{processor}; torch {torch.__version__}, Python {platform.python_version()}"


def cpu_name() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int:
    """Bytes of a device's memory that nothing uses."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare_cpu() -> None:
    """Makes the C library and oneDNN keep memory and code for later steps; call it before the first matmul."""
    keep_freed_memory()
    keep_compiled_products()


def keep_compiled_products() -> None:
    """Makes oneDNN cache more compiled matmuls than by default, for proteins of many lengths.

    Compiling a matmul takes longer than computing a protein's scores: 5 % of the time of training ESM2-8M at crop 512.
    The cache takes up to 0.8 GB, 0.25 MB per shape. A value that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_ONEDNN_KERNELS))


def keep_freed_memory() -> None:
    """Makes glibc's allocator keep the memory that torch frees on the CPU, because the next step needs it again.

    By default large blocks return to the system each time, and new pages must be cleared: a fifth of a training step of
    ESM2-8M. Does nothing with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(_M_TOP_PAD, 1 << 26)


def return_freed_memory() -> None:
    """Returns freed memory to the system, which ``keep_freed_memory`` kept; does nothing with another C library.

    Called now and then, it keeps memory constant over hours in which batches of many sizes would leave more and more
    gaps between them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
