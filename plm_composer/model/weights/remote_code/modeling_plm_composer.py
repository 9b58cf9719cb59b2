# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
# "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
# specific language governing permissions and limitations under the License.
"""Variants of ESM2 (Lin et al. 2023) that were trained with plm-composer, for ``transformers``.

Top to bottom: what blocks share of a batch, norms, convolution, attention, feed-forward, a pre-norm block, the heads,
and the models. Parameters have the names of plm-composer's own model. Proteins are padded to one length:
B proteins, L positions, H heads. There is no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    CausalLMOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from .configuration_plm_composer import EOS_ID, MASK_ID, PAD_ID, VOCABULARY_SIZE, Architecture, PlmComposerConfig

_ROTARY_BASE = 10_000


def rotary_frequencies(architecture: Architecture, device: torch.device) -> Tensor:
    """Rotation per position of each pair of a head's channels, radians, shape (head_size / 2,), fp32."""
    if architecture.rotary_frequencies is not None:
        return torch.tensor(architecture.rotary_frequencies, dtype=torch.float32, device=device)
    exponent = torch.arange(0, architecture.head_size, 2, device=device).float() / architecture.head_size
    return 1.0 / _ROTARY_BASE**exponent


def alibi_slopes(heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """ALiBi's slopes (Press et al. 2022), shape (H,): a geometric series, completed by every other term of the next."""
    lower = 2 ** math.floor(math.log2(heads))
    exponents = [-8 * (number + 1) / lower for number in range(lower)]
    exponents += [-8 * (2 * number + 1) / (2 * lower) for number in range(heads - lower)]
    return torch.tensor([2**exponent for exponent in exponents], device=device, dtype=dtype)


class Batch:
    """What all blocks read of a batch. It is no dataclass, because FSDP would cast the tables of one to bf16.

    Attributes:
        is_token: True on tokens, False on padding, shape (B, L).
        rotary: Cosines and sines, each (L, 1, head_size / 2), fp32 or better; None without rotary positions.
        distance_bias: ALiBi's penalties, shape (H, L, L), fp32 or better; None without ALiBi.
        returns_maps: Whether attention computes its maps one by one, and returns them.
        is_key: True where a query may see a key, shape (B, 1, 1, L), or (B, 1, L, L) in a causal model.
        embedded: What enters the first block, shape (B, L, hidden_size).
        first_values: Values of the first block, shape (B, L, H, head_size), once it has run.

    Args:
        architecture: Fields of the model.
        is_token: As above.
        embedded: As above.
        dtype: Data type of the parameters.
        returns_maps: As above.
    """

    first_values: Tensor

    def __init__(
        self, architecture: Architecture, is_token: Tensor, embedded: Tensor, dtype: torch.dtype, returns_maps: bool
    ) -> None:
        self.is_token, self.embedded, self.returns_maps = is_token, embedded, returns_maps
        self.is_key = is_token[:, None, None, :]
        if architecture.causal:
            earlier = torch.ones(2 * is_token.shape[1:], dtype=torch.bool, device=is_token.device).tril()
            # Each sees itself: padding on the left sees nothing else, and its softmax would be no number.
            self.is_key = self.is_key & earlier | torch.eye(len(earlier), dtype=torch.bool, device=earlier.device)
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.distance_bias: Tensor | None = None
        wide = torch.promote_types(dtype, torch.float32)
        position = torch.arange(is_token.shape[1], device=is_token.device)
        if architecture.position_embedding_type == "rotary":
            angle = position.to(wide)[:, None, None] * rotary_frequencies(architecture, position.device).to(wide)
            self.rotary = angle.cos(), angle.sin()
        else:
            slopes = alibi_slopes(architecture.num_attention_heads, position.device, wide)
            self.distance_bias = -slopes[:, None, None] * (position[:, None] - position).abs().to(wide)

    def rotate(self, x: Tensor) -> Tensor:
        """Rotates queries or keys, (B, L, H, head_size), by their position (RoFormer, Su et al. 2021)."""
        if self.rotary is None:
            return x
        cosine, sine = self.rotary
        first, second = x.to(cosine.dtype).chunk(2, dim=-1)
        # In the order, and with the roundings, of plm-composer's own rotation.
        turned_first = torch.addcmul(first * cosine, second, sine, value=-1)
        turned_second = torch.addcmul(second * cosine, first, sine)
        return torch.cat((turned_first, turned_second), dim=-1).to(x.dtype)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Attends within each protein.

        Args:
            query: Scaled queries, shape (B, L, H, head_size).
            key: Keys of the same shape.
            value: Values of the same shape.

        Returns:
            The heads' results, of the same shape, and the attention maps, (B, H, L, L), if they are to be returned.
        """
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if not self.returns_maps:
            mask = self.is_key
            if self.distance_bias is not None:
                mask = self.distance_bias.to(query.dtype).masked_fill(~self.is_key, float("-inf"))
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0).transpose(1, 2), None
        scores = query @ key.transpose(-1, -2)
        if self.distance_bias is not None:
            scores = scores + self.distance_bias
        scores = scores.masked_fill(~self.is_key, torch.finfo(scores.dtype).min)
        maps = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        return (maps @ value).transpose(1, 2), maps


def make_norm(architecture: Architecture, width: int, *, bias: bool) -> nn.Module:
    """Makes a LayerNorm (Ba et al. 2016), or an RMSNorm (Zhang and Sennrich 2019), which never has a bias."""
    if architecture.normalization == "rmsnorm":
        return nn.RMSNorm(width, eps=architecture.layer_norm_eps)
    return nn.LayerNorm(width, eps=architecture.layer_norm_eps, bias=bias)


class ShortConvolution(nn.Module):
    """Adds to each token a weighted sum of its neighbours in its protein, channel by channel.

    In a causal model, these are the earlier ones: the second half of the weights is not used.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.causal = architecture.causal
        self.weight = nn.Parameter(torch.zeros(architecture.hidden_size, 1, architecture.short_convolution))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """Adds the convolution of ``x``, shape (B, L, hidden_size); padding counts as zeros."""
        channels, _, width = self.weight.shape
        tokens = x.masked_fill(~batch.is_token[..., None], 0).transpose(1, 2)
        weight, reach = self.weight.to(x.dtype), width // 2
        if self.causal:
            weight = F.pad(weight[..., : reach + 1], (0, reach))
        convolved = F.conv1d(tokens, weight, padding=reach, groups=channels)
        return x + convolved.transpose(1, 2)


class Attention(nn.Module):
    """Self-attention within each protein.

    ``qk_norm`` normalises queries and keys before their rotation; with ``value_residual``, the first block leaves its
    values to the others, which mix them into their own.
    """

    def __init__(self, architecture: Architecture, first: bool) -> None:
        super().__init__()
        self.num_heads, self.head_size = architecture.num_attention_heads, architecture.head_size
        self.qkv = nn.Linear(architecture.hidden_size, 3 * architecture.attention_size, bias=architecture.qkv_bias)
        if architecture.qk_norm:
            self.query_norm: nn.Module | None = make_norm(architecture, self.head_size, bias=False)
            self.key_norm: nn.Module | None = make_norm(architecture, self.head_size, bias=False)
        else:
            self.query_norm = self.key_norm = None
        self.leaves_values = architecture.value_residual and first
        mixes = architecture.value_residual and not first
        self.value_weight = nn.Parameter(torch.full((1,), 0.5)) if mixes else None
        self.out = nn.Linear(architecture.attention_size, architecture.hidden_size, bias=architecture.output_bias)

    def forward(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Attends and projects to shape (B, L, hidden_size); the maps as ``Batch.attend`` returns them."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_size)).unbind(-3)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query).to(value.dtype), self.key_norm(key).to(value.dtype)
        if self.leaves_values:
            batch.first_values = value
        if self.value_weight is not None:
            value = torch.lerp(value, batch.first_values, self.value_weight.to(value.dtype))
        # ESM2 scales queries before it rotates them.
        attended, maps = batch.attend(batch.rotate(query * self.head_size**-0.5), batch.rotate(key), value)
        return self.out(attended.flatten(-2)), maps


class FeedForward(nn.Module):
    """Two linear layers around a GELU, or around a SwiGLU (Shazeer 2020), which gates one half by the other."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.gated = architecture.feed_forward == "swiglu"
        up_size = architecture.intermediate_size * (2 if self.gated else 1)
        self.up = nn.Linear(architecture.hidden_size, up_size, bias=architecture.intermediate_bias)
        self.down = nn.Linear(architecture.intermediate_size, architecture.hidden_size, bias=architecture.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each token independently, shape (B, L, hidden_size)."""
        x = self.up(x)
        if not self.gated:
            return self.down(F.gelu(x))
        gate, value = x.chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, architecture: Architecture, first: bool) -> None:
        super().__init__()
        self.residual_scale = architecture.residual_scale
        # Weights of the residual stream and of the embedding.
        weights = torch.tensor([1.0, 0.0]) if architecture.embedding_residual else None
        self.stream_weights = None if weights is None else nn.Parameter(weights)
        self.attention_norm = make_norm(architecture, architecture.hidden_size, bias=architecture.norm_bias)
        self.convolution = ShortConvolution(architecture) if architecture.short_convolution else None
        self.attention = Attention(architecture, first)
        self.feed_forward_norm = make_norm(architecture, architecture.hidden_size, bias=architecture.norm_bias)
        self.feed_forward = FeedForward(architecture)

    def forward(self, x: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """One update of the residual stream, (B, L, hidden_size), and the maps as ``Batch.attend`` returns them."""
        if self.stream_weights is not None:
            x = self.stream_weights[0] * x + self.stream_weights[1] * batch.embedded
        normed = self.attention_norm(x)
        if self.convolution is not None:
            normed = self.convolution(normed, batch)
        attended, maps = self.attention(normed, batch)
        x = x + self.residual_scale * attended
        return x + self.residual_scale * self.feed_forward(self.feed_forward_norm(x)), maps


class LanguageModelHead(nn.Module):
    """Hidden states to logits. The decoding table is an argument, because it may be the embedding table."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.dense = nn.Linear(architecture.hidden_size, architecture.hidden_size)
        self.norm = nn.LayerNorm(architecture.hidden_size, eps=architecture.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(VOCABULARY_SIZE))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Logits, shape (B, L, 33), fp32 or better, which keeps bf16 rounding out of the loss."""
        x = self.norm(F.gelu(self.dense(x)))
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, table.to(x), self.bias.to(x))


class ContactHead(nn.Module):
    """Logistic regression on symmetrised, corrected attention maps (Rao et al. 2021)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.regression = nn.Linear(architecture.num_hidden_layers * architecture.num_attention_heads, 1)
        # No loss reaches it.
        self.regression.requires_grad_(False)

    def forward(self, maps: tuple[Tensor, ...], is_residue: Tensor) -> Tensor:
        """Probabilities of contacts, (B, L - 2, L - 2), from the maps of all layers, each (B, H, L, L)."""
        keep = is_residue[:, None, :, None] & is_residue[:, None, None, :]
        logits: Tensor = self.regression.bias
        for layer, weight in zip(maps, self.regression.weight[0].chunk(len(maps)), strict=True):
            symmetric = (layer * keep)[..., 1:-1, 1:-1]
            symmetric = symmetric + symmetric.transpose(-1, -2)
            # Average product correction (Dunn et al. 2008).
            rows, columns = symmetric.sum(-1, keepdim=True), symmetric.sum(-2, keepdim=True)
            corrected = symmetric - rows * columns / symmetric.sum((-1, -2), keepdim=True)
            logits = logits + torch.einsum("bhij,h->bij", corrected, weight.to(corrected.dtype))
        return logits.sigmoid()


class SequenceHead(nn.Module):
    """Classifies a protein by one token: ``<cls>``, as ``EsmForSequenceClassification`` does, if it sees the others."""

    def __init__(self, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (B, labels), from the hidden states of the tokens, (B, hidden_size)."""
        return self.out_proj(torch.tanh(self.dense(x)))


class PlmComposerPreTrainedModel(PreTrainedModel):
    """What ``transformers`` asks of every model."""

    config_class = PlmComposerConfig
    base_model_prefix = ""  # every model holds the blocks itself, under the same names
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.architecture.initializer_range)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, ShortConvolution):
            nn.init.zeros_(module.weight)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)


