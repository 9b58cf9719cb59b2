"""Processes of the CPU's distributed back end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

Work = Callable[[int, Path], None]


def spawn_on_cpus(work: Work, folder: Path, processes: int = 2) -> None:
    """Runs ``work(rank, folder)`` in each of some processes of one group, with a thread and no GPU for each.

    FSDP2 would take a GPU that it sees, and gloo has none.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        torch.multiprocessing.spawn(_work_in_group, args=(work, folder, processes), nprocs=processes)


def _work_in_group(rank: int, work: Work, folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    work(rank, folder)
    dist.destroy_process_group()
