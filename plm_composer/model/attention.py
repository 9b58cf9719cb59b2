"""Attention over proteins of unequal length, packed into one row or padded into a rectangle.

Every function here takes queries that are already scaled by ``head_size ** -0.5``: ESM2 scales before it rotates.
There is no dropout, no causal mask, and a protein only ever sees itself. ``slopes`` are those of ``alibi.py``, shape
(heads,), or None for a model without them.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.alibi import Alibi, alibi_bias, make_alibi
from plm_composer.model.tiled_attention import LENGTH_STEP, Group, TiledAttention, group
from plm_composer.precision import multiplies_bf16

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of one batch: queries, keys and values of one shape, (..., heads, head_size), to a result of that shape."""
Backend = Callable[[Tensor, int, "Tensor | None"], Attend]
"""Looks at a batch once, at its ``cu_seqlens``, greatest length and slopes; what it returns serves all layers."""


def prepare_reference(cu_seqlens: Tensor, max_seqlen: int, slopes: Tensor | None = None) -> Attend:
    """One call of torch's attention per protein: slow, and right. The other backends are held against it."""
    bounds = _bounds(cu_seqlens)
    del max_seqlen

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _attend_each(query, key, value, bounds, slopes)

    return attend


def prepare_cpu(cu_seqlens: Tensor, max_seqlen: int, slopes: Tensor | None = None) -> Attend:
    """For CPUs: the tiled attention of ``tiled_attention.py``; torch's fused kernel has a slow bf16 backward.

    In bf16, where the processor multiplies it, all products are bf16, as they are in the unfused attention of others.
    Elsewhere bf16 is computed in fp32. Where no gradient is wanted, torch's kernel is the faster one for wider
    dtypes, on the same groups.
    """
    bounds = _bounds(cu_seqlens)

    @functools.cache
    def groups(heads: int) -> list[Group]:
        return group(bounds, heads)

    @functools.cache
    def alibi(dtype: torch.dtype) -> Alibi | None:
        # Groups are filled up to a length that may be a step beyond the longest protein.
        return None if slopes is None else make_alibi(slopes, max_seqlen + LENGTH_STEP, dtype)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        working = query.dtype
        if working == torch.float16 or (working == torch.bfloat16 and not multiplies_bf16("cpu")):
            working = torch.float32
        query_, key_, value_ = (x.to(working) for x in (query, key, value))
        result: Tensor
        if working != torch.bfloat16 and not torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):
                result = _attend_groups(query_, key_, value_, groups(query.shape[1]), slopes)
        else:
            result = TiledAttention.apply(query_, key_, value_, groups(query.shape[1]), alibi(working))  # type: ignore[no-untyped-call]
        return result.to(query.dtype)

    return attend


def prepare_flash(cu_seqlens: Tensor, max_seqlen: int, slopes: Tensor | None = None) -> Attend:
    """For GPUs, fp16 and bf16: the FlashAttention kernels that torch brings along (Dao 2023), on ``cu_seqlens``.

    Raises:
        UserError: If there are slopes: torch's backward pass has no place for them.
        RuntimeError: When called where there is no such kernel: on CPU, in fp32, or on a GPU that is too old.
    """
    _refuse_slopes("flash", slopes)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[-1]
        query, key, value = (_widened(x, _FLASH_MULTIPLE) for x in (query, key, value))
        bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        result: Tensor = torch.ops.aten._flash_attention_forward(
            query, key, value, *bounds, 0.0, False, False, scale=1.0
        )[0]
        return result[..., :size]

    return attend


def prepare_efficient(cu_seqlens: Tensor, max_seqlen: int, slopes: Tensor | None = None) -> Attend:
    """For GPUs, fp32: the memory-efficient kernels that torch brings along (Rabe and Staats 2021), on ``cu_seqlens``.

    Raises:
        UserError: If there are slopes, for which these kernels have no place beside ``cu_seqlens``.
        RuntimeError: When called where there is no such kernel: on CPU, or in fp64.
    """
    _refuse_slopes("efficient", slopes)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = query.shape[-1]
        rows = (_widened(x, _EFFICIENT_MULTIPLE)[None] for x in (query, key, value))
        bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        result: Tensor = torch.ops.aten._efficient_attention_forward(
            *rows, None, *bounds, 0.0, _NO_CAUSAL_MASK, torch.is_grad_enabled(), scale=1.0
        )[0]
        return result[0, ..., :size]

    return attend