class PlmComposerModel(PlmComposerPreTrainedModel):
    """The model without a head; the models with one inherit from it, so that all have the same parameter names."""

    # Heads that a file may hold beside the model.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"^decoder\.", r"^classifier\."]  # noqa: RUF012

    def __init__(self, config: PlmComposerConfig) -> None:
        super().__init__(config)
        architecture = config.architecture
        self.architecture, self.gradient_checkpointing = architecture, False
        self.embedding = nn.Embedding(VOCABULARY_SIZE, architecture.hidden_size)
        self.blocks = nn.ModuleList(
            Block(architecture, first=layer == 0) for layer in range(architecture.num_hidden_layers)
        )
        self.final_norm = make_norm(architecture, architecture.hidden_size, bias=architecture.norm_bias)
        if architecture.contact_head:
            self.contact_head = ContactHead(architecture)
        self._add_head(config)
        self.post_init()

    def _add_head(self, config: PlmComposerConfig) -> None:
        """Makes the modules of the head, of which this model has none."""

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replaces the embedding table."""
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Computes the representations of all positions.

        Args:
            input_ids: Token ids, shape (B, L).
            attention_mask: Nonzero on tokens, shape (B, L); None for all but ``<pad>``.
            inputs_embeds: Rows of the embedding table in place of ``input_ids``, shape (B, L, hidden_size); none of
                them counts as ``<mask>`` or ``<pad>``.
            output_attentions: Whether to return the attention maps of each layer, (B, H, L, L).
            output_hidden_states: Whether to return the embeddings, the output of each block but the last, and the
                representations after the final norm: layers + 1 tensors of shape (B, L, hidden_size).
            return_dict: Whether to return an object with names rather than a tuple.

        Returns:
            ``last_hidden_state``: representations after the final norm, shape (B, L, hidden_size).
        """
        encoded = self._encode(input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states)
        return self._returned(encoded, return_dict)

    def predict_contacts(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Predicts the probability that two residues are in contact, as ``EsmForMaskedLM`` does.

        Args:
            tokens: Token ids with ``<cls>`` first and ``<eos>`` last in each protein, shape (B, L).
            attention_mask: Nonzero on tokens, shape (B, L); None for all but ``<pad>``.

        Returns:
            Shape (B, L - 2, L - 2): ``<cls>`` is cut off; rows and columns of ``<eos>`` and padding mean nothing.

        Raises:
            ValueError: The model has no contact head.
        """
        if not self.architecture.contact_head:
            raise ValueError("this model cannot predict contacts: it has no contact head")
        encoded = self._encode(tokens, attention_mask, output_attentions=True)
        is_token = tokens != PAD_ID if attention_mask is None else attention_mask.bool()
        return self.contact_head(encoded.attentions, is_token & (tokens != EOS_ID))

    def _encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        wants_maps = self.config.output_attentions if output_attentions is None else output_attentions
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        is_token = self._find_tokens(input_ids, attention_mask, x)
        is_mask = torch.zeros_like(is_token) if input_ids is None else (input_ids == MASK_ID) & is_token
        x = self._scale_embeddings(x, is_token, is_mask)

        eager = bool(wants_maps) or self.config._attn_implementation == "eager"
        batch = Batch(self.architecture, is_token, x, self.embedding.weight.dtype, eager)
        states, maps = [x], []
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x, layer_maps = self._gradient_checkpointing_func(block.__call__, x, batch)
            else:
                x, layer_maps = block(x, batch)
            states += [x] if wants_states else []
            maps += [layer_maps] if wants_maps else []
        x = self.final_norm(x)
        return BaseModelOutput(
            last_hidden_state=x,
            hidden_states=(*states[:-1], x) if wants_states else None,
            attentions=tuple(maps) if wants_maps else None,
        )

    def _find_tokens(self, input_ids: Tensor | None, attention_mask: Tensor | None, x: Tensor) -> Tensor:
        """Whether a position holds a token, shape (B, L); ``x`` is (B, L, hidden_size)."""
        if attention_mask is not None:
            return attention_mask.bool()
        if input_ids is not None:
            return input_ids != PAD_ID
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)

    def _scale_embeddings(self, x: Tensor, is_token: Tensor, is_mask: Tensor) -> Tensor:
        if self.architecture.embedding_scale != 1:
            x = x * self.architecture.embedding_scale
        if not self.architecture.token_dropout:
            return x.masked_fill(~is_token[..., None], 0.0)
        # Per protein: (1 - expected share of <mask>) / (1 - observed share). If all tokens are masked, all are zero,
        # and the clamp only avoids 0 / 0.
        total = is_token.sum(-1, keepdim=True)
        unmasked = total - is_mask.sum(-1, keepdim=True)
        scale = total.to(torch.promote_types(x.dtype, torch.float32)) / unmasked.clamp(min=1)
        x = (x * (1 - self.architecture.token_dropout_mask_rate) * scale[..., None]).to(x.dtype)
        return x.masked_fill(~(is_token & ~is_mask)[..., None], 0.0)

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        wants_names = self.config.return_dict if return_dict is None else return_dict
        return output if wants_names else output.to_tuple()


class PlmComposerWithHead(PlmComposerModel):
    """The model with some head; subclasses make the head, and say what it computes."""

    output_class: type = MaskedLMOutput

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
    ) -> Any:
        """Computes the head's logits, and the loss if there are labels.

        Args:
            input_ids: As for ``PlmComposerModel``, as are those not named here.
            attention_mask: As above.
            inputs_embeds: As above.
            output_attentions: As above.
            output_hidden_states: As above.
            return_dict: As above.
            labels: What to predict, as the subclass describes it.

        Returns:
            ``logits``, and the mean ``loss`` over the labels.
        """
        encoded = self._encode(input_ids, attention_mask, inputs_embeds, output_attentions, output_hidden_states)
        hidden = encoded.last_hidden_state
        logits = self._logits(hidden, self._find_tokens(input_ids, attention_mask, hidden))
        loss = None if labels is None else self._loss(logits, labels.to(logits.device))
        output = self.output_class(
            loss=loss, logits=logits, hidden_states=encoded.hidden_states, attentions=encoded.attentions
        )
        return self._returned(output, return_dict)

    def _logits(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        raise NotImplementedError

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


class PlmComposerForMaskedLM(PlmComposerWithHead):
    """Predicts tokens: logits of shape (B, L, 33); labels are token ids, -100 where there is none, (B, L)."""

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # noqa: RUF012

    def _add_head(self, config: PlmComposerConfig) -> None:
        self.lm_head = LanguageModelHead(config.architecture)
        if not config.architecture.tie_word_embeddings:
            self.decoder = nn.Linear(config.hidden_size, VOCABULARY_SIZE, bias=False)

    def get_output_embeddings(self) -> nn.Module | None:
        """The decoder; None where the embedding table decodes, so that there is nothing to tie."""
        return None if self.architecture.tie_word_embeddings else self.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replaces the decoder of a model whose tables are not tied."""
        self.decoder = value

    def _logits(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        del is_token
        table = self.embedding.weight if self.architecture.tie_word_embeddings else self.decoder.weight
        return self.lm_head(hidden, table)


class PlmComposerForCausalLM(PlmComposerForMaskedLM, GenerationMixin):
    """Predicts each next token: logits of shape (B, L, 33); labels are token ids, -100 where there is none, (B, L).

    The logits of a position are those of the token after it; labels are those of the position itself, as everywhere in
    ``transformers``. ``generate`` computes the whole sequence for each token.
    """

    output_class = CausalLMOutput

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor | None]:
        """The whole sequence so far, for want of a cache."""
        del kwargs
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class PlmComposerForSequenceClassification(PlmComposerWithHead):
    """Classifies proteins, or predicts numbers of them, with a new head: logits of shape (B, labels).

    Labels are classes, (B,), integers; numbers, (B,) or (B, labels), for a regression; or 0 and 1 for each class,
    (B, labels), floats. ``config.problem_type`` says which; if it is not set, the first labels do. The head reads
    ``<cls>``, or a causal model's last token.
    """

    output_class = SequenceClassifierOutput

    def _add_head(self, config: PlmComposerConfig) -> None:
        self.classifier = SequenceHead(config.hidden_size, config.num_labels)

    def _logits(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        if not self.architecture.causal:
            return self.classifier(hidden[:, 0])
        # <cls> sees nothing but itself there; the last token sees all.
        positions = torch.arange(is_token.shape[1], device=hidden.device)
        return self.classifier(hidden[torch.arange(len(hidden), device=hidden.device), (positions * is_token).amax(-1)])

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type is None:
            several = labels.is_floating_point()
            kind = "multi_label_classification" if several else "single_label_classification"
            self.config.problem_type = "regression" if self.config.num_labels == 1 else kind
        return _SEQUENCE_LOSSES[self.config.problem_type](logits, labels)


_SEQUENCE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regression": lambda logits, labels: F.mse_loss(logits.view_as(labels), labels.to(logits.dtype)),
    "single_label_classification": lambda logits, labels: F.cross_entropy(logits, labels.flatten()),
    "multi_label_classification": lambda logits, labels: F.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype)
    ),
}


class PlmComposerForTokenClassification(PlmComposerWithHead):
    """Classifies residues with a new linear head: logits of shape (B, L, labels); labels (B, L), -100 for none."""

    output_class = TokenClassifierOutput

    def _add_head(self, config: PlmComposerConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def _logits(self, hidden: Tensor, is_token: Tensor) -> Tensor:
        del is_token
        return self.classifier(hidden)
