"""A correction for FSDP2 on CPUs."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


def averages_by_summing(device: torch.device) -> bool:
    """Whether ``reduce_scatter`` gives the sum where the mean is asked for, as gloo of torch 2.7 does.

    Args:
        device: Where the model lies.
    """
    ranks = torch.distributed.get_world_size()
    output = torch.zeros(1, device=device)
    ones = torch.ones(ranks, device=device)
    torch.distributed.reduce_scatter_tensor(output, ones, op=torch.distributed.ReduceOp.AVG)
    return ranks > 1 and output.item() == ranks


def correct_sharded_gradients(model: nn.Module, device: torch.device) -> None:
    """Has FSDP2 divide gradients by the number of ranks where the backend forgets to.

    Without it gradients are as many times too large as there are ranks, which Adam hardly feels but gradient
    clipping and SGD do. Collective: every rank calls it.

    Args:
        model: A model whose parts ``fully_shard`` has sharded; others are left alone.
        device: Where the model lies.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not sharded or not averages_by_summing(device):
        return
    ranks = torch.distributed.get_world_size()

    def divide(gradient: Tensor) -> None:
        gradient.div_(ranks)

    for module in sharded:
        module.set_all_reduce_hook(divide)
