"""Memory layouts of a batch: everything that packed and padded batches do differently.

A layout is made once per batch, and all blocks read it. It is deliberately not a dataclass: FSDP would cast the
floating-point tensors of dataclasses, lists and dicts among a block's arguments, rotary tables included.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_composer.model.alibi import alibi_bias, alibi_slopes
from plm_composer.model.attention import BACKENDS, PackedProteins, choose_backend, hide_later
from plm_composer.model.config import ESM2Config
from plm_composer.model.convolution import DepthwiseConvolution, Edges, convolve_in_graph, find_edges
from plm_composer.model.rotary import rotary_frequencies, rotary_tables, rotate
from plm_composer.model.sending import send

Part = TypeVar("Part", bound="Layout")


class Layout(abc.ABC):
    """The layout of one batch.

    Attributes:
        proteins: Number of proteins.
        is_token: True on tokens, False on padding, shape of the token ids.
        rotary: Cosines and sines that broadcast over (..., heads, head_size / 2), fp32 or better; None for a model
            without rotary positions.
        slopes: ALiBi's slopes, shape (heads,), fp32 or better; None for a model without ALiBi.
        before: Only with a short convolution: number of tokens of the same protein before each token of the flattened
            batch, shape (tokens,).
        after: Only with a short convolution: number of tokens after it, shape (tokens,); negative on padding.
        embedded: Only with ``embedding_residual``: what enters the first block, shape (..., hidden_size).
        first_values: Only with ``value_residual``: values of the first block, shape (..., heads, head_size).

    Args:
        config: The model's config.
        position: Index of each token in its protein, shape (tokens,), or (length,) if all proteins share it.
        dtype: Data type of the parameters; tables are at least fp32.
    """

    proteins: int
    is_token: Tensor
    before: Tensor
    after: Tensor
    embedded: Tensor
    first_values: Tensor

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
        """Attends within each protein: scaled queries, keys and values, all (..., heads, head_size)."""

    @abc.abstractmethod
    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums a count over each protein and returns the sum for each of its tokens; broadcasts to the ids' shape."""

    @abc.abstractmethod
    def subset(self, kept: Tensor) -> tuple[Tensor, Layout]:
        """Makes the layout of some of the proteins.

        Args:
            kept: True for the proteins to keep, shape (proteins,), bool, on the CPU.

        Returns:
            The indices of the kept tokens (packed) or rows (padded), and the layout of the kept proteins.
        """

    def _share_embedding(self, part: Part, rows: Tensor) -> Part:
        if self.config.embedding_residual:
            part.embedded = self.embedded.index_select(0, rows)
        return part

    def _query_dtype(self) -> torch.dtype:
        """Data type of a linear layer's output."""
        device = self.is_token.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype

    @abc.abstractmethod
    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        """Start and end of each protein in the flattened batch, two tensors of shape (proteins,), int64."""

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates queries or keys, (..., heads, head_size), by their position; does nothing for ALiBi."""
        return x if self.rotary is None else rotate(x, *self.rotary)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves along each protein, channel by channel.

        Args:
            x: Activations, shape (..., channels).
            weight: Weights of the convolution, shape (channels, width), with an odd width. A causal model does without
                those of later tokens.

        Returns:
            Shape of ``x``; undefined on padding.
        """
        if self.config.causal:
            weight = _of_earlier(weight)
        tokens = x.flatten(0, -2)
        if torch.compiler.is_compiling():
            return convolve_in_graph(tokens, weight, self.before, self.after).view_as(x)
        return DepthwiseConvolution.apply(tokens, weight, self._edges).view_as(x)  # type: ignore[no-untyped-call]

    def _find_neighbours(self) -> None:
        """Counts neighbours before any block runs, because compiled blocks should only read them."""
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
        cu_seqlens: Index of each protein's first token, then the number of tokens, shape (proteins + 1,), int32.
        max_seqlen: Length of the longest protein.
        config: The model's config.
        dtype: Data type of the parameters; tables are at least fp32.
        backend: Name of an attention backend; None for the one that ``attention.FITS`` chooses.
        lengths: Number of tokens of each protein, on the host; without it, ``subset`` reads ``cu_seqlens``.
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
        self.packed = PackedProteins(cu_seqlens, max_seqlen, config.num_attention_heads, self.slopes, config.causal)
        self.attention = choose_backend(
            input_ids.device, self._query_dtype(), self.slopes is not None, backend, config.head_size
        )

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by the batch's backend; tensors are (tokens, heads, head_size)."""
        return BACKENDS[self.attention](query, key, value, self.packed)

    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums over each protein, shape (tokens,)."""
        return F.pad(count.long().cumsum(0), (1, 0))[self.cu_seqlens.long()].diff()[self._protein]

    def subset(self, kept: Tensor) -> tuple[Tensor, PackedLayout]:
        """Makes the layout of some of the proteins. The host needs their lengths to know how many tokens remain."""
        lengths = self.cu_seqlens.diff().cpu() if self._lengths is None else torch.as_tensor(self._lengths)
        device = self.input_ids.device
        index = send(kept.repeat_interleave(lengths).nonzero().squeeze(-1), device)
        left = lengths[kept]
        cu_seqlens = send(F.pad(left.cumsum(0), (1, 0)).to(self.cu_seqlens.dtype), device)
        longest = int(left.max())
        arguments = (self.config, self.dtype, self.backend, left.tolist())
        part = PackedLayout(self.input_ids[index], cu_seqlens, longest, *arguments)
        return index, self._share_embedding(part, index)

    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        return self.cu_seqlens[:-1].long(), self.cu_seqlens[1:].long()


class PaddedLayout(Layout):
    """Proteins padded to one length.

    Args:
        attention_mask: True on tokens, False on padding, shape (proteins, length), bool.
        config: The model's config.
        dtype: Data type of the parameters; tables are at least fp32.
    """

    def __init__(self, attention_mask: Tensor, config: ESM2Config, dtype: torch.dtype) -> None:
        self.proteins, self.is_token = len(attention_mask), attention_mask
        super().__init__(config, torch.arange(attention_mask.shape[1], device=attention_mask.device), dtype)
        self._find_neighbours()
        self.bias = attention_mask[:, None, None, :]
        if config.causal:
            length = attention_mask.shape[1]
            earlier = self.bias & torch.ones(length, length, dtype=torch.bool, device=self.bias.device).tril()
            # As numbers, made once: of a mask that is true or false, torch would make them in each block.
            bias = torch.zeros_like(earlier, dtype=self._query_dtype())
            self.bias = bias.masked_fill(~earlier, float("-inf"))
        if self.slopes is not None:
            scores = alibi_bias(self.slopes, attention_mask.shape[1]).to(self._query_dtype())
            self.bias = scores + self.bias if config.causal else scores.masked_fill(~self.bias, float("-inf"))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by torch's own attention; tensors are (proteins, length, heads, head_size)."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.bias, scale=1.0).transpose(1, 2)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves as any layout does, with padding as zeros."""
        return super().convolve(x.masked_fill(~self.is_token[..., None], 0), weight)

    def sum_per_protein(self, count: Tensor) -> Tensor:
        """Sums over each protein, shape (proteins, 1)."""
        return count.sum(-1, keepdim=True)

    def subset(self, kept: Tensor) -> tuple[Tensor, PaddedLayout]:
        """Makes the layout of some of the proteins."""
        rows = send(kept.nonzero().squeeze(-1), self.is_token.device)
        return rows, self._share_embedding(PaddedLayout(self.is_token[rows], self.config, self.dtype), rows)

    def _protein_bounds(self) -> tuple[Tensor, Tensor]:
        starts = torch.arange(self.proteins, device=self.is_token.device) * self.is_token.shape[1]
        return starts, starts + self.is_token.sum(-1)


