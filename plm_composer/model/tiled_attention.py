"""Attention on CPUs: a few heads of one protein, or some small proteins of similar length, at a time.

Scores are computed tile by tile, in buffers that stay in the cache. Softmax is the expensive part on a CPU, above all
in bf16: the forward pass saves its probabilities, up to a limit, so that the backward pass need not compute them again.
With ``P`` the probabilities, ``dO`` the gradient and ``d = sum(dO * O)``, the scores' gradient is ``P * (dO V^T - d)``,
as in FlashAttention (Dao et al. 2022). ``_extended`` makes the difference a single matmul.
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

SAVED_SCORES_LIMIT = 1 << 25
"""Most probabilities that one call saves for its backward pass, 64 MB in bf16; the backward pass recomputes others."""
_TABLES_STEP = 64
"""Tables of distances and of later tokens are cached for multiples of this length, so that batches share them."""


def count_saved_scores(groups: Sequence[Group], heads: int) -> int:
    """Number of attention probabilities that one call saves for its backward pass.

    Args:
        groups: Groups of the batch.
        heads: Number of attention heads.
    """
    sizes = _score_counts(groups, heads)
    return sum(size for size, saved in zip(sizes, _choose_saved(sizes), strict=True) if saved)


def attend_tiled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    causal: bool,
    saved_scores: int,
) -> Tensor:
    """Attends within each protein; differentiable once.

    Args:
        query: Scaled queries, shape (tokens, heads, head_size), on the CPU.
        key: Keys, same shape.
        value: Values, same shape.
        cu_seqlens: Index of each protein's first token, then the number of tokens, shape (proteins + 1,), int32.
        slopes: ALiBi's slopes, shape (heads,), in the dtype of the queries; None for a model without ALiBi.
        causal: Whether a token attends only to itself and to earlier tokens of its protein.
        saved_scores: ``count_saved_scores`` of the batch.

    Returns:
        Shape (tokens, heads, head_size).
    """
    differentiates = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    return _forward(query, key, value, cu_seqlens, slopes, causal, saved_scores if differentiates else 0)[0]


# Both operators disable autocast, which would cast their intermediate results.
@torch.library.custom_op("plm_composer::tiled_attention", mutates_args=(), device_types="cpu")
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    causal: bool,
    saved_scores: int,
) -> tuple[Tensor, Tensor]:
    """Returns the result, and the probabilities that the backward pass needs, end to end, shape (saved_scores,)."""
    groups = groups_of(cu_seqlens, query.shape[1])
    alibi = _alibi(slopes, groups, query.dtype)
    result = torch.empty_like(query, memory_format=torch.contiguous_format)
    saved = query.new_empty(saved_scores)
    buffers = _ScoreBuffers(query, groups, saved)
    with torch.autocast("cpu", enabled=False):
        for index, proteins in enumerate(groups):
            queries, keys, values = (proteins.take(x) for x in (query, key, value))
            attended = torch.empty_like(queries)
            for part, scores in buffers.tiles(index):
                _probabilities(queries[part], keys[part], scores, proteins, alibi, part, causal)
                torch.bmm(scores, values[part], out=attended[part])
            proteins.put(result, attended)
    return result, saved


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
    saved: Tensor,
    cu_seqlens: Tensor,
    slopes: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of queries, keys and values."""
    groups = groups_of(cu_seqlens, query.shape[1])
    alibi = _alibi(slopes, groups, query.dtype)
    for_query, for_key, for_value = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value)
    )
    probability_buffers = _ScoreBuffers(query, groups, saved)
    gradient_buffers = _ScoreBuffers(query, groups, saved[:0])
    with torch.autocast("cpu", enabled=False):
        gradients_and_deltas, values_and_ones = _extended(gradient, value, result)
        for index, proteins in enumerate(groups):
            queries, keys, values = (proteins.take(x) for x in (query, key, values_and_ones))
            deltas = proteins.clear_padding(proteins.take(gradients_and_deltas), 1)
            # Transposed in advance: matmuls with transposed scores as the left operand take 1.5x as long.
            queries_first = proteins.take_transposed(query)
            gradients_first = proteins.clear_padding(proteins.take_transposed(gradient), 2)
            query_gradients, key_gradients, value_gradients = (
                torch.empty_like(x) for x in (queries, queries_first, gradients_first)
            )
            tiles = zip(probability_buffers.tiles(index), gradient_buffers.tiles(index), strict=True)
            for (part, probabilities), (_, score_gradients) in tiles:
                if not probability_buffers.is_saved[index]:
                    _probabilities(queries[part], keys[part], probabilities, proteins, alibi, part, causal)
                torch.bmm(gradients_first[part], probabilities, out=value_gradients[part])
                torch.bmm(deltas[part], values[part].transpose(1, 2), out=score_gradients)  # dO V^T - d
                score_gradients.mul_(probabilities)
                torch.bmm(score_gradients, keys[part], out=query_gradients[part])
                torch.bmm(queries_first[part], score_gradients, out=key_gradients[part])
            proteins.put(for_query, query_gradients)
            proteins.put_transposed(for_key, key_gradients)
            proteins.put_transposed(for_value, value_gradients)
    return for_query, for_key, for_value


