"""Corrections for FSDP2 on CPUs. On GPUs nothing changes."""

from __future__ import annotations

import inspect
from typing import Any

from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param_group

_divide_factors = _fsdp_collectives._get_gradient_divide_factors
_foreach_reduce = _fsdp_collectives.foreach_reduce
_SIGNATURE = inspect.signature(_divide_factors)
_CAN_ADD_UP = "force_sum_reduction_for_comms" in _SIGNATURE.parameters
"""Whether torch can be told to sum gradients, as it can from 2.8 on."""


def correct_fsdp_on_cpus() -> None:
    """Makes FSDP2 on CPUs reduce gradients to their mean, over all processes or over groups of them (HSDP).

    torch asks gloo for the mean, which gloo does not support: ``reduce_scatter`` silently gives the sum instead, and
    ``all_reduce``, which HSDP needs, raises an error. Gradients are then too large by the number of ranks, which hardly
    changes Adam's steps, but does change SGD's and gradient clipping. torch 2.7 also requires an event, which CPU
    streams do not provide.
    """
    _fsdp_collectives._get_gradient_divide_factors = _factors
    if not _CAN_ADD_UP:
        _fsdp_param_group.foreach_reduce = _reduce  # type: ignore[attr-defined,assignment]


def _factors(*arguments: Any, **options: Any) -> tuple[Any, ...]:
    """Divisors of gradients before and after they are summed; torch's own for any device but CPUs."""
    given = _SIGNATURE.bind(*arguments, **options).arguments
    if given.get("device_type") != "cpu":
        return _divide_factors(*arguments, **options)
    if _CAN_ADD_UP:
        return _divide_factors(**{**given, "force_sum_reduction_for_comms": True})
    groups = (given["reduce_scatter_group"], given["all_reduce_group"])
    processes = 1
    for group in groups:
        processes *= 1 if group is None else group.size()
    return 1.0, float(processes)


def _reduce(*arguments: Any) -> tuple[Any, ...]:
    scattered, scatter_event, event, all_reduced, all_reduce_event, partial = _foreach_reduce(*arguments)
    # torch keeps the tensor only until the event; without an event, the reduction is already done.
    return scattered, scatter_event, event, all_reduced if all_reduce_event else None, all_reduce_event, partial