class RecordingLayout(PaddedLayout):
    """A padded layout that records the attention map of each layer.

    Attributes:
        maps: Attention maps of the layers so far, each (proteins, heads, length, length), fp32 or better, with zeros
            in rows and columns of padding.
    """

    def __init__(self, attention_mask: Tensor, config: ESM2Config, dtype: torch.dtype) -> None:
        super().__init__(attention_mask, config, dtype)
        self.maps: list[Tensor] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attends by plain matmuls and a softmax; tensors are (proteins, length, heads, head_size)."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        keys = self.is_token[:, None, None, :]
        scores = query @ key.transpose(-1, -2)
        if self.config.causal:
            scores = hide_later(scores, scores.shape[-1], scores)
        if self.slopes is not None:
            scores = scores + alibi_bias(self.slopes, scores.shape[-1])
        scores = scores.masked_fill(~keys, float("-inf"))
        probabilities = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        self.maps.append(probabilities * (keys & keys.transpose(-1, -2)))
        return (probabilities.to(value.dtype) @ value).transpose(1, 2)


def _of_earlier(weight: Tensor) -> Tensor:
    """Zeroes the weights of later tokens, the second half of (channels, width)."""
    reach = weight.shape[1] // 2
    return F.pad(weight[:, : reach + 1], (0, reach))
