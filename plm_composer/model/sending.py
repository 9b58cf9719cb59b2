"""Copies from the host to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(x: Tensor, device: torch.device | str) -> Tensor:
    """Copies a tensor to a device; to a GPU from page-locked memory, since any other copy waits for what it computes.

    Args:
        x: A tensor on the host.
        device: Where to copy it.
    """
    if torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)
