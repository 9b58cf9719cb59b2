"""State sizes of torch's and Composer's own optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def adam_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: two moments and, with ``amsgrad``, the second's maximum."""
    return (3 if group.get("amsgrad") else 2) * shape.numel()


def momentum_states(shape: torch.Size, group: Mapping[str, Any]) -> int:
    """Number of fp32 values for a parameter: one if there is a momentum."""
    return shape.numel() if group.get("momentum") else 0
