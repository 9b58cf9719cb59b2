"""A short depthwise convolution along each protein, before queries, keys and values are made.

As in Primer (So et al. 2021) and Canon layers (Allen-Zhu 2025); on proteins, convolutions alone go far (CARP, Yang et
al. 2022). It is a sum of shifted copies. A shift by d would leak the first d tokens of the next protein, or the last d
of the previous one: those are zeroed before adding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Edges = tuple[Tensor, Tensor]
"""Indices of each protein's first tokens and of its last tokens: two tensors of shape (reach, proteins), outermost
first. Where a protein is too short, the index is the number of tokens in the batch."""


def find_edges(starts: Tensor, ends: Tensor, tokens: int, reach: int) -> Edges:
    """Finds the tokens at the ends of proteins, once for all layers of a batch.

    Args:
        starts: Index of each protein's first token, shape (proteins,), int64.
        ends: Index after each protein's last token, shape (proteins,), int64.
        tokens: Number of tokens in the batch.
        reach: Number of neighbours on each side that the convolution reads.
    """
    offset = torch.arange(reach, device=starts.device)[:, None]
    exists = offset < ends - starts
    return torch.where(exists, starts + offset, tokens), torch.where(exists, ends - 1 - offset, tokens)


def convolve_in_graph(x: Tensor, weight: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """The convolution in plain operations; ``torch.compile`` fuses them, and those of the gradient, into one pass.

    Args:
        x: Activations, shape (tokens, channels).
        weight: Weights, shape (channels, width), with an odd width.
        before: Number of tokens of the same protein before each token, shape (tokens,).
        after: Number of tokens of the same protein after each token, shape (tokens,).
    """
    reach = weight.shape[1] // 2
    result = x * weight[:, reach]
    for distance in range(1, reach + 1):
        # Not padded: torch would save each padded copy for the backward pass, where it computes what is rolled again.
        following, preceding = x.roll(-distance, 0), x.roll(distance, 0)
        result = result + torch.where((after >= distance)[:, None], following, 0) * weight[:, reach + distance]
        result = result + torch.where((before >= distance)[:, None], preceding, 0) * weight[:, reach - distance]
    return result


class DepthwiseConvolution(torch.autograd.Function):
    """The convolution for eager mode, in fewer passes: ``apply(x, weight, edges)`` with x (tokens, channels)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, edges: Edges) -> Tensor:
        """The weighted sum over each token's neighbours in its protein."""
        ctx.save_for_backward(x, weight)
        ctx.edges = edges
        return _convolve(x, weight, edges)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Convolves the gradient with the reversed weights, and computes the weights' gradient."""
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
        The offset of the neighbours; the tokens that have a neighbour at this offset; and these neighbours, zeroed if
        they belong to another protein. They are a view of a buffer that the next step overwrites.
    """
    tokens, reach = len(x), len(edges[0])
    # One extra row, for the edges of proteins that are too short.
    copy = x.new_empty((tokens + 1, x.shape[1]))
    for side, direction in zip(edges, (1, -1), strict=True):
        copy[:tokens] = x
        for distance in range(1, min(reach, tokens - 1) + 1):
            copy.index_fill_(0, side[distance - 1], 0)
            near, far = slice(0, tokens - distance), slice(distance, tokens)
            rows, neighbours = (near, far) if direction > 0 else (far, near)
            yield direction * distance, rows, copy[neighbours]
