"""Numbers that processes agree on."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from plm_composer.hardware.processes import first_ones, greatest_of_all


def work(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    (folder / str(rank)).write_text(f"{greatest_of_all(5 + rank)} {first_ones(5 + rank)}")
    dist.destroy_process_group()


def test_two_processes_agree(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(tmp_path,), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["6 5", "6 5"]


def test_one_process_has_its_own() -> None:
    assert (greatest_of_all(3), first_ones(3)) == (3, 3)
