"""Rotary positions (RoFormer, Su et al. 2021), in the half-split form of ESM2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plm_composer.model.config import ESM2Config
from plm_composer.model.sending import send

ROTARY_BASE = 10_000


def rotary_frequencies(config: ESM2Config, device: torch.device | None = None) -> Tensor:
    """Rotary frequencies of a model in fp32, shape (head_size / 2,)."""
    if config.rotary_frequencies is not None:
        frequencies = torch.tensor(config.rotary_frequencies, dtype=torch.float32, device="cpu")
        return frequencies if device is None else send(frequencies, device)
    return inverse_frequencies(config.head_size, device=device)


def inverse_frequencies(head_size: int, base: float = ROTARY_BASE, device: torch.device | None = None) -> Tensor:
    """Rotary frequencies in fp32, as fair-esm and transformers compute them, shape (head_size / 2,)."""
    exponent = torch.arange(0, head_size, 2, device=device).float() / head_size
    return 1.0 / base**exponent


def rotary_tables(position: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles.

    Args:
        position: Index of each token in its protein, shape (n,).
        frequencies: Rotation per position, radians, shape (head_size / 2,). Always fp32, because the published models
            were trained with fp32 frequencies.
        dtype: Data type of the parameters: fp64 gives fp64 tables, all others fp32.

    Returns:
        Two tensors of shape (n, 1, head_size / 2).
    """
    table_dtype = torch.promote_types(dtype, torch.float32)
    angle = position.to(table_dtype)[:, None, None] * frequencies.to(table_dtype)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotates queries or keys by their position.

    Args:
        x: Queries or keys, shape (..., heads, head_size).
        cosine: Cosines from ``rotary_tables``.
        sine: Sines from ``rotary_tables``.

    Returns:
        Shape and dtype of ``x``; computed in the dtype of the tables.
    """
    if torch.compiler.is_compiling():  # torch.compile fuses the plain formula, and fails on writes in place
        first, second = x.to(cosine.dtype).chunk(2, dim=-1)
        halves = (first * cosine - second * sine, second * cosine + first * sine)
        return torch.cat(halves, dim=-1).to(x.dtype)
    return _Rotation.apply(x, cosine, sine)  # type: ignore[no-untyped-call]


class _Rotation(torch.autograd.Function):
    """The rotation, written into one tensor; the plain formula makes seven, and widens each half on its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(x, cosine, sine, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # The transpose of a rotation is the inverse rotation.
        cosine, sine = ctx.saved_tensors
        return _rotated(gradient, cosine, sine, -1), None, None


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor, direction: int) -> Tensor:
    wide = x.to(cosine.dtype)
    result = torch.empty_like(wide)
    first, second = wide.chunk(2, dim=-1)
    turned_first, turned_second = result.chunk(2, dim=-1)
    torch.mul(first, cosine, out=turned_first).addcmul_(second, sine, value=-direction)
    torch.mul(second, cosine, out=turned_second).addcmul_(first, sine, value=direction)
    return result.to(x.dtype)
