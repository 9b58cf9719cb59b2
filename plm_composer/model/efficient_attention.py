"""Torch's memory-efficient attention (Rabe and Staats 2021) on ``cu_seqlens``, as an operator with a gradient.

Torch has the gradient of its kernel, but computes its shapes wrongly when it is compiled (of 2.7 and 2.11, both lack an
argument): a compiled block would fail in its first backward pass. So the kernels' calls are wrapped here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, causal: bool
) -> Tensor:
    """Attends within each protein, on a GPU.

    Args:
        query: Scaled queries, shape (tokens, heads, head_size); head_size a multiple of 8.
        key: Keys.
        value: Values.
        cu_seqlens: Index of each protein's first token, then the number of tokens, shape (proteins + 1,), int32.
        max_seqlen: Upper bound on the length of the longest protein.
        causal: Whether a token attends only to itself and to earlier ones.

    Returns:
        Shape of the queries.
    """
    result: Tensor = _forward(query, key, value, cu_seqlens, max_seqlen, causal, torch.is_grad_enabled())[0]
    return result


def _call(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, causal: bool, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    result, *saved = torch.ops.aten._efficient_attention_forward(
        query[None], key[None], value[None], None, *bounds, 0.0, int(causal), saves, scale=1.0
    )[:4]
    return result[0], *saved


@torch.library.custom_op("plm_composer::efficient_attention", mutates_args=(), device_types="cuda")
def _forward(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, max_seqlen: int, causal: bool, saves: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the result, and what the backward pass needs: the scores' log-sum-exp, and two numbers of dropout's."""
    return _call(query, key, value, cu_seqlens, max_seqlen, causal, saves)


_forward.register_fake(_call)


@torch.library.custom_op("plm_composer::efficient_attention_backward", mutates_args=(), device_types="cuda")
def _backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    result: Tensor,
    logsumexp: Tensor,
    seed: Tensor,
    offset: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of queries, keys and values."""
    tensors = (gradient[None], query[None], key[None], value[None], None, result[None])
    bounds = (cu_seqlens, cu_seqlens, max_seqlen, max_seqlen)
    for_query, for_key, for_value, _ = torch.ops.aten._efficient_attention_backward(
        *tensors, *bounds, logsumexp, 0.0, seed, offset, int(causal), False, scale=1.0
    )
    return for_query[0].contiguous(), for_key[0].contiguous(), for_value[0].contiguous()


@_backward.register_fake
def _(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    del gradient
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, cu_seqlens, ctx.max_seqlen, ctx.causal, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, *output, cu_seqlens)


def _differentiate(ctx: Any, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    gradients = _backward(gradient.contiguous(), *ctx.saved_tensors, ctx.max_seqlen, ctx.causal)
    return *gradients, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_save)
