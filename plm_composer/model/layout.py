"""How the proteins of a batch lie in memory: all that a packed batch and a padded one do differently."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from plm_composer.model.alibi import alibi_slopes
from plm_composer.model.attention import BACKENDS, Attend, choose_backend, prepare_padded
from plm_composer.model.config import ESM2Config
from plm_composer.model.convolution import DepthwiseConvolution, Edges, find_edges

ROTARY_BASE = 10_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """One batch's layout. Blocks receive it as it is, so that no sharding wrapper casts its rotary tables to bf16.

    Args:
        attention: The attention of this batch.
        cosine: Rotary table, broadcast over the batch, shape (..., 1, head_size / 2), fp32 or better; None where
            positions are not rotary.
        sine: Likewise.
        is_token: False on padding, shape of the token ids.
        sum_per_protein: Gives each token the sum of a count over its protein; a shape that broadcasts to the ids'.
        proteins: Number of proteins.
        subset: Of which proteins are kept, (proteins,) bool on the CPU, to the indices of their tokens (packed) or rows
            (padded), and their layout without the others.
        edges: The ends of proteins, for a model with a short convolution.
        real: Padded batches of such a model: which tokens of all are real, shape (tokens,).
    """

    attention: Attend
    cosine: Tensor | None
    sine: Tensor | None
    is_token: Tensor
    sum_per_protein: Callable[[Tensor], Tensor]
    proteins: int
    subset: Callable[[Tensor], tuple[Tensor, Layout]]
    edges: Edges | None = None
    real: Tensor | None = None

    # Outside of what is compiled: torch would guard on the function, which is another one for each batch.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends within each protein; tensors of shape (..., heads, head_size)."""
        return self.attention(query, key, value)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves along each protein, channel by channel.

        Args:
            x: Shape (..., channels).
            weight: Shape (channels, width), of an odd width.

        Returns:
            Shape of ``x``; zero on padding.
        """
        flat = x.flatten(0, -2)
        tokens = flat if self.real is None else flat[self.real]
        result: Tensor = DepthwiseConvolution.apply(tokens, weight, self.edges)  # type: ignore[no-untyped-call]
        if self.real is not None:
            result = torch.zeros_like(flat).index_put((self.real,), result)
        return result.view_as(x)

    def rotate(self, x: Tensor) -> Tensor:
        """Turns queries or keys by their position (RoFormer, Su et al. 2021; the half-split form of ESM2).

        Args:
            x: Shape (..., heads, head_size).
        """
        if self.cosine is None or self.sine is None:
            return x
        if torch.compiler.is_compiling():  # which fuses the plain formula, and fails at what is written in place
            first, second = x.to(self.cosine.dtype).chunk(2, dim=-1)
            halves = (first * self.cosine - second * self.sine, second * self.cosine + first * self.sine)
            return torch.cat(halves, dim=-1).to(x.dtype)
        turned: Tensor = _Rotation.apply(x, self.cosine, self.sine)  # type: ignore[no-untyped-call]
        return turned


class _Rotation(torch.autograd.Function):
    """The rotation, written into one tensor: the plain formula makes seven, and widens each half on its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        return _rotated(x, cosine, sine, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # A rotation's transpose is the rotation back.
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


def packed_layout(
    input_ids: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    config: ESM2Config,
    dtype: torch.dtype,
    backend: str | None = None,
) -> Layout:
    """The layout of proteins packed into one row, without padding.

    Args:
        input_ids: Token ids, shape (tokens,).
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        max_seqlen: Length of the longest protein.
        config: The model.
        dtype: What the parameters are kept in; tables are at least fp32.
        backend: Name of an attention backend; None for the fastest one.
    """
    device = input_ids.device
    token = torch.arange(len(input_ids), device=device)
    protein = torch.searchsorted(cu_seqlens, token, right=True, out_int32=True) - 1

    def sum_per_protein(count: Tensor) -> Tensor:
        return F.pad(count.long().cumsum(0), (1, 0))[cu_seqlens.long()].diff()[protein]

    host = functools.cache(cu_seqlens.cpu)

    def subset(kept: Tensor) -> tuple[Tensor, Layout]:
        lengths = host().diff()
        index = kept.repeat_interleave(lengths).nonzero().squeeze(-1).to(device)
        bounds = F.pad(lengths[kept].cumsum(0), (1, 0)).to(device, cu_seqlens.dtype)
        longest = int(lengths[kept].max())
        return index, packed_layout(input_ids[index], bounds, longest, config, dtype, backend)

    autocast = torch.is_autocast_enabled(device.type)
    slopes = position_slopes(config, device, dtype)
    working = torch.get_autocast_dtype(device.type) if autocast else dtype
    name = backend or choose_backend(device, working, slopes is not None)
    cosine, sine = _tables(token - cu_seqlens[protein], config, dtype)
    is_token = torch.ones_like(input_ids, dtype=torch.bool)
    width = config.short_convolution
    edges = find_edges(cu_seqlens, len(input_ids), width // 2) if width else None
    attend = BACKENDS[name](cu_seqlens, max_seqlen, slopes)
    return Layout(attend, cosine, sine, is_token, sum_per_protein, len(cu_seqlens) - 1, subset, edges)


def padded_layout(
    attention_mask: Tensor, config: ESM2Config, dtype: torch.dtype, attend: Attend | None = None
) -> Layout:
    """The layout of proteins padded to one length.

    Args:
        attention_mask: True on tokens, False on padding, shape (proteins, length), bool.
        config: The model.
        dtype: What the parameters are kept in; tables are at least fp32.
        attend: Attention to use; None for torch's.
    """
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    cosine, sine = _tables(position, config, dtype)
    if attend is None:
        attend = prepare_padded(attention_mask, position_slopes(config, attention_mask.device, dtype))

    def sum_per_protein(count: Tensor) -> Tensor:
        return count.sum(-1, keepdim=True)

    def subset(kept: Tensor) -> tuple[Tensor, Layout]:
        rows = kept.nonzero().squeeze(-1).to(attention_mask.device)
        return rows, padded_layout(attention_mask[rows], config, dtype)

    edges, real = None, None
    if config.short_convolution:
        real = attention_mask.flatten().nonzero().squeeze(-1)
        cu_seqlens = F.pad(attention_mask.sum(-1).cumsum(0), (1, 0))
        edges = find_edges(cu_seqlens, len(real), config.short_convolution // 2)
    return Layout(attend, cosine, sine, attention_mask, sum_per_protein, len(attention_mask), subset, edges, real)


def position_slopes(config: ESM2Config, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """The slopes of a model with ALiBi, shape (heads,), at least fp32; None for any other."""
    if config.position_embedding_type != "alibi":
        return None
    return alibi_slopes(config.num_attention_heads, device, torch.promote_types(dtype, torch.float32))


def _tables(position: Tensor, config: ESM2Config, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    if config.position_embedding_type != "rotary":
        return None, None
    return rotary_tables(position, rotary_frequencies(config, position.device), dtype)


def rotary_frequencies(config: ESM2Config, device: torch.device | None = None) -> Tensor:
    """Rotary frequencies of a model in fp32, shape (head_size / 2,)."""
    if config.rotary_frequencies is not None:
        return torch.tensor(config.rotary_frequencies, dtype=torch.float32, device=device)
    return inverse_frequencies(config.head_size, device=device)


def inverse_frequencies(head_size: int, base: float = ROTARY_BASE, device: torch.device | None = None) -> Tensor:
    """Rotary frequencies in fp32, as fair-esm and transformers compute them, shape (head_size / 2,)."""
    exponent = torch.arange(0, head_size, 2, device=device).float() / head_size
    frequencies: Tensor = 1.0 / base**exponent
    return frequencies


def rotary_tables(position: Tensor, frequencies: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles.

    Args:
        position: Index of each token in its protein, shape (n,).
        frequencies: Angle from one position to the next, shape (head_size / 2,). fp32 in any case, because the
            published models were trained with those.
        dtype: What the parameters are kept in: fp64 gives fp64 tables, all else fp32.

    Returns:
        Two tensors of shape (n, 1, head_size / 2).
    """
    table_dtype = torch.promote_types(dtype, torch.float32)
    angle = position.to(table_dtype)[:, None, None] * frequencies.to(table_dtype)
    return angle.cos(), angle.sin()
