"""Agreement between the processes of a run over the hosts, so that no process waits for a GPU."""

from __future__ import annotations

import functools

import torch
from torch import distributed


def greatest_of_all(value: int) -> int:
    """Finds the greatest number of all processes; all must call it together.

    Args:
        value: This process's number.
    """
    if not _are_several():
        return value
    number = torch.tensor(value)
    distributed.all_reduce(number, distributed.ReduceOp.MAX, group=_hosts())
    return int(number)


def first_ones(value: int) -> int:
    """Broadcasts the first process's number; all processes must call it together.

    Args:
        value: This process's number; only the first one's counts.
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
    """A gloo group of all processes; None, the default group, if its backend is gloo already."""
    return None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")