def prepare_flash_attn(cu_seqlens: Tensor, max_seqlen: int, slopes: Tensor | None = None) -> Attend:
    """The ``flash-attn`` package: GPU, fp16 and bf16 only; the one that computes ALiBi."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
        # Without a causal mask, its ALiBi is the symmetric one.
        result: Tensor = flash_attn_varlen_func(
            query, key, value, *bounds, softmax_scale=1.0, alibi_slopes=None if slopes is None else slopes.float()
        )
        return result

    return attend


BACKENDS: dict[str, Backend] = {
    "reference": prepare_reference,
    "cpu": prepare_cpu,
    "flash": prepare_flash,
    "efficient": prepare_efficient,
    "flash_attn": prepare_flash_attn,
}
_FLASH_MULTIPLE, _EFFICIENT_MULTIPLE = 8, 8
"""What these kernels want head sizes to be multiples of."""
_NO_CAUSAL_MASK = 0


def choose_backend(device: torch.device, dtype: torch.dtype, alibi: bool = False) -> str:
    """Name of the fastest backend for queries of this dtype on this device, and for ALiBi."""
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda" or dtype == torch.float64:
        return "reference"
    half = dtype in (torch.float16, torch.bfloat16)
    if alibi:
        return "flash_attn" if half and _has_flash_attention() else "reference"
    return "flash" if half else "efficient"


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    backend: str | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attention within each protein of a packed row.

    Args:
        query: Scaled queries, shape (tokens, heads, head_size).
        key: Keys, same shape.
        value: Values, same shape.
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        max_seqlen: Length of the longest protein.
        backend: A name in ``BACKENDS``; None for the fastest one.
        slopes: Those of ALiBi, shape (heads,).

    Returns:
        Shape (tokens, heads, head_size).
    """
    name = backend or choose_backend(query.device, query.dtype, slopes is not None)
    return BACKENDS[name](cu_seqlens, max_seqlen, slopes)(query, key, value)


def prepare_padded(attention_mask: Tensor, slopes: Tensor | None = None) -> Attend:
    """Attention for padded batches.

    Args:
        attention_mask: True on tokens, False on padding, shape (proteins, length).
        slopes: Those of ALiBi, shape (heads,).

    Returns:
        A function of tensors of shape (proteins, length, heads, head_size).
    """
    keys = attention_mask[:, None, None, :]

    @functools.cache
    def mask(dtype: torch.dtype) -> Tensor:
        if slopes is None:
            return keys
        return alibi_bias(slopes, keys.shape[-1]).to(dtype).masked_fill(~keys, float("-inf"))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask(query.dtype), scale=1.0).transpose(1, 2)

    return attend


def prepare_recording(attention_mask: Tensor, maps: list[Tensor], slopes: Tensor | None = None) -> Attend:
    """Like ``prepare_padded``, and appends each layer's attention maps to ``maps``.

    The maps have the shape (proteins, heads, length, length), fp32 or better; rows and columns of padding are zero.
    """
    keys = attention_mask[:, None, None, :]

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        scores = query @ key.transpose(-1, -2)
        if slopes is not None:
            scores = scores + alibi_bias(slopes, scores.shape[-1])
        scores = scores.masked_fill(~keys, float("-inf"))
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        maps.append(probabilities * (keys & keys.transpose(-1, -2)))
        return (probabilities.to(value.dtype) @ value).transpose(1, 2)

    return attend


def _refuse_slopes(backend: str, slopes: Tensor | None) -> None:
    if slopes is not None:
        raise UserError(f"attention: {backend!r} knows no ALiBi; choose 'reference' or 'flash_attn'")


def _widened(x: Tensor, multiple: int) -> Tensor:
    """Heads filled up with zeros, which change no score: queries are scaled beforehand."""
    rest = -x.shape[-1] % multiple
    return F.pad(x, (0, rest)) if rest else x


@functools.cache
def _has_flash_attention() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _bounds(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    edges = cu_seqlens.tolist()
    return [(start, end) for start, end in itertools.pairwise(edges) if end > start]


def _attend_groups(query: Tensor, key: Tensor, value: Tensor, groups: list[Group], slopes: Tensor | None) -> Tensor:
    """One call of torch's attention for each group of proteins."""
    result = torch.empty_like(query)
    for each in groups:
        # Each (proteins, heads, length, head_size): torch has no fused attention for three dimensions.
        queries, keys, values = (each.split(x).transpose(1, 2) for x in (query, key, value))
        bias = None if slopes is None else alibi_bias(slopes, each.length).to(query.dtype)[None]
        if each.padding is not None:
            hidden = torch.zeros(each.padding.shape, dtype=query.dtype).masked_fill_(each.padding, float("-inf"))
            bias = hidden[:, None, None, :] if bias is None else bias + hidden[:, None, None, :]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
        each.put(result, attended.flatten(0, 1))
    return result


def _attend_each(
    query: Tensor, key: Tensor, value: Tensor, bounds: list[tuple[int, int]], slopes: Tensor | None
) -> Tensor:
    results = []
    for start, end in bounds:
        # (1, heads, length, head_size): torch has no fused attention for three dimensions.
        one_query, one_key, one_value = (x[start:end].transpose(0, 1)[None] for x in (query, key, value))
        bias = None if slopes is None else alibi_bias(slopes, end - start).to(query.dtype)
        result = F.scaled_dot_product_attention(one_query, one_key, one_value, attn_mask=bias, scale=1.0)
        results.append(result[0].transpose(0, 1))
    return torch.cat(results) if results else value
