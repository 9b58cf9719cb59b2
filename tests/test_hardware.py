"""The yardsticks of efficiency."""

import resource

import torch

from plm_composer.hardware import keep_freed_memory, matmul_peak


def test_a_peak_is_measured() -> None:
    assert 1e9 < matmul_peak(torch.device("cpu"), torch.float32, seconds=0.01) < 1e15


def test_freed_memory_is_kept() -> None:
    """A large block that was freed and is asked for again costs no page faults."""
    keep_freed_memory()
    size = 64 << 20
    torch.zeros(size, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(size, dtype=torch.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < size // 4096 // 4
