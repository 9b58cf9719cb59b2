"""Peak speed of GPUs by their makers' datasheets, against which a training's share (MFU) is counted."""

from __future__ import annotations

import types
import warnings

import torch
from composer.callbacks.speed_monitor import get_gpu_flops_available
from composer.core import Precision

_HALF = (Precision.AMP_BF16, Precision.AMP_FP16)

_MORE = {
    "a40": 149.7e12,
    "b200": 2250e12,
    "gb200": 2500e12,
    "geforce rtx 3090": 71e12,
    "geforce rtx 4090": 165.2e12,
    "geforce rtx 5090": 209.5e12,
    "l4": 121e12,
    "l40": 181.05e12,
    "l40s": 362.05e12,
    "rtx a6000": 154.8e12,
}
"""Cards that Composer's table lacks: FLOP/s of dense products in bf16 or fp16 that add up in fp32. From NVIDIA's
datasheets (A40, L4, L40, L40S, HGX B200, GB200; those that count sparse products, halved) and architecture whitepapers
(GA102: RTX 3090, A6000; Ada: RTX 4090; RTX Blackwell: RTX 5090)."""


def datasheet_peak(precision: Precision) -> float | None:
    """FLOP/s of this machine's GPU, without sparsity, by its datasheet; None for a card that is in no table.

    Args:
        precision: Precision of the products.
    """
    name = torch.cuda.get_device_name().lower().removeprefix("nvidia ")
    if precision in _HALF and name in _MORE:
        return _MORE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known: int = get_gpu_flops_available(types.SimpleNamespace(precision=precision))
    return float(known) or None
