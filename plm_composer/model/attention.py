"""Attention over proteins of unequal length, packed into one row or padded into a rectangle.

Every function here takes queries that are already scaled by ``head_size ** -0.5``: ESM2 scales before it rotates.
There is no dropout, no causal mask, and a protein only ever sees itself.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from plm_composer.precision import multiplies_bf16

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of one batch: queries, keys and values of one shape, (..., heads, head_size), to a result of that shape."""
Backend = Callable[[Tensor, int], Attend]
"""Looks at the ``cu_seqlens`` and the greatest length of a batch once; what it returns serves all layers."""

_TILE = 1 << 20
"""Attention scores worked on at once on CPU: enough to keep all cores busy, few enough to stay in a shared cache."""


def prepare_reference(cu_seqlens: Tensor, max_seqlen: int) -> Attend:
    """One call of torch's attention per protein: slow, and right. The other backends are held against it."""
    bounds = _bounds(cu_seqlens)
    del max_seqlen

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _attend_each(query, key, value, bounds)

    return attend


def prepare_cpu(cu_seqlens: Tensor, max_seqlen: int) -> Attend:
    """For CPUs: a few heads of one protein at a time, in buffers that stay in the cache; keeps no scores.

    In bf16, where the processor multiplies it, all products are bf16, as they are in the unfused attention of others;
    torch's fused kernel has a slow bf16 backward. In fp32 torch's own kernel does the forward pass. Elsewhere bf16 is
    computed in fp32.
    """
    bounds = _bounds(cu_seqlens)
    del max_seqlen

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        working = query.dtype
        if working == torch.float16 or (working == torch.bfloat16 and not multiplies_bf16("cpu")):
            working = torch.float32
        arguments = (query.to(working), key.to(working), value.to(working), bounds)
        result: Tensor = _TiledAttention.apply(*arguments)  # type: ignore[no-untyped-call]
        return result.to(query.dtype)

    return attend


def prepare_nested(cu_seqlens: Tensor, max_seqlen: int) -> Attend:
    """For GPUs: the variable-length kernels that torch brings along, reached by its jagged nested tensors.

    Only its fused kernels are allowed: torch 2.7 falls back to a formula whose gradients are wrong, without a word.

    Raises:
        RuntimeError: When called where there is no fused kernel: on CPU, in fp64, or on a GPU that is too old.
    """
    offsets = cu_seqlens.long()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (
            torch.nested.nested_tensor_from_jagged(x, offsets=offsets, max_seqlen=max_seqlen).transpose(1, 2)
            for x in (query, key, value)
        )
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            return F.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2).values()

    return attend


