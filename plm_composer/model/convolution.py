"""A short depthwise convolution along each protein, before queries, keys and values are made.

As in Primer (So et al. 2021) and Canon layers (Allen-Zhu 2025); on proteins, convolutions alone go far (CARP, Yang et
al. 2022). It begins as zero, so that a new model is the one without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plm_composer.model.config import ESM2Config

if TYPE_CHECKING:
    from plm_composer.model.layout import Layout

Edges = tuple[Tensor, Tensor]
"""The first tokens of each protein, and its last: two tensors of shape (reach, proteins) of indices, outermost first.
Where a protein is too short, the index is the number of all tokens."""


class ShortConvolution(nn.Module):
    """What goes into attention, plus a weighted sum of each token's neighbours in its protein."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        # The shape that ``torch.nn.Conv1d`` has for it.
        self.weight = nn.Parameter(torch.zeros(config.hidden_size, 1, config.short_convolution))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Adds the convolution of ``x``, shape (..., hidden_size)."""
        if torch.is_autocast_enabled(x.device.type):
            # What the next matrix product would do: half the memory to pass through here.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        convolved: Tensor = layout.convolve(x, self.weight[:, 0].to(x.dtype))
        return x + convolved


def find_edges(cu_seqlens: Tensor, tokens: int, reach: int) -> Edges:
    """Finds the ends of proteins, once for all layers of a batch.

    Args:
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,).
        tokens: Number of all tokens.
        reach: How far a convolution looks to each side.
    """
    starts, ends = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    offset = torch.arange(reach, device=cu_seqlens.device)[:, None]
    exists = offset < ends - starts
    return torch.where(exists, starts + offset, tokens), torch.where(exists, ends - 1 - offset, tokens)


class DepthwiseConvolution(torch.autograd.Function):
    """``apply(x, weight, edges)``: x of shape (tokens, channels), weight (channels, width) of an odd width.

    A sum of shifted copies. What would come in from another protein are the first tokens of the one after, or the last
    of the one before: they are zeroed in the copy, one more for each step further.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
        """The weighted sum over each token's neighbours in its protein."""
        ctx.save_for_backward(x, weight)
        ctx.edges = edges
        return _convolve(x, weight, edges)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The same for the gradient, with the weights in reverse; and the weights' own gradients."""
        x, weight = ctx.saved_tensors
        for_x = _convolve(gradient, weight.flip(-1), ctx.edges) if ctx.needs_input_grad[0] else None
        for_weight = _correlate(gradient, x, weight, ctx.edges) if ctx.needs_input_grad[1] else None
        return for_x, for_weight, None


def _convolve(x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    taps, reach = weight.t().contiguous(), len(edges[0])
    result = x * taps[reach]
    for offset, rows, neighbours in _shifted(x, edges):
        result[rows].addcmul_(neighbours, taps[reach + offset])
    return result


def _correlate(gradient: Tensor, x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    reach = len(edges[0])
    wide = torch.promote_types(weight.dtype, torch.float32)
    sums = weight.new_zeros((weight.shape[1], weight.shape[0]), dtype=wide)
    sums[reach] = (gradient * x).sum(0, dtype=wide)
    for offset, rows, neighbours in _shifted(x, edges):
        sums[reach + offset] = (gradient[rows] * neighbours).sum(0, dtype=wide)
    return sums.t().to(weight.dtype)


def _shifted(x: Tensor, edges: Edges) -> Iterator[tuple[int, slice, Tensor]]:
    """Pairs tokens with each of their neighbours.

    Yields:
        How far the neighbour is, the tokens that have one in the row, and these neighbours: zero where the neighbour is
        of another protein. They are a view of a buffer that changes with the next.
    """
    tokens, reach = len(x), len(edges[0])
    # One row more, for the edges of proteins that are too short.
    copy = x.new_empty((tokens + 1, x.shape[1]))
    for side, direction in zip(edges, (1, -1), strict=True):
        copy[:tokens] = x
        for distance in range(1, min(reach, tokens - 1) + 1):
            copy.index_fill_(0, side[distance - 1], 0)
            near, far = slice(0, tokens - distance), slice(distance, tokens)
            rows, neighbours = (near, far) if direction > 0 else (far, near)
            yield direction * distance, rows, copy[neighbours]
