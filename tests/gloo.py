"""Processes of the CPU's distributed back end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def spawn_on_cpus(work: Callable[[int, Path], None], folder: Path, processes: int = 2) -> None:
    """Runs ``work(rank, folder)`` in each of some processes without a GPU: FSDP2 would take one, and gloo has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        torch.multiprocessing.spawn(work, args=(folder,), nprocs=processes)
