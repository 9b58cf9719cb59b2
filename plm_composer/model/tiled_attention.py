"""Attention on CPUs: a few heads of one protein at a time, in buffers that stay in the cache.

Softmax is the dear part on a CPU, above all in bf16: three passes over the scores forward, three more backward. Here
each direction takes one. With ``E = exp(scores)``, unnormalised, and ``n = 1 / sum(E)`` of each query:

- forward, ``out = n * (E @ value)``;
- backward, with ``slope = n * gradient`` and ``delta = sum(slope * out)``, the scores' gradient is
  ``E * (slope @ value^T - delta)``, and the product in brackets takes in ``delta`` as two more columns.

Only scores too large for ``exp`` are shifted by their maximum first.
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

Bounds = Sequence[tuple[int, int]]
"""First token and end of each protein."""

TILE = 1 << 20
"""Scores worked on at once: enough to keep all cores busy, few enough to stay in a shared cache."""
KEPT = 1 << 25
"""Most exponentials that one call keeps for its backward pass, 64 MB in bf16; proteins beyond are computed again."""
_LARGEST = 40.0
"""Scores up to here need no shift: exp(40) and its reciprocal are far from the ends of fp32's and bf16's range."""


def kept_scores(heads: int, lengths: Sequence[int]) -> int:
    """Number of attention scores that one call keeps for its backward pass.

    Args:
        heads: Attention heads.
        lengths: Tokens of each protein.
    """
    return sum(heads * length * length for length, kept in zip(lengths, _kept(heads, lengths), strict=True) if kept)


class TiledAttention(torch.autograd.Function):
    """Attention within proteins, ``apply(query, key, value, bounds)``; tensors of shape (tokens, heads, head_size).

    An active autocast would cast what is computed here, so both passes leave it.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Bounds) -> Tensor:
        """Attends; queries are scaled already."""
        result = torch.empty_like(query)
        reciprocal = query.new_empty(*query.shape[:2], 1, dtype=_wide(query))
        room = _Room(query, bounds, keeps=any(ctx.needs_input_grad))
        with torch.autocast("cpu", enabled=False):
            for index, rows in enumerate(itertools.starmap(slice, bounds)):
                queries, keys, values = (_heads_first(x, rows) for x in (query, key, value))
                shift = _must_shift(queries, keys)
                for heads, scores in room.tiles(index):
                    _exponentiate(queries[heads], keys[heads], scores, shift)
                    inverse = scores.sum(-1, keepdim=True, dtype=reciprocal.dtype).reciprocal_()
                    reciprocal[rows, heads] = inverse.transpose(0, 1)
                    result[rows, heads] = (torch.bmm(scores, values[heads]) * inverse).transpose(0, 1).to(result.dtype)
        ctx.save_for_backward(query, key, value, result, reciprocal, *room.kept)
        ctx.bounds = bounds
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of queries, keys and values."""
        query, key, value, result, reciprocal, *kept = ctx.saved_tensors
        for_query, for_key, for_value = (torch.empty_like(x) for x in (query, key, value))
        room, other = _Room(query, ctx.bounds, kept=kept), _Room(query, ctx.bounds)
        with torch.autocast("cpu", enabled=False):
            slopes_and_deltas, values_and_ones = _extended(gradient, value, result, reciprocal)
            for index, rows in enumerate(itertools.starmap(slice, ctx.bounds)):
                queries, keys, values, deltas = (
                    _heads_first(x, rows) for x in (query, key, values_and_ones, slopes_and_deltas)
                )
                slopes = deltas[..., : value.shape[-1]].contiguous()
                shift = not room.is_kept[index] and _must_shift(queries, keys)
                for (heads, scores), (_, slope) in zip(room.tiles(index), other.tiles(index), strict=True):
                    if not room.is_kept[index]:
                        _exponentiate(queries[heads], keys[heads], scores, shift)
                    for_value[rows, heads] = torch.bmm(scores.transpose(1, 2), slopes[heads]).transpose(0, 1)
                    torch.bmm(deltas[heads], values[heads].transpose(1, 2), out=slope)
                    slope.mul_(scores)
                    for_query[rows, heads] = torch.bmm(slope, keys[heads]).transpose(0, 1)
                    for_key[rows, heads] = torch.bmm(slope.transpose(1, 2), queries[heads]).transpose(0, 1)
        return for_query, for_key, for_value, None


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


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _heads_first(x: Tensor, rows: slice) -> Tensor:
    # A copy: torch multiplies no strided batches in place, and would copy each operand each time.
    return x[rows].transpose(0, 1).contiguous()


def _must_shift(queries: Tensor, keys: Tensor) -> bool:
    """Whether a score of these (heads, length, head_size) may exceed ``_LARGEST``: by Cauchy-Schwarz, and on NaN."""
    query_norm, key_norm = (torch.linalg.vector_norm(x, dim=-1).amax(-1) for x in (queries, keys))
    return not bool((query_norm * key_norm).amax() <= _LARGEST)


def _exponentiate(queries: Tensor, keys: Tensor, out: Tensor, shift: bool) -> None:
    torch.bmm(queries, keys.transpose(1, 2), out=out)
    if shift:
        out.sub_(out.amax(-1, keepdim=True))
    out.exp_()


def _extended(gradient: Tensor, value: Tensor, result: Tensor, reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes with minus delta beside them, and values with ones, so that one product gives ``slope @ v^T - delta``."""
    slope = gradient * reciprocal
    delta = (slope * result).sum(-1, keepdim=True).neg_()
    # In two parts, since what the product subtracts must not be rounded to bf16's eight bits.
    upper = delta.to(gradient.dtype)
    lower = (delta - upper).to(gradient.dtype)
    return torch.cat((slope.to(gradient.dtype), upper, lower), -1), F.pad(value, (0, 2), value=1.0)
