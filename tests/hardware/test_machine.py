"""The yardsticks of efficiency."""

import os
import subprocess
import sys

import pytest
import torch

from plm_composer.hardware.machine import describe_machine, matmul_peak

_PRODUCTS_OF_MANY_LENGTHS = """
import torch
from plm_composer.hardware.machine import prepare_cpu
prepare_cpu()
for _ in range(2):
    print("begin", flush=True)
    for length in range(100, 1400):
        torch.rand(2, length, 16).bfloat16() @ torch.rand(2, 16, length).bfloat16()
"""


_A_BLOCK_TWICE = """
import resource, torch
from plm_composer.hardware.machine import keep_freed_memory
keep_freed_memory()
torch.zeros(65 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.zeros(64 << 20, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_peak_is_measured() -> None:
    assert 1e9 < matmul_peak(torch.device("cpu"), torch.float32, seconds=0.01) < 1e15


def test_a_machine_is_told_in_one_line() -> None:
    told = describe_machine()
    assert "\n" not in told
    assert f"torch {torch.__version__}" in told


def test_freed_memory_is_kept() -> None:
    """A large block that was freed and is asked for again costs no page faults; in a heap of its own, not pytest's.

    The second is a little smaller: glibc before 2.38 does not always find room for an aligned block where an equal one
    was (https://sourceware.org/bugzilla/show_bug.cgi?id=14581).
    """
    command = [sys.executable, "-c", _A_BLOCK_TWICE]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(output) < (64 << 20) // 4096 // 4


def test_products_of_many_lengths_are_compiled_once() -> None:
    """1,300 shapes, more than oneDNN keeps by itself; it says of each whether it had to compile it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONEDNN_")}
    command = [sys.executable, "-c", _PRODUCTS_OF_MANY_LENGTHS]
    output = subprocess.run(
        command, env={**environment, "ONEDNN_VERBOSE": "all"}, capture_output=True, text=True, check=True
    ).stdout
    _, first, second = output.split("begin")
    if "matmul" not in first:
        pytest.skip("bf16 does not go through oneDNN on this processor")
    assert "create:cache_miss" not in second
