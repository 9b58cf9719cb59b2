# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on an
# "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
# specific language governing permissions and limitations under the License.
"""Configuration of a variant of ESM2 that was trained with plm-composer, for ``transformers``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

CLS_ID, PAD_ID, EOS_ID, MASK_ID = 0, 1, 2, 32
VOCABULARY_SIZE = 33


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The fields of plm-composer's own model config, as the section ``plm_composer`` of ``config.json`` has them.

    Args:
        num_hidden_layers: Number of blocks.
        hidden_size: Width of the residual stream.
        num_attention_heads: Number of heads.
        intermediate_size: Width inside the feed-forward, after the gate if it has one.
        qkv_bias: Biases in the query, key and value projections.
        intermediate_bias: Bias in the first linear layer of the feed-forward.
        token_dropout: Zero the embeddings of ``<mask>`` and rescale the others by the protein's share of ``<mask>``.
        token_dropout_mask_rate: Expected share of ``<mask>`` in pretraining.
        tie_word_embeddings: Decode with the embedding table.
        layer_norm_eps: Epsilon of every norm.
        initializer_range: Standard deviation of initial weights, here those of new classifiers.
        contact_head: Whether there is a regression from attention maps to contacts.
        feed_forward: ``gelu`` or ``swiglu``.
        position_embedding_type: ``rotary`` or ``alibi``.
        normalization: ``layernorm`` or ``rmsnorm``.
        qk_norm: Normalise queries and keys, head by head.
        short_convolution: Width of a depthwise convolution before attention; 0 for none.
        output_bias: Biases in the linear layers that write to the residual stream.
        norm_bias: Biases in the LayerNorms of the blocks and after the last one.
        attention_head_size: Width of a head; None for ``hidden_size`` / ``num_attention_heads``.
        embedding_scale: Factor on the token embeddings.
        residual_scale: Factor on both updates of each block.
        rotary_frequencies: Rotation per position of each pair of channels, radians; None for the usual ones.
        initializer_residual_scaling: Used by plm-composer's pretraining alone, as are the two below.
        layer_drop: Stochastic depth of pretraining.
        z_loss: Weight of a term of the pretraining loss.
        causal: Whether a token attends only to itself and to earlier ones.
        mixed: Whether it was trained as a causal model too.
        value_residual: Whether later blocks mix the first block's values into their own.
        embedding_residual: Whether each block begins with a mixture of the residual stream and the embedding.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    qkv_bias: bool
    intermediate_bias: bool
    token_dropout: bool
    token_dropout_mask_rate: float
    tie_word_embeddings: bool
    layer_norm_eps: float
    initializer_range: float
    contact_head: bool
    feed_forward: str
    position_embedding_type: str
    normalization: str
    qk_norm: bool
    short_convolution: int
    output_bias: bool
    norm_bias: bool
    attention_head_size: int | None
    embedding_scale: float
    residual_scale: float
    rotary_frequencies: list[float] | None
    initializer_residual_scaling: bool
    layer_drop: float
    z_loss: float
    causal: bool = False
    mixed: bool = False
    value_residual: bool = False
    embedding_residual: bool = False

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Width of all attention heads together."""
        return self.num_attention_heads * self.head_size


class PlmComposerConfig(PretrainedConfig):
    """A variant of ESM2.

    The sizes are properties that read the section, so that ``config.json`` has each value once.

    Args:
        plm_composer: The fields of ``Architecture``.
        **kwargs: Keys that every config of ``transformers`` has, such as ``num_labels``.
    """

    model_type = "plm_composer"

    def __init__(self, plm_composer: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.plm_composer = dict(plm_composer or {})
        # transformers reads this one as a key of its own.
        kwargs["tie_word_embeddings"] = self.plm_composer.get("tie_word_embeddings", True)
        super().__init__(**kwargs)
        self.pad_token_id, self.mask_token_id = PAD_ID, MASK_ID
        self.bos_token_id, self.eos_token_id, self.use_cache = CLS_ID, EOS_ID, False

    @property
    def architecture(self) -> Architecture:
        """The section's fields."""
        return Architecture(**self.plm_composer)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return VOCABULARY_SIZE

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return self.architecture.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of blocks."""
        return self.architecture.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Number of heads."""
        return self.architecture.num_attention_heads

    @property
    def intermediate_size(self) -> int:
        """Width inside the feed-forward."""
        return self.architecture.intermediate_size
