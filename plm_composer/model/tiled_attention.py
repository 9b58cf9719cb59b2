"""Attention on CPUs: a few heads of one protein at a time, in buffers that stay in the cache.

Softmax is the dear part on a CPU, above all in bf16. The forward pass keeps its probabilities, up to a bound, so that
the backward pass need not compute them again. The scores' gradient is ``P * (gradient @ value^T - delta)`` with
``delta = sum(gradient * out)``, as in FlashAttention (Dao et al. 2022); the product in brackets takes in ``delta`` as
two more columns, so that one pass over the scores is left.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from plm_composer.model.alibi import Alibi

Bounds = Sequence[tuple[int, int]]
"""First token and end of each protein."""

TILE = 1 << 20
"""Scores worked on at once: enough to keep all cores busy, few enough to stay in a shared cache."""
KEPT = 1 << 25
"""Most probabilities that one call keeps for its backward pass, 64 MB in bf16; proteins beyond are computed again."""


def kept_scores(heads: int, lengths: Sequence[int]) -> int:
    """Number of attention scores that one call keeps for its backward pass.

    Args:
        heads: Attention heads.
        lengths: Tokens of each protein.
    """
    return sum(heads * length * length for length, kept in zip(lengths, _kept(heads, lengths), strict=True) if kept)


class TiledAttention(torch.autograd.Function):
    """Attention within proteins, ``apply(query, key, value, bounds, alibi)``; tensors (tokens, heads, head_size).

    An active autocast would cast what is computed here, so both passes leave it.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds, alibi: Alibi | None) -> Tensor:
        """Attends; queries are scaled already."""
        result = torch.empty_like(query)
        room = _Room(query, bounds, keeps=any(ctx.needs_input_grad))
        with torch.autocast("cpu", enabled=False):
            for index, rows in enumerate(itertools.starmap(slice, bounds)):
                queries, keys, values = (_heads_first(x, rows) for x in (query, key, value))
                for heads, scores in room.tiles(index):
                    _probabilities(queries[heads], keys[heads], scores, alibi, heads)
                    result[rows, heads] = torch.bmm(scores, values[heads]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, result, *room.kept)
        ctx.bounds, ctx.alibi = bounds, alibi
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values."""
        query, key, value, result, *kept = ctx.saved_tensors
        for_query, for_key, for_value = (torch.empty_like(x) for x in (query, key, value))
        room, other = _Room(query, ctx.bounds, kept=kept), _Room(query, ctx.bounds)
        with torch.autocast("cpu", enabled=False):
            gradients_and_deltas, values_and_ones = _extended(gradient, value, result)
            for index, rows in enumerate(itertools.starmap(slice, ctx.bounds)):
                queries, keys, values, deltas = (
                    _heads_first(x, rows) for x in (query, key, values_and_ones, gradients_and_deltas)
                )
                # Head size first: products with transposed scores on the left are half as slow again.
                queries_first, gradients_first = (_head_size_first(x, rows) for x in (query, gradient))
                for (heads, scores), (_, slope) in zip(room.tiles(index), other.tiles(index), strict=True):
                    if not room.is_kept[index]:
                        _probabilities(queries[heads], keys[heads], scores, ctx.alibi, heads)
                    for_value[rows, heads] = torch.bmm(gradients_first[heads], scores).permute(2, 0, 1)
                    torch.bmm(deltas[heads], values[heads].transpose(1, 2), out=slope)
                    slope.mul_(scores)
                    for_query[rows, heads] = torch.bmm(slope, keys[heads]).transpose(0, 1)
                    for_key[rows, heads] = torch.bmm(queries_first[heads], slope).permute(2, 0, 1)
        return for_query, for_key, for_value, None, None


@dataclasses.dataclass
class _Room:
    """Where the scores of a call lie: kept ones in memory of their own, the others in one buffer, tile by tile."""

    query: Tensor
    bounds: Bounds
    keeps: bool = False
    kept: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        self.heads = self.query.shape[1]
        self.lengths = [end - start for start, end in self.bounds]
        self.is_kept = [False] * len(self.lengths)
        if self.keeps or self.kept:
            self.is_kept = _kept(self.heads, self.lengths)
        sizes = [self.heads * length * length * kept for length, kept in zip(self.lengths, self.is_kept, strict=True)]
        self.starts = [0, *itertools.accumulate(sizes)]
        if self.keeps:
            self.kept = [self.query.new_empty(self.starts[-1])]
        longest = max((n for n, kept in zip(self.lengths, self.is_kept, strict=True) if not kept), default=0)
        # Equal runs of heads may have up to one head more than the tile holds.
        self.buffer = self.query.new_empty(min(self.heads * longest**2, TILE + longest**2))

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """Cuts one protein's attention into equal runs of heads with about ``TILE`` scores, at least one head.

        Yields:
            The heads, and room for their scores, shape (heads, length, length).
        """
        length = self.lengths[index]
        step = math.ceil(self.heads / math.ceil(self.heads * length * length / TILE))
        for first in range(0, self.heads, step):
            count = min(step, self.heads - first)
            shape = (count, length, length)
            if self.is_kept[index]:
                start = self.starts[index] + first * length * length
                yield slice(first, first + count), self.kept[0][start : start + math.prod(shape)].view(shape)
            else:
                yield slice(first, first + count), self.buffer[: math.prod(shape)].view(shape)


def _kept(heads: int, lengths: Sequence[int]) -> list[bool]:
    totals = itertools.accumulate(heads * length * length for length in lengths)
    return [total <= KEPT for total in totals]


def _heads_first(x: Tensor, rows: slice) -> Tensor:
    # A copy: torch multiplies no strided batches in place, and would copy each operand each time.
    return x[rows].transpose(0, 1).contiguous()


def _head_size_first(x: Tensor, rows: slice) -> Tensor:
    return x[rows].permute(1, 2, 0).contiguous()


def _probabilities(queries: Tensor, keys: Tensor, out: Tensor, alibi: Alibi | None, heads: slice) -> None:
    torch.bmm(queries, keys.transpose(1, 2), out=out)
    if alibi is not None:
        alibi.subtract_from(out, heads)
    torch.softmax(out, -1, out=out)


def _extended(gradient: Tensor, value: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients with minus delta beside them, and values with ones, so that one product gives the difference."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    delta = (gradient.to(wide) * result).sum(-1, keepdim=True).neg_()
    # In two parts, since what the product subtracts must not be rounded to bf16's eight bits.
    upper = delta.to(gradient.dtype)
    lower = (delta - upper).to(gradient.dtype)
    return torch.cat((gradient, upper, lower), -1), F.pad(value, (0, 2), value=1.0)