@_backward.register_fake
def _(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, key, value))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, cu_seqlens, slopes, ctx.causal, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output, cu_seqlens, slopes)


def _differentiate(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    return *_backward(gradient, *ctx.saved_tensors, ctx.causal), None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)


def _alibi(slopes: Tensor | None, groups: Sequence[Group], dtype: torch.dtype) -> Alibi | None:
    if slopes is None:
        return None
    longest = max((each.length for each in groups), default=0)
    return Alibi(slopes, _distances(_rounded(longest), dtype))


def _rounded(longest: int) -> int:
    return math.ceil(longest / _TABLES_STEP) * _TABLES_STEP


@functools.lru_cache(maxsize=4)
def _distances(longest: int, dtype: torch.dtype) -> Tensor:
    return distances(longest, dtype=dtype)


@dataclasses.dataclass
class _ScoreBuffers:
    """Memory for the scores of a call: saved groups lie in ``saved``, the tiles of all others share one buffer.

    Args:
        query: Queries of the call, shape (tokens, heads, head_size).
        groups: Groups of the batch.
        saved: Memory for the saved scores, end to end; empty if none are saved.
    """

    query: Tensor
    groups: Sequence[Group]
    saved: Tensor

    def __post_init__(self) -> None:
        self.heads = self.query.shape[1]
        sizes = _score_counts(self.groups, self.heads)
        self.is_saved = _choose_saved(sizes) if len(self.saved) else [False] * len(sizes)
        saved_sizes = [size if saved else 0 for size, saved in zip(sizes, self.is_saved, strict=True)]
        self.starts = [0, *itertools.accumulate(saved_sizes)]
        unsaved = [each for each, saved in zip(self.groups, self.is_saved, strict=True) if not saved]
        tile = max((self._matrices_per_tile(each) * each.length**2 for each in unsaved), default=0)
        self.buffer = self.query.new_empty(tile)

    def tiles(self, index: int) -> Iterator[tuple[slice, Tensor]]:
        """Cuts a group's matrices into equal tiles of about ``protein_groups.TILE`` scores, at least one matrix each.

        Args:
            index: Index of the group.

        Yields:
            The tile's matrices, and memory for their scores, shape (matrices, length, length).
        """
        proteins = self.groups[index]
        matrices, length, step = self.heads * proteins.proteins, proteins.length, self._matrices_per_tile(proteins)
        for first in range(0, matrices, step):
            count = min(step, matrices - first)
            shape = (count, length, length)
            if self.is_saved[index]:
                start = self.starts[index] + first * length * length
                yield slice(first, first + count), self.saved[start : start + math.prod(shape)].view(shape)
            else:
                yield slice(first, first + count), self.buffer[: math.prod(shape)].view(shape)

    def _matrices_per_tile(self, proteins: Group) -> int:
        matrices = self.heads * proteins.proteins
        return math.ceil(matrices / math.ceil(matrices * proteins.length**2 / protein_groups.TILE))


def _score_counts(groups: Sequence[Group], heads: int) -> list[int]:
    return [heads * each.proteins * each.length**2 for each in groups]


def _choose_saved(sizes: Sequence[int]) -> list[bool]:
    """Decides which groups' scores are saved: in order, each that still fits into ``SAVED_SCORES_LIMIT``."""
    saved, left = [], SAVED_SCORES_LIMIT
    for size in sizes:
        saved.append(size <= left)
        if size <= left:
            left -= size
    return saved


@functools.lru_cache(maxsize=4)
def _later(longest: int) -> Tensor:
    """True where a key comes after its query, shape (longest, longest)."""
    return torch.ones(longest, longest, dtype=torch.bool).triu_(1)


def _probabilities(
    queries: Tensor, keys: Tensor, out: Tensor, proteins: Group, alibi: Alibi | None, part: slice, causal: bool
) -> None:
    torch.bmm(queries, keys.transpose(1, 2), out=out)
    if alibi is not None:
        alibi.repeated(proteins.proteins).subtract_from(out, part)
    if proteins.padding is not None:
        by_protein = out.view(proteins.proteins, -1, *out.shape[1:])
        by_protein.masked_fill_(proteins.padding[:, None, None, :], float("-inf"))
    if causal:
        length = proteins.length
        out.masked_fill_(_later(_rounded(length))[:length, :length], float("-inf"))
    torch.softmax(out, -1, out=out)


def _extended(gradient: Tensor, value: Tensor, result: Tensor) -> tuple[Tensor, Tensor]:
    """Appends two columns so that one matmul subtracts ``d``: ``[dO | -d_hi | -d_lo] @ [V | 1 | 1]^T = dO V^T - d``.

    Returns:
        The left and the right operand, both (tokens, heads, head_size + 2).
    """
    wide = torch.promote_types(gradient.dtype, torch.float32)
    delta = (gradient.to(wide) * result).sum(-1, keepdim=True).neg_()
    # d is split into a high and a low part, because rounding it to the eight bits of bf16 would lose too much.
    high = delta.to(gradient.dtype)
    low = (delta - high).to(gradient.dtype)
    return torch.cat((gradient, high, low), -1), F.pad(value, (0, 2), value=1.0)
