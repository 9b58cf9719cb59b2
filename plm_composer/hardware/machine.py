"""What the hardware can do at best, and what it takes to get there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from plm_composer.errors import UserError

_SHAPES = ((4096, 1024, 1024), (8192, 320, 1280), (2048, 2048, 2048))
"""Rows, inner size and columns of products that keep a processor busy; which one does best depends on it."""

_ONEDNN_KERNELS = 4096
"""Compiled products that oneDNN keeps, of its own accord 1,024. Attention multiplies some five shapes a length of
protein, and lengths go to the thousand; linear layers add one-off shapes, a batch's tokens."""

# Numbers of malloc.h.
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
    """Measures how fast the device multiplies dense matrices, FLOP/s: the best of several shapes, medians.

    Args:
        device: Where.
        dtype: Of the matrices.
        seconds: Time to spend on each shape, at least three products.
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
    """The machine in one line: the GPU, or the CPU, the threads that torch uses and its instructions; versions."""
    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        processor = f"{_cpu_model()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores, "
        processor += f"{torch.backends.cpu.get_cpu_capability()}"
        processor += ", bf16 products" if torch.cpu._is_avx512_bf16_supported() else ""
        processor += ", AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{processor}; torch {torch.__version__}, Python {platform.python_version()}"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def prepare_cpu() -> None:
    """Makes the C library and oneDNN keep what the next step needs again; to be called before the first product."""
    keep_freed_memory()
    keep_compiled_products()


def keep_compiled_products() -> None:
    """Tells oneDNN to keep the code of more products than it does by default, for proteins of many lengths.

    Compiling one takes longer than the product of a protein's scores: 5 % of the time of training ESM2-8M at crop
    512. Costs up to 0.8 GB, 0.25 MB a shape. A value that the user has set stays.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_ONEDNN_KERNELS))


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep what torch frees on the CPU, which the next step asks for again.

    By default large blocks go back to the system each time and come back as pages to be cleared: a fifth of a
    training step of ESM2-8M. Does nothing where the C library is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(_M_TOP_PAD, 1 << 26)
