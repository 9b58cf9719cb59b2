"""ESM2 (Lin et al. 2023, "Evolutionary-scale prediction of atomic-level protein structure with a language model").

Top to bottom: norms, attention, feed-forward, a pre-norm block, the language-model head, the contact head, and the
model with its token dropout. Padded and packed batches run through the same code; ``batch_layouts.py`` holds the
differences, and calls the attention kernels and rotary positions. ``parallelize.py`` compiles, recomputes and shards
blocks from outside.

Shapes: ``...`` is (proteins, length) in a padded batch and (tokens,) in a packed one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_composer.errors import UserError
from plm_composer.model.batch_layouts import Layout, PackedLayout, PaddedLayout, RecordingLayout
from plm_composer.model.config import VOCABULARY_SIZE, ESM2Config
from plm_composer.model.contact_maps import ContactMaps
from plm_composer.model.growing_layout import GrowingLayout
from plm_composer.model.layer_drop import apply_to_kept, draw_kept, drop_rates
from plm_composer.tokenizer import EOS_ID, MASK_ID, PAD_ID


def make_norm(config: ESM2Config, width: int, *, bias: bool) -> nn.Module:
    """Makes a LayerNorm (Ba et al. 2016), or an RMSNorm (Zhang and Sennrich 2019).

    Args:
        config: The model's config; ``normalization`` chooses the kind.
        width: Size of the last dimension.
        bias: Whether a LayerNorm has a bias; an RMSNorm never has one.
    """
    if config.normalization == "rmsnorm":
        return nn.RMSNorm(width, eps=config.layer_norm_eps)
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=bias)


class ESM2Attention(nn.Module):
    """Self-attention within each protein.

    With ``qk_norm``, queries and keys are normalised head by head before rotation, with one learned scale for all
    heads, which bounds the scores (Henry et al. 2020; with LayerNorm as in Dehghani et al. 2023). With
    ``value_residual``, the first block leaves its values to the others, which mix them into their own (Zhou et al.
    2024).

    Args:
        config: The model's config.
        first: Whether it is the attention of the first block.
    """

    def __init__(self, config: ESM2Config, *, first: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size = config.num_attention_heads, config.head_size
        self.qkv = nn.Linear(config.hidden_size, 3 * config.attention_size, bias=config.qkv_bias)
        self.query_norm = make_norm(config, config.head_size, bias=False) if config.qk_norm else None
        self.key_norm = make_norm(config, config.head_size, bias=False) if config.qk_norm else None
        self.leaves_values = config.value_residual and first
        mixes = config.value_residual and not first
        self.value_weight = nn.Parameter(torch.full((1,), 0.5)) if mixes else None
        self.out = nn.Linear(config.attention_size, config.hidden_size, bias=config.output_bias)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Attends and projects the heads' results to shape (..., hidden_size)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size))  # (..., 3, heads, head_size)
        query, key, value = qkv.unbind(-3)  # each (..., heads, head_size)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if self.leaves_values:
            layout.first_values = value
        if self.value_weight is not None:
            value = torch.lerp(value, layout.first_values, self.value_weight.to(value.dtype))
        query = layout.rotate(query * self.head_size**-0.5)
        attended = layout.attend(query, layout.rotate(key), value)  # (..., heads, head_size)
        return self.out(attended.flatten(-2))


class ShortConvolution(nn.Module):
    """Adds to each token a weighted sum of its neighbours in its protein, before attention.

    Its weights start at zero, so that a new model computes the same as one without it.
    """

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        # The shape of the weight of a depthwise ``torch.nn.Conv1d``.
        self.weight = nn.Parameter(torch.zeros(config.hidden_size, 1, config.short_convolution))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Adds the convolution of ``x``, shape (..., hidden_size)."""
        if torch.is_autocast_enabled(x.device.type):
            # The next matrix product would cast anyway; casting here halves the memory traffic.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return x + layout.convolve(x, self.weight[:, 0].to(x.dtype))


def swiglu(x: Tensor) -> Tensor:
    """Gates the second half of the last dimension by the SiLU of the first (Shazeer 2020), halving it."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "swiglu": swiglu}
"""Activations of the feed-forward, by ``ESM2Config.feed_forward``; ESM2's GELU is exact."""


