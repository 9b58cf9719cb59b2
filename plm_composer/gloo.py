"""Corrections for FSDP2 on CPUs. torch has no public settings for them; on GPUs nothing changes."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import ProcessGroup
from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param_group

_divide_factors = _fsdp_collectives._get_gradient_divide_factors
_foreach_reduce = _fsdp_collectives.foreach_reduce


def correct_fsdp_on_cpus() -> None:
    """Has FSDP2 on CPUs reduce gradients to their mean, over all processes or over groups of them (HSDP).

    torch 2.7 asks gloo for the mean, which gloo does not know: ``reduce_scatter`` gives the sum instead, without a
    word, and ``all_reduce``, which HSDP needs, refuses. Gradients as many times too large as there are ranks Adam
    hardly feels, but gradient clipping and SGD do. And HSDP insists on an event, which streams of CPUs do not give.
    """
    _fsdp_collectives._get_gradient_divide_factors = _factors
    _fsdp_param_group.foreach_reduce = _reduce  # type: ignore[attr-defined,assignment]


def _factors(
    reduce_scatter_group: ProcessGroup,
    all_reduce_group: ProcessGroup | None,
    reduce_dtype: torch.dtype,
    device_type: str = "",
) -> tuple[Any, Any]:
    """What gradients are divided by before and after they are added up; None and None ask for the mean."""
    if device_type != "cpu":
        return _divide_factors(reduce_scatter_group, all_reduce_group, reduce_dtype, device_type)
    return 1.0, float(reduce_scatter_group.size() * (1 if all_reduce_group is None else all_reduce_group.size()))


def _reduce(*arguments: Any) -> tuple[Any, ...]:
    scattered, scatter_event, event, all_reduced, all_reduce_event, partial = _foreach_reduce(*arguments)
    # The tensor is handed on only to be kept until the event, and where there is none the work is done.
    return scattered, scatter_event, event, all_reduced if all_reduce_event else None, all_reduce_event, partial