def prepare_flash(cu_seqlens: Tensor, max_seqlen: int) -> Attend:
    """The ``flash-attn`` package: GPU, fp16 and bf16 only."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        result: Tensor = flash_attn_varlen_func(query, key, value, *bounds, softmax_scale=1.0)
        return result

    return attend


BACKENDS: dict[str, Backend] = {
    "reference": prepare_reference,
    "cpu": prepare_cpu,
    "nested": prepare_nested,
    "flash": prepare_flash,
}


def choose_backend(device: torch.device, dtype: torch.dtype) -> str:
    """Name of the fastest backend for queries of this dtype on this device."""
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda" or dtype == torch.float64:
        return "reference"
    return "flash" if dtype in (torch.float16, torch.bfloat16) and _has_flash_attention() else "nested"


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, backend: str | None = None
) -> Tensor:
    """Attention within each protein of a packed row.

    Args:
        query: Scaled queries, shape (tokens, heads, head_size).
        key: Keys, same shape.
        value: Values, same shape.
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        max_seqlen: Length of the longest protein.
        backend: A name in ``BACKENDS``; None for the fastest one.

    Returns:
        Shape (tokens, heads, head_size).
    """
    name = backend or choose_backend(query.device, query.dtype)
    return BACKENDS[name](cu_seqlens, max_seqlen)(query, key, value)


def prepare_padded(attention_mask: Tensor) -> Attend:
    """Attention for padded batches.

    Args:
        attention_mask: True on tokens, False on padding, shape (proteins, length).

    Returns:
        A function of tensors of shape (proteins, length, heads, head_size).
    """
    mask = attention_mask[:, None, None, :]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0).transpose(1, 2)

    return attend


def prepare_recording(attention_mask: Tensor, maps: list[Tensor]) -> Attend:
    """Like ``prepare_padded``, and appends each layer's attention maps to ``maps``.

    The maps have the shape (proteins, heads, length, length), fp32 or better; rows and columns of padding are zero.
    """
    keys = attention_mask[:, None, None, :]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = (query @ key.transpose(-1, -2)).masked_fill(~keys, float("-inf"))
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        maps.append(probabilities * (keys & keys.transpose(-1, -2)))
        return (probabilities.to(value.dtype) @ value).transpose(1, 2)

    return attend


@functools.cache
def _has_flash_attention() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _bounds(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    edges = cu_seqlens.tolist()
    return [(start, end) for start, end in itertools.pairwise(edges) if end > start]


def _attend_each(query: Tensor, key: Tensor, value: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
    results = []
    for start, end in bounds:
        # (1, heads, length, head_size): torch has no fused attention for three dimensions.
        one_query, one_key, one_value = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        result = F.scaled_dot_product_attention(one_query, one_key, one_value, scale=1.0)
        results.append(result[0].transpose(0, 1))
    return torch.cat(results) if results else value


class _TiledAttention(torch.autograd.Function):
    """Attention within proteins; the backward pass recomputes the scores instead of keeping them.

    An active autocast would cast what is computed here, so both passes leave it.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.bounds = bounds
        with torch.autocast("cpu", enabled=False):
            if query.dtype != torch.bfloat16:
                return _attend_each(query, key, value, bounds)
            result, buffer = torch.empty_like(query), _buffer(query, bounds)
            for rows in itertools.starmap(slice, bounds):
                queries, keys, values = (_heads_first(x, rows) for x in (query, key, value))
                for heads, scores in _tiles(buffer, *queries.shape[:2]):
                    _probabilities(queries[heads], keys[heads], scores)
                    result[rows, heads] = torch.bmm(scores, values[heads]).transpose(0, 1)
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        for_query, for_key, for_value = (torch.empty_like(x) for x in (query, key, value))
        buffer, other = (_buffer(query, ctx.bounds) for _ in range(2))
        with torch.autocast("cpu", enabled=False):
            for rows in itertools.starmap(slice, ctx.bounds):
                queries, keys, values, slopes = (_heads_first(x, rows) for x in (query, key, value, gradient))
                tiles = (_tiles(x, *queries.shape[:2]) for x in (buffer, other))
                for (heads, scores), (_, slope) in zip(*tiles, strict=True):
                    _probabilities(queries[heads], keys[heads], scores)
                    for_value[rows, heads] = torch.bmm(scores.transpose(1, 2), slopes[heads]).transpose(0, 1)
                    torch.bmm(slopes[heads], values[heads].transpose(1, 2), out=slope)
                    torch.ops.aten._softmax_backward_data.out(slope, scores, -1, slope.dtype, grad_input=slope)
                    for_query[rows, heads] = torch.bmm(slope, keys[heads]).transpose(0, 1)
                    for_key[rows, heads] = torch.bmm(slope.transpose(1, 2), queries[heads]).transpose(0, 1)
        return for_query, for_key, for_value, None


def _heads_first(x: Tensor, rows: slice) -> Tensor:
    # A copy: torch multiplies no strided batches in place, and would copy each operand each time.
    return x[rows].transpose(0, 1).contiguous()


def _buffer(query: Tensor, bounds: list[tuple[int, int]]) -> Tensor:
    longest = max((end - start for start, end in bounds), default=0)
    # Equal runs of heads may have up to one head more than the tile holds.
    return query.new_empty(min(query.shape[1] * longest**2, _TILE + longest**2))


def _tiles(buffer: Tensor, heads: int, length: int) -> Iterator[tuple[slice, Tensor]]:
    """Cuts one protein's attention into equal runs of heads with about ``_TILE`` scores, at least one head.

    Yields:
        The heads, and room for their scores in the buffer, shape (heads, length, length).
    """
    step = math.ceil(heads / math.ceil(heads * length * length / _TILE))
    for first in range(0, heads, step):
        count = min(step, heads - first)
        yield slice(first, first + count), buffer[: count * length * length].view(count, length, length)


def _probabilities(query: Tensor, key: Tensor, out: Tensor) -> None:
    torch.bmm(query, key.transpose(1, 2), out=out)
    torch.softmax(out, -1, out=out)
