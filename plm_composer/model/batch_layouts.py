"""How the proteins of a batch lie in memory: all that a packed batch and a padded one do differently.

A layout is made once a batch, and all blocks read it. It is no dataclass on purpose: FSDP casts the floating-point
tensors of dataclasses, lists and dicts that it finds among a block's arguments, rotary tables too.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.model.alibi import alibi_bias, alibi_slopes
from plm_composer.model.attention import BACKENDS, PackedProteins, choose_backend
from plm_composer.model.config import ESM2Config
from plm_composer.model.convolution import DepthwiseConvolution, Edges, convolve_in_graph, find_edges
from plm_composer.model.rotary import rotary_frequencies, rotary_tables, rotate


class Layout(abc.ABC):
    """One batch's layout.

    Attributes:
        proteins: Number of proteins.
        is_token: False on padding, shape of the token ids.
        rotary: Cosines and sines that broadcast over (..., heads, head_size / 2), fp32 or better; None where positions
            are not rotary.
        slopes: Those of ALiBi, shape (heads,), fp32 or better; None for any other model.
        before: For a model with a short convolution: how many tokens of the same protein stand before each one of the
            flattened batch, shape (all tokens,).
        after: How many stand after it; negative on padding.

    Args:
        config: The model.
        position: Index of each token in its protein, shape (tokens,), or (length,) where all proteins share it.
        dtype: What the parameters are kept in; tables are at least fp32.
    """

    proteins: int
    is_token: Tensor
    before: Tensor
    after: Tensor

    def __init__(self, config: ESM2Config, position: Tensor, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.rotary, self.slopes = None, None
        if config.position_embedding_type == "rotary":
            self.rotary = rotary_tables(position, rotary_frequencies(config, position.device), dtype)
        else:
            wide = torch.promote_types(dtype, torch.float32)
            self.slopes = alibi_slopes(config.num_attention_heads, position.device, wide)

    @abc.abstractmethod
    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends within each protein; tensors of shape (..., heads, head_size), queries scaled."""

    @abc.abstractmethod
    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Gives each token the sum of a count over its protein; a shape that broadcasts to the ids'."""

    @abc.abstractmethod
    def subset(self, kept: Tensor) -> tuple[Tensor, Layout]:
        """Leaves proteins out.

        Args:
            kept: Which proteins stay, (proteins,) bool, on the CPU.

        Returns:
            The indices of their tokens (packed) or rows (padded), and their layout.
        """

    def _query_dtype(self) -> torch.dtype:
        """What a linear layer gives."""
        device = self.is_token.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

    @abc.abstractmethod
    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        """Where each protein begins and ends in the flattened batch, two of shape (proteins,), int64."""

    def rotate(self, x: Tensor) -> Tensor:
        """Turns queries or keys, (..., heads, head_size), by their position; leaves them alone where ALiBi tells it."""
        return x if self.rotary is None else rotate(x, *self.rotary)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves along each protein, channel by channel.

        Args:
            x: Shape (..., channels).
            weight: Shape (channels, width), of an odd width.

        Returns:
            Shape of ``x``; of no meaning on padding.
        """
        tokens = x.flatten(0, -2)
        if torch.compiler.is_compiling():
            return convolve_in_graph(tokens, weight, self.before, self.after).view_as(x)
        result: Tensor = DepthwiseConvolution.apply(tokens, weight, self._edges)  # type: ignore[no-untyped-call]
        return result.view_as(x)

    def _find_neighbours(self) -> None:
        """Before any block runs, since what is compiled should only read it."""
        if self.config.short_convolution:
            starts, ends = self._protein_bounds()
            token = torch.arange(self.is_token.numel(), device=starts.device)
            protein = torch.searchsorted(starts, token, right=True) - 1
            self.before, self.after = token - starts[protein], ends[protein] - 1 - token

    @functools.cached_property
    def _edges(self) -> Edges:
        return find_edges(*self._protein_bounds(), self.is_token.numel(), self.config.short_convolution // 2)


class PackedLayout(Layout):
    """Proteins end to end in one row, without padding.

    Args:
        input_ids: Token ids, shape (tokens,).
        cu_seqlens: Where each protein begins, and where the last one ends, shape (proteins + 1,), int32.
        max_seqlen: Length of the longest protein.
        config: The model.
        dtype: What the parameters are kept in; tables are at least fp32.
        backend: Name of an attention backend; None for the one that ``attention.FITS`` chooses.
        lengths: Tokens of each protein, known to the host; without them, ``subset`` reads them from ``cu_seqlens``.
    """

    def __init__(
        self,
        input_ids: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        config: ESM2Config,
        dtype: torch.dtype,
        backend: str | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.input_ids, self.cu_seqlens = input_ids, cu_seqlens
        self.backend, self._lengths = backend, lengths
        self.proteins, self.is_token = len(cu_seqlens) - 1, torch.ones_like(input_ids, dtype=torch.bool)
        token = torch.arange(len(input_ids), device=input_ids.device)
        self._protein = torch.searchsorted(cu_seqlens, token, right=True, out_int32=True) - 1
        super().__init__(config, token - cu_seqlens[self._protein], dtype)
        self._find_neighbours()
        self.packed = PackedProteins(cu_seqlens, max_seqlen, config.num_attention_heads, self.slopes)
        self.attention = choose_backend(input_ids.device, self._query_dtype(), self.slopes is not None, backend)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by the backend of the batch; tensors (tokens, heads, head_size)."""
        return BACKENDS[self.attention](query, key, value, self.packed)

    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums along each protein: shape (tokens,)."""
        return F.pad(count.long().cumsum(0), (1, 0))[self.cu_seqlens.long()].diff()[self._protein]

    def subset(self, kept: Tensor) -> tuple[Tensor, PackedLayout]:
        """Leaves proteins out; to know how many tokens are left, the host needs their lengths."""
        lengths = self.cu_seqlens.diff().cpu() if self._lengths is None else torch.as_tensor(self._lengths)
        device = self.input_ids.device
        index = _to(device, kept.repeat_interleave(lengths).nonzero().squeeze(-1))
        left = lengths[kept]
        cu_seqlens = _to(device, F.pad(left.cumsum(0), (1, 0)).to(self.cu_seqlens.dtype))
        longest = int(left.max())
        arguments = (self.config, self.dtype, self.backend, left.tolist())
        return index, PackedLayout(self.input_ids[index], cu_seqlens, longest, *arguments)

    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        return self.cu_seqlens[:-1].long(), self.cu_seqlens[1:].long()


class PaddedLayout(Layout):
    """Proteins padded to one length.

    Args:
        attention_mask: True on tokens, False on padding, shape (proteins, length), bool.
        config: The model.
        dtype: What the parameters are kept in; tables are at least fp32.
    """

    def __init__(self, attention_mask: Tensor, config: ESM2Config, dtype: torch.dtype) -> None:
        self.proteins, self.is_token = len(attention_mask), attention_mask
        super().__init__(config, torch.arange(attention_mask.shape[1], device=attention_mask.device), dtype)
        self._find_neighbours()
        self.bias = attention_mask[:, None, None, :]
        if self.slopes is not None:
            scores = alibi_bias(self.slopes, attention_mask.shape[1])
            self.bias = scores.to(self._query_dtype()).masked_fill(~self.bias, float("-inf"))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by torch's own attention; tensors (proteins, length, heads, head_size)."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias, scale=1.0).transpose(1, 2)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """As for any layout; padding counts as zero."""
        return super().convolve(x.masked_fill(~self.is_token[..., None], 0), weight)

    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums along each protein: shape (proteins, 1)."""
        return count.sum(-1, keepdim=True)

    def subset(self, kept: Tensor) -> tuple[Tensor, PaddedLayout]:
        """Leaves proteins out."""
        rows = _to(self.is_token.device, kept.nonzero().squeeze(-1))
        return rows, PaddedLayout(self.is_token[rows], self.config, self.dtype)

    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        starts = torch.arange(self.proteins, device=self.is_token.device) * self.is_token.shape[1]
        return starts, starts + self.is_token.sum(-1)


class RecordingLayout(PaddedLayout):
    """A padded layout whose attention keeps its maps, layer by layer.

    Attributes:
        maps: Attention maps of the layers so far, each (proteins, heads, length, length), fp32 or better; rows and
            columns of padding are zero.
    """

    def __init__(self, attention_mask: Tensor, config: ESM2Config, dtype: torch.dtype) -> None:
        super().__init__(attention_mask, config, dtype)
        self.maps: list[Tensor] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by plain products; tensors (proteins, length, heads, head_size)."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        keys = self.is_token[:, None, None, :]
        scores = query @ key.transpose(-1, -2)
        if self.slopes is not None:
            scores = scores + alibi_bias(self.slopes, scores.shape[-1])
        scores = scores.masked_fill(~keys, float("-inf"))
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        self.maps.append(probabilities * (keys & keys.transpose(-1, -2)))
        return (probabilities.to(value.dtype) @ value).transpose(1, 2)


def _to(device: torch.device, x: Tensor) -> Tensor:
    """Sends what the host has to a device, without waiting for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
