"""Stochastic depth (Huang et al. 2016; LayerDrop, Fan et al. 2020), protein by protein.

In training each protein skips each block with a probability that grows with depth. Its tokens are taken out of the
batch for that block, so that a skipped block costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plm_composer.model.batch_layouts import Layout
from plm_composer.model.config import ESM2Config


def drop_rates(config: ESM2Config) -> list[float]:
    """Probability that a protein skips each block in training, from the first block to the last."""
    layers = config.num_hidden_layers
    return [config.layer_drop * (layer + 1) / layers for layer in range(layers)]


def keep_probability(rate: float, proteins: int) -> float:
    """Probability that a block computes a protein, given that it computes at least one protein of the batch.

    Args:
        rate: Probability that a protein is dropped.
        proteins: Number of proteins in the batch.
    """
    proteins = max(proteins, 1)
    return 1 - rate + rate**proteins / proteins


def draw_kept(config: ESM2Config, proteins: int) -> Tensor:
    """Draws which proteins each block computes, with torch's generator on the CPU.

    If all proteins would be dropped, the one with the largest draw is kept, so that every parameter gets a gradient, as
    DDP and FSDP require.

    Args:
        config: The model's config.
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
    """Applies a block to some proteins and leaves the others unchanged.

    The update is divided by the probability of being kept, so that its mean over all draws is the update without drops.

    Args:
        block: The block, a function of (x, layout) that returns the new x.
        x: Residual stream of the batch, shape (..., hidden_size).
        layout: Layout of the batch.
        kept: True for the proteins that the block computes, shape (proteins,), bool, on the CPU.
        rate: Probability that a protein was dropped.
    """
    scale = 1 / keep_probability(rate, len(kept))
    if bool(kept.all()):
        return _step_towards(block(x, layout), x, scale)
    rows, part = layout.subset(kept)
    before = x.index_select(0, rows)
    # index_copy would save its source for the backward pass; index_put does not.
    return x.index_put((rows,), _step_towards(block(before, part), before, scale))


def _step_towards(updated: Tensor, x: Tensor, scale: float) -> Tensor:
    """Computes ``x + scale * (updated - x)``; ``lerp`` does it in one pass, and extrapolates where ``scale`` > 1."""
    return torch.lerp(x, updated.to(x.dtype), scale)