class ESM2FeedForward(nn.Module):
    """Two linear layers with an activation between them; a gated activation takes both halves from the first layer."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.feed_forward]
        self.up = nn.Linear(config.hidden_size, config.up_size, bias=config.intermediate_bias)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each token independently, shape (..., hidden_size)."""
        return self.down(self.activation(self.up(x)))


class ESM2Block(nn.Module):
    """One pre-norm transformer block: the unit of sharding and of activation checkpointing.

    Args:
        config: The model's config.
        first: Whether it is the model's first block.
    """

    def __init__(self, config: ESM2Config, *, first: bool) -> None:
        super().__init__()
        self.residual_scale = config.residual_scale
        # Weights of the residual stream and of the embedding.
        weights = torch.tensor([1.0, 0.0]) if config.embedding_residual else None
        self.stream_weights = None if weights is None else nn.Parameter(weights)
        self.attention_norm = make_norm(config, config.hidden_size, bias=config.norm_bias)
        self.convolution = ShortConvolution(config) if config.short_convolution else None
        self.attention = ESM2Attention(config, first=first)
        self.feed_forward_norm = make_norm(config, config.hidden_size, bias=config.norm_bias)
        self.feed_forward = ESM2FeedForward(config)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """One block's update of the residual stream, shape (..., hidden_size)."""
        if self.stream_weights is not None:
            # Two numbers get the gradients of all tokens: too many for the precision of FSDP's bf16.
            wide = torch.promote_types(x.dtype, torch.float32)
            weights = self.stream_weights.to(wide)
            x = (weights[0] * x.to(wide) + weights[1] * layout.embedded).to(x.dtype)
        normed = self.attention_norm(x)
        if self.convolution is not None:
            normed = self.convolution(normed, layout)
        # Not torch.add's alpha: torch 2.7 drops it when it compiles the sum of a product without a bias.
        attended = self.attention(normed, layout)
        x = x + (attended if self.residual_scale == 1 else self.residual_scale * attended)
        fed = self.feed_forward(self.feed_forward_norm(x))
        return x + (fed if self.residual_scale == 1 else self.residual_scale * fed)


class ESM2Head(nn.Module):
    """Hidden states to logits. The decoding table is an argument, because it is usually the embedding table."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY_SIZE))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Logits, shape (..., 33), from hidden states and a decoding table of shape (33, hidden_size)."""
        x = self.norm(F.gelu(self.dense(x)))
        # 33 logits cost nothing, and fp32 keeps bf16 rounding out of the loss.
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(dtype), table.to(dtype), self.bias.to(dtype))


class ESM2ContactHead(nn.Module):
    """Logistic regression on symmetrised, corrected attention maps (Rao et al. 2021); never trained here."""

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.regression = nn.Linear(config.num_hidden_layers * config.num_attention_heads, 1)
        # Frozen: no loss reaches it, and DDP waits for the gradient of every trainable parameter.
        self.regression.requires_grad_(False)

    def layer_logits(self, layer: int, maps: ContactMaps) -> Tensor:
        """One layer's contribution to the contact logits.

        Args:
            layer: Index of the layer.
            maps: Maps of the layer.

        Returns:
            Shape (proteins, residues, residues).
        """
        return maps.weighted(self.regression.weight[0, layer * self.num_heads : (layer + 1) * self.num_heads])


