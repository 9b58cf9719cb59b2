"""Sharded gradients over gloo are means, as over NCCL."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from plm_composer.gloo import averages_by_summing, correct_sharded_gradients

WORLD = 2


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    model = nn.Sequential(nn.Linear(4, 4, bias=False))
    fully_shard(model)
    correct_sharded_gradients(model, torch.device("cpu"))
    for _ in range(2):  # accumulated, as over two microbatches
        model(torch.full((1, 4), float(rank + 1))).sum().backward()
    gradient = model[0].weight.grad
    assert isinstance(gradient, DTensor)
    full = gradient.full_tensor()
    if rank == 0:
        torch.save({"gradient": full, "sums": averages_by_summing(torch.device("cpu"))}, folder / "result.pt")
    else:
        averages_by_summing(torch.device("cpu"))
    dist.destroy_process_group()


def test_gradients_of_two_ranks_are_averaged(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, args=(tmp_path,), nprocs=WORLD)
    result = torch.load(tmp_path / "result.pt")
    # Inputs of 1 and 2: the mean over ranks is 1.5, twice.
    torch.testing.assert_close(result["gradient"], torch.full((4, 4), 3.0))
    # When this fails, torch has mended it and plm_composer/gloo.py can go.
    assert result["sums"]
