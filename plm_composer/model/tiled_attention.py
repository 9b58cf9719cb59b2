"""Attention on CPUs: a few heads of one protein, or some small proteins of like length, at a time.

Scores are computed tile by tile, in buffers that stay in the cache. Softmax is the dear part on a CPU, above all in
bf16: the forward pass keeps its probabilities, up to a bound, so that the backward pass need not compute them again.
With ``P`` the probabilities, ``dO`` the gradient and ``d = sum(dO * O)``, the scores' gradient is ``P * (dO V^T - d)``,
as in FlashAttention (Dao et al. 2022). One product gives the difference: ``[dO | -d_high | -d_low] [V | 1 | 1]^T``.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.model import protein_groups
from plm_composer.model.alibi import Alibi, distances
from plm_composer.model.protein_groups import Group, groups_of

KEPT = 1 << 25
"""Most probabilities that one call keeps for its backward pass, 64 MB in bf16; groups beyond are computed again."""
_DISTANCES_STEP = 64
"""Tables of distances are kept for multiples of it, so that batches share them."""


def kept_scores(groups: Sequence[Group], heads: int) -> int:
    """Number of attention scores that one call keeps for its backward pass.

    Args:
        groups: Of the batch.
        heads: Attention heads.
    """
    sizes = _sizes(groups, heads)
    return sum(size for size, kept in zip(sizes, _fit(sizes), strict=True) if kept)


def attend_tiled(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, slopes: Tensor | None, kept: int
) -> Tensor:
    """Attends within each protein, and can be differentiated once.

    Args:
        query: Scaled queries, shape (tokens, heads, head_size), on the CPU.
        key: Keys, same shape.
        value: Values, same shape.
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        slopes: Those of ALiBi, shape (heads,), in the dtype of the queries.
        kept: ``kept_scores`` of the batch.

    Returns:
        Shape (tokens, heads, head_size).
    """
    differentiates = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    result: Tensor = _forward(query, key, value, cu_seqlens, slopes, kept if differentiates else 0)[0]
    return result


# An active autocast would cast what is computed inside these two operators, so both leave it.
@torch.library.custom_op("plm_composer::tiled_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, slopes: Tensor | None, kept: int
) -> tuple[Tensor, Tensor]:
    """The result, and the probabilities that are kept for the backward pass, end to end."""
    groups = groups_of(cu_seqlens, query.shape[1])
    alibi = _alibi(slopes, groups, query.dtype)
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    probabilities = query.new_empty(kept)
    buffers = _ScoreBuffers(query, groups, probabilities)
    with torch.autocast("cpu", enabled=False):
        for index, proteins in enumerate(groups):
            queries, keys, values = (proteins.take(x) for x in (query, key, value))
            attended = torch.empty_like(queries)
            for part, scores in buffers.tiles(index):
                _probabilities(queries[part], keys[part], scores, proteins, alibi, part)
                torch.bmm(scores, values[part], out=attended[part])
            proteins.put(result, attended)
    return result, probabilities


@_forward.register_fake
def _(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query, memory_format=torch.contiguous_format), query.new_empty(rest[-1])


@torch.library.custom_op("plm_composer::tiled_attention_backward", mutates_args=(), device_types="cpu")
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    kept: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    groups = groups_of(cu_seqlens, query.shape[1])
    alibi = _alibi(slopes, groups, query.dtype)
    for_query, for_key, for_value = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)
    )
    probabilities = _ScoreBuffers(query, groups, kept)
    gradients_of_scores = _ScoreBuffers(query, groups, kept[:0])
    with torch.autocast("cpu", enabled=False):
        gradients_and_deltas, values_and_ones = _extended(gradient, value, result)
        for index, proteins in enumerate(groups):
            queries, keys, values = (proteins.take(x) for x in (query, key, values_and_ones))
            deltas = proteins.clear_padding(proteins.take(gradients_and_deltas), 1)
            # Transposed beforehand: matmuls with transposed scores as the left operand take 1.5x as long.
            queries_first = proteins.take_transposed(query)
            gradients_first = proteins.clear_padding(proteins.take_transposed(gradient), 2)
            query_gradients, key_gradients, value_gradients = (
                torch.empty_like(x) for x in (queries, queries_first, gradients_first)
            )
            tiles = zip(probabilities.tiles(index), gradients_of_scores.tiles(index), strict=True)
            for (part, scores), (_, slope) in tiles:
                if not probabilities.is_kept[index]:
                    _probabilities(queries[part], keys[part], scores, proteins, alibi, part)
                torch.bmm(gradients_first[part], scores, out=value_gradients[part])
                torch.bmm(deltas[part], values[part].transpose(1, 2), out=slope)
                slope.mul_(scores)
                torch.bmm(slope, keys[part], out=query_gradients[part])
                torch.bmm(queries_first[part], slope, out=key_gradients[part])
            proteins.put(for_query, query_gradients)
            proteins.put_transposed(for_key, key_gradients)
            proteins.put_transposed(for_value, value_gradients)
    return for_query, for_key, for_value


@_backward.register_fake
def _(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_seqlens, slopes, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output, cu_seqlens, slopes)


def _differentiate(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 6
    return *_backward(gradient, *ctx.saved_tensors), None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)


def _alibi(slopes: Tensor | None, groups: Sequence[Group], dtype: torch.dtype) -> Alibi | None:
    if slopes is None:
        return None
    longest = max((each.length for each in groups), default=0)
    return Alibi(slopes, _distances(math.ceil(longest / _DISTANCES_STEP) * _DISTANCES_STEP, dtype))


@functools.lru_cache(maxsize=4)
def _distances(longest: int, dtype: torch.dtype) -> Tensor:
    return distances(longest, dtype=dtype)


@dataclasses.dataclass
class _ScoreBuffers:
    """Memory for the scores of a call: kept ones have their own, the others share one buffer, tile by tile."""

    query: Tensor
    groups: Sequence[Group]
    kept: Tensor

    def __post_init__(self) -> None:
        self.heads = self.query.shape[1]
        sizes = _sizes(self.groups, self.heads)
        self.is_kept = _fit(sizes) if len(self.kept) else [False] * len(sizes)
        self.starts = [0, *itertools.accumulate(size * kept for size, kept in zip(sizes, self.is_kept, strict=True))]
        tiles = [
            self._step(each) * each.length**2 for each, kept in zip(self.groups, self.is_kept, strict=True) if not kept
        ]
        self.buffer = self.query.new_empty(max(tiles, default=0))

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """Cuts one group's matrices into equal runs with about ``protein_groups.TILE`` scores, at least one matrix.

        Yields:
            The matrices, and memory for their scores, shape (matrices, length, length).
        """
        proteins = self.groups[index]
        matrices, length, step = self.heads * proteins.proteins, proteins.length, self._step(proteins)
        for first in range(0, matrices, step):
            count = min(step, matrices - first)
            shape = (count, length, length)
            if self.is_kept[index]:
                start = self.starts[index] + first * length * length
                yield slice(first, first + count), self.kept[start : start + math.prod(shape)].view(shape)
            else:
                yield slice(first, first + count), self.buffer[: math.prod(shape)].view(shape)

    def _step(self, proteins: Group) -> int:
        matrices = self.heads * proteins.proteins
        return math.ceil(matrices / math.ceil(matrices * proteins.length**2 / protein_groups.TILE))


def _sizes(groups: Sequence[Group], heads: int) -> list[int]:
    return [heads * each.proteins * each.length**2 for each in groups]


def _fit(sizes: Sequence[int]) -> list[bool]:
    """Which groups' scores are kept: from the first on, each that still fits into ``KEPT``."""
    fit, left = [], KEPT
    for size in sizes:
        fit.append(size <= left)
        left -= size if size <= left else 0
    return fit


def _probabilities(
    queries: Tensor, keys: Tensor, out: Tensor, proteins: Group, alibi: Alibi | None, part: slice
) -> None:
    torch.bmm(queries, keys.transpose(1, 2), out=out)
    if alibi is not None:
        alibi.repeated(proteins.proteins).subtract_from(out, part)
    if proteins.padding is not None:
        by_protein = out.view(proteins.proteins, -1, *out.shape[1:])
        by_protein.masked_fill_(proteins.padding[:, None, None, :], float("-inf"))
    torch.softmax(out, -1, out=out)


def _extended(gradient: Tensor, value: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """``[dO | -d_high | -d_low]`` and ``[V | 1 | 1]``, both (tokens, heads, head_size + 2)."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    delta = (gradient.to(wide) * result).sum(-1, keepdim=True).neg_()
    # In two parts, since what the product subtracts must not be rounded to bf16's eight bits.
    high = delta.to(gradient.dtype)
    low = (delta - high).to(gradient.dtype)
    return torch.cat((gradient, high, low), -1), F.pad(value, (0, 2), value=1.0)