class ESM2(nn.Module):
    """ESM2 with its language-model head.

    Attributes:
        attention_backend: Name in ``attention.BACKENDS`` for packed batches; None for the one that
            ``attention.FITS`` chooses.

    Args:
        config: The model's config.
    """

    def __init__(self, config: ESM2Config) -> None:
        super().__init__()
        self.config = config
        self.attention_backend: str | None = None
        self.embedding = nn.Embedding(VOCABULARY_SIZE, config.hidden_size)
        self.blocks = nn.ModuleList(ESM2Block(config, first=layer == 0) for layer in range(config.num_hidden_layers))
        self.final_norm = make_norm(config, config.hidden_size, bias=config.norm_bias)
        self.lm_head: nn.Module = ESM2Head(config)
        if not config.tie_word_embeddings:
            self.decoder = nn.Linear(config.hidden_size, VOCABULARY_SIZE, bias=False)
        if config.contact_head:
            self.contact_head = ESM2ContactHead(config)
        self._initialise()

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        lengths: Sequence[int] | None = None,
        causal: bool | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Computes the logits of all positions, or of some.

        Args:
            input_ids: Token ids; padded, shape (proteins, length), or packed, shape (tokens,).
            attention_mask: Padded batches: nonzero on tokens, shape of ``input_ids``; None for all but ``<pad>``.
            cu_seqlens: Packed batches: index of each protein's first token, then the number of tokens,
                (proteins + 1,), int32.
            max_seqlen: Packed batches: length of the longest protein.
            lengths: Packed batches: number of tokens of each protein, on the host; without it, ``layer_drop`` reads
                ``cu_seqlens`` from the device.
            causal: Whether a token sees only itself and earlier ones; None for what the config says.
            positions: Indices into the flattened batch of the positions to decode, shape (positions,), int64; None for
                all.

        Returns:
            Logits, shape (..., 33), or (positions, 33); fp32 or better.
        """
        hidden = self.hidden_states(
            input_ids,
            attention_mask=attention_mask,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            lengths=lengths,
            causal=causal,
        )
        return self.head(hidden if positions is None else hidden.flatten(0, -2).index_select(0, positions))

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        lengths: Sequence[int] | None = None,
        causal: bool | None = None,
    ) -> Tensor:
        """Representations after the final norm, shape (..., hidden_size); arguments as for ``forward``."""
        layout = self._layout(input_ids, attention_mask, cu_seqlens, max_seqlen, lengths, causal)
        x = self._embed(input_ids, layout)
        drops = self.training and self.config.layer_drop > 0
        # Drawn once before the blocks run, so that recomputing a block draws nothing.
        kept = draw_kept(self.config, layout.proteins) if drops else None
        for depth, (block, rate) in enumerate(zip(self.blocks, drop_rates(self.config), strict=True)):
            x = block(x, layout) if kept is None else apply_to_kept(block, x, layout, kept[depth], rate)
        return self.final_norm(x)

    def grow(self, input_ids: Tensor, layout: GrowingLayout) -> Tensor:
        """Computes the logits of the next tokens of sequences whose earlier tokens the layout has seen.

        Args:
            input_ids: The next tokens, shape (rows, tokens).
            layout: The layout of the sequences; it remembers these tokens, too.

        Returns:
            Logits, shape (rows, tokens, 33), fp32 or better: each predicts the token after its own.
        """
        layout.take(input_ids.shape[1])
        x = self._embed(input_ids, layout)
        for block in self.blocks:
            x = block(x, layout)
        return self.head(self.final_norm(x))

    def layer_states(
        self,
        input_ids: Tensor,
        layers: Sequence[int],
        *,
        attention_mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Representations after some layers, for a model in evaluation mode.

        Layers are numbered as fair-esm's ``repr_layers`` and transformers' ``hidden_states``: 0 is the embedding, and
        the last one comes after the final norm. Blocks above the highest layer are not computed.

        Args:
            input_ids: Token ids, padded or packed.
            layers: Numbers of layers, 0 to ``num_hidden_layers``.
            attention_mask: As for ``forward``, like those that follow.
            cu_seqlens: Bounds of packed proteins.
            max_seqlen: Length of the longest one.
            lengths: Number of tokens of each.

        Returns:
            A tensor for each of ``layers``, shape (..., hidden_size).
        """
        layout = self._layout(input_ids, attention_mask, cu_seqlens, max_seqlen, lengths)
        x = self._embed(input_ids, layout)
        states = {0: x}
        for number, block in enumerate(self.blocks[: max(layers)], start=1):
            x = block(x, layout)
            if number in layers:
                states[number] = x
        last = self.config.num_hidden_layers
        if last in states:
            states[last] = self.final_norm(states[last])
        return [states[number] for number in layers]

    def as_causal(self) -> ESM2:
        """The model that predicts the next residue: this one, or a view of it that shares all weights.

        Raises:
            UserError: The model has not learnt to.
        """
        if not self.config.predicts_next:
            raise UserError("the model has not learnt to predict the next residue; train one with objective=causal")
        if self.config.causal:
            return self
        view = copy.copy(self)
        view.config = dataclasses.replace(self.config, causal=True, mixed=False)
        return view

    def head(self, hidden_states: Tensor) -> Tensor:
        """Computes logits, (..., 33), fp32 or better, from hidden states, (..., hidden_size)."""
        table = self.embedding.weight if self.config.tie_word_embeddings else self.decoder.weight
        return self.lm_head(hidden_states, table)

    def contact_maps(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Iterator[ContactMaps]:
        """Computes what contacts are predicted from, layer by layer: all of a long protein would take gigabytes.

        Args:
            input_ids: Padded batch with ``<cls>`` first and ``<eos>`` last in each protein, (proteins, length).
            attention_mask: Nonzero on tokens, shape of ``input_ids``; None for all but ``<pad>``.

        Yields:
            Symmetrised and corrected attention maps of a layer, fp32 or better; rows and columns of ``<eos>`` and of
            padding are meaningless.
        """
        layout = RecordingLayout(_token_mask(input_ids, attention_mask), self.config, self.embedding.weight.dtype)
        x = self._embed(input_ids, layout)
        for block in self.blocks:
            x = block(x, layout)
            yield ContactMaps(layout.maps.pop(), input_ids != EOS_ID)

    def predict_contacts(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Predicts the probability that two residues are in contact, as fair-esm and transformers do.

        Args:
            input_ids: Padded batch with ``<cls>`` first and ``<eos>`` last in each protein, (proteins, length).
            attention_mask: Nonzero on tokens, shape of ``input_ids``; None for all but ``<pad>``.

        Returns:
            Shape (proteins, length - 2, length - 2): ``<cls>`` is cut off; rows and columns of ``<eos>`` and of
            padding are meaningless.

        Raises:
            UserError: If the model has no contact head.
        """
        if not self.config.contact_head:
            raise UserError("this model cannot predict contacts: it has no contact head (model.contact_head is false)")
        logits: Tensor = self.contact_head.regression.bias
        for layer, maps in enumerate(self.contact_maps(input_ids, attention_mask)):
            logits = logits + self.contact_head.layer_logits(layer, maps)
        return logits.sigmoid()

    def _layout(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        max_seqlen: int | None,
        lengths: Sequence[int] | None,
        causal: bool | None = None,
    ) -> Layout:
        config = self.config if causal is None else dataclasses.replace(self.config, causal=causal)
        dtype = self.embedding.weight.dtype
        if cu_seqlens is None:
            return PaddedLayout(_token_mask(input_ids, attention_mask), config, dtype)
        if max_seqlen is None:
            raise ValueError("a packed batch needs max_seqlen beside cu_seqlens")
        arguments = (config, dtype, self.attention_backend, lengths)
        return PackedLayout(input_ids, cu_seqlens, int(max_seqlen), *arguments)

    def _embed(self, input_ids: Tensor, layout: Layout) -> Tensor:
        x: Tensor = self.embedding(input_ids)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        keep = layout.is_token
        if self.config.token_dropout:
            is_mask = (input_ids == MASK_ID) & keep
            keep = keep & ~is_mask
            # Per protein: (1 - expected share of <mask>) / (1 - observed share). If all tokens are masked, all are
            # zero, and the clamp only avoids 0 / 0.
            total = layout.sum_per_protein(layout.is_token)
            unmasked = total - layout.sum_per_protein(is_mask)
            scale = total.to(torch.promote_types(x.dtype, torch.float32)) / unmasked.clamp(min=1)
            x = (x * (1 - self.config.token_dropout_mask_rate) * scale[..., None]).to(x.dtype)
        x = x.masked_fill(~keep[..., None], 0.0)
        if self.config.embedding_residual:
            layout.embedded = x
        return x

    def _initialise(self) -> None:
        """Normal weights (std ``initializer_range``), zero biases, unit norms, a zero row for ``<pad>``.

        As in ``EsmPreTrainedModel._init_weights`` of transformers, which took it from BERT; deterministic under torch's
        seed. The contact head starts at zero, so that untrained it predicts 0.5 everywhere.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            if self.config.initializer_residual_scaling:
                for block in self.blocks:
                    assert isinstance(block, ESM2Block)
                    for writer in (block.attention.out, block.feed_forward.down):
                        writer.weight.mul_((2 * self.config.num_hidden_layers) ** -0.5)
            self.embedding.weight[PAD_ID].zero_()
            if self.config.contact_head:
                self.contact_head.regression.weight.zero_()


def _token_mask(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    return input_ids != PAD_ID if attention_mask is None else attention_mask.bool()
