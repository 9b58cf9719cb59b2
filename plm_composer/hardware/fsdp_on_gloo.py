"""Corrections for FSDP2 on CPUs. On GPUs nothing changes."""

from __future__ import annotations

import inspect
from typing import Any

from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param_group

_divide_factors = _fsdp_collectives._get_gradient_divide_factors
_foreach_reduce = _fsdp_collectives.foreach_reduce
_SIGNATURE = inspect.signature(_divide_factors)
_CAN_ADD_UP = "force_sum_reduction_for_comms" in _SIGNATURE.parameters
"""Whether torch has a switch for sums, as it does from 2.8 on."""


def correct_fsdp_on_cpus() -> None:
    """Makes FSDP2 on CPUs reduce gradients to their mean, over all processes or over groups of them (HSDP).

    torch asks gloo for the mean, which gloo does not know: ``reduce_scatter`` gives the sum instead, and says nothing,
    and ``all_reduce``, which HSDP needs, refuses. Gradients as many times too large as there are ranks hardly change
    Adam's steps, but gradient clipping and SGD's. torch 2.7 also insists on an event, which streams of CPUs do not
    give.
    """
    _fsdp_collectives._get_gradient_divide_factors = _factors
    if not _CAN_ADD_UP:
        _fsdp_param_group.foreach_reduce = _reduce  # type: ignore[attr-defined,assignment]


def _factors(*arguments: Any, **options: Any) -> tuple[Any, ...]:
    """What gradients are divided by before and after they are added up; torch's own for any device but CPUs."""
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
    # The tensor is handed on only to be kept until the event, and where there is none the work is done.
    return scattered, scatter_event, event, all_reduced if all_reduce_event else None, all_reduce_event, partial
