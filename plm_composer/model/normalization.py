"""The norms of a model's blocks."""

from __future__ import annotations

from torch import nn

from plm_composer.model.config import ESM2Config


def make_norm(config: ESM2Config) -> nn.Module:
    """Makes a norm of the residual stream: LayerNorm (Ba et al. 2016), or RMSNorm (Zhang and Sennrich 2019).

    Args:
        config: Says which one, and whether a LayerNorm has a bias; an RMSNorm has none.
    """
    return _make(config, config.hidden_size, config.norm_bias)


def make_head_norm(config: ESM2Config) -> nn.Module:
    """Makes a norm of queries or keys, head by head, with one learned scale for all heads and no bias.

    Normalised before they are rotated, they bound the scores (Henry et al. 2020; with LayerNorm as in Dehghani et al.
    2023).

    Args:
        config: Says which norm.
    """
    return _make(config, config.head_size, bias=False)


def _make(config: ESM2Config, width: int, bias: bool) -> nn.Module:
    if config.normalization == "rmsnorm":
        return nn.RMSNorm(width, eps=config.layer_norm_eps)
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=bias)
