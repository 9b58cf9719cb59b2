"""Stochastic depth (Huang et al. 2016; LayerDrop, Fan et al. 2020), protein by protein.

In training each protein skips each block with a probability that grows with depth. Its tokens are taken out of the
batch for that block, so that what is dropped is not computed either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plm_composer.model.batch_layouts import Layout
from plm_composer.model.config import ESM2Config


def drop_rates(config: ESM2Config) -> list[float]:
    """Probability with which a protein skips each block in training, from the first to the last."""
    layers = config.num_hidden_layers
    return [config.layer_drop * (layer + 1) / layers for layer in range(layers)]


def keep_probability(rate: float, proteins: int) -> float:
    """Probability with which a block computes a protein, where it is one of some and at least one of them is kept.

    Args:
        rate: Probability with which each is dropped.
        proteins: Number of proteins in the batch.
    """
    proteins = max(proteins, 1)
    return 1 - rate + rate**proteins / proteins


def draw_kept(config: ESM2Config, proteins: int) -> Tensor:
    """Draws which proteins each block computes, by torch's generator on the CPU.

    Where none would be left, the luckiest one is: every parameter gets a gradient, as DDP and FSDP want.

    Args:
        config: The model.
        proteins: Number of proteins in the batch.

    Returns:
        Shape (layers, proteins), bool, on the CPU.
    """
    draws = torch.rand(config.num_hidden_layers, proteins, device="cpu")
    if not proteins:
        return draws.bool()
    rates = torch.tensor(drop_rates(config), device="cpu")
    return (draws >= rates[:, None]) | (draws == draws.amax(1, keepdim=True))


def apply_to_kept(
    block: Callable[[Tensor, Layout], Tensor], x: Tensor, layout: Layout, kept: Tensor, rate: float
) -> Tensor:
    """Applies a block to some proteins. The others stay as they are.

    The update is divided by the probability of being kept, so that the mean over all draws is the update without any.

    Args:
        block: Of (x, layout) to the new x.
        x: Residual stream of the batch.
        layout: Of the batch.
        kept: Which proteins, shape (proteins,), bool, on the CPU.
        rate: Probability with which each was dropped.
    """
    scale = 1 / keep_probability(rate, len(kept))
    if bool(kept.all()):
        return _step_towards(block(x, layout), x, scale)
    rows, part = layout.subset(kept)
    before = x.index_select(0, rows)
    # Not index_copy, which keeps what it copies for its backward pass.
    return x.index_put((rows,), _step_towards(block(before, part), before, scale))


def _step_towards(updated: Tensor, x: Tensor, scale: float) -> Tensor:
    """``x + scale * (updated - x)``, in one pass."""
    return torch.lerp(x, updated.to(x.dtype), scale)
