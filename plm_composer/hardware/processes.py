"""What the processes of a run agree on, from host to host: no GPU takes part, so that none is waited for."""

from __future__ import annotations

import functools

import torch
from torch import distributed


def greatest_of_all(value: int) -> int:
    """Finds the greatest of all processes' numbers; all have to ask together.

    Args:
        value: This process's.
    """
    if not _are_several():
        return value
    number = torch.tensor(value)
    distributed.all_reduce(number, distributed.ReduceOp.MAX, group=_hosts())
    return int(number)


def first_ones(value: int) -> int:
    """Tells all processes the first one's number; all have to ask together.

    Args:
        value: This process's.
    """
    if not _are_several():
        return value
    number = torch.tensor(value)
    distributed.broadcast(number, 0, group=_hosts())
    return int(number)


def _are_several() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1


@functools.cache
def _hosts() -> distributed.ProcessGroup | None:
    """A group over gloo; None, all processes, where they talk by gloo anyway."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
