"""Splits parameters into those that decay and those that do not."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits a model's trainable parameters by weight decay: matrices decay, biases and norms do not.

    Decay on a bias or a norm's scale does not limit the function's size, it only moves its optimum; GPT-2 and
    ESM2 exclude them (Radford et al. 2019; Lin et al. 2023).

    Args:
        model: The model; frozen parameters are left out.
        weight_decay: Weight decay of parameters with two or more dimensions.

    Returns:
        Two groups for a torch optimizer; a shared parameter is in one of them, once.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
