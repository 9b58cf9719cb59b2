"""The config of a model, and the published sizes."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from plm_composer.errors import UserError
from plm_composer.tokenizer import VOCABULARY

VOCABULARY_SIZE = len(VOCABULARY)
ESM2_MASK_RATE = 0.15 * 0.8
"""Expected share of ``<mask>`` in the training of every published ESM2: 15 % of tokens chosen, 80 % of those masked."""

MASKED_LOSS, CAUSAL_LOSS = "masked_nll", "residue_nll"
"""Names of the pinned loss: of hidden residues, and of a causal model's next residues."""


@dataclasses.dataclass(frozen=True)
class ESM2Config:
    """The config of an ESM2 or one of its variants. Fields that ``transformers.EsmConfig`` has keep its names.

    The defaults are ESM2's. The vocabulary is ``plm_composer.tokenizer.VOCABULARY``, there is no dropout, and the head
    is always that of ESM2, with its LayerNorm and its biases.

    Args:
        num_hidden_layers: Number of blocks.
        hidden_size: Width of the residual stream.
        num_attention_heads: Number of heads; they share ``hidden_size`` unless ``attention_head_size`` is set.
        intermediate_size: Width inside the feed-forward. A gated one has two linear layers of this width before the
            gate and one after it, so that two thirds of the width cost as much as without a gate.
        qkv_bias: Biases in the query, key and value projections.
        intermediate_bias: Bias in the first linear layer of the feed-forward.
        token_dropout: Zero the embeddings of ``<mask>`` and rescale the others by the protein's share of ``<mask>``.
        token_dropout_mask_rate: Expected share of ``<mask>`` in training, to which the rescaling is relative.
        tie_word_embeddings: Decode with the embedding table.
        layer_norm_eps: Epsilon of every LayerNorm.
        initializer_range: Standard deviation of the initial weights; the published configs have 0.02.
        contact_head: Include fair-esm's contact regression (it is never trained here).
        feed_forward: ``gelu``, or ``swiglu`` (Shazeer 2020).
        position_embedding_type: ``rotary`` (Su et al. 2021), or ``alibi`` (Press et al. 2022), here with the same
            penalty in both directions.
        normalization: ``layernorm``, or ``rmsnorm`` (Zhang and Sennrich 2019), in the blocks and after the last one.
        qk_norm: Normalise queries and keys, head by head (Henry et al. 2020; Dehghani et al. 2023).
        short_convolution: Width of a depthwise convolution along each protein, added to the input of the query, key and
            value projections (So et al. 2021; Allen-Zhu 2025); an odd number, 0 for none.
        output_bias: Biases in the linear layers that write to the residual stream: attention's output projection and
            the feed-forward's second layer.
        norm_bias: Biases in the LayerNorms of the blocks and after the last one; an RMSNorm never has one.
        attention_head_size: Width of a head; None for ``hidden_size`` / ``num_attention_heads``.
        embedding_scale: Factor on the token embeddings.
        residual_scale: Factor on both updates of each block, such as 1 / sqrt(2 * layers).
        rotary_frequencies: Rotation per position of each pair of a head's channels, radians, (head_size / 2,), for
            models that were trained elsewhere; None for 10000^(-2i / head_size).
        initializer_residual_scaling: Divide the initial weights of the linear layers that write to the residual stream
            by sqrt(2 * layers) (GPT-2, Radford et al. 2019).
        layer_drop: Probability that a protein skips the last block in training; it falls in equal steps towards the
            first block (Huang et al. 2016).
        z_loss: Weight in the training loss of the squared logarithm of the softmax's denominator (PaLM, Chowdhery et
            al. 2022).
        causal: Let a token attend only to itself and to earlier tokens of its protein, as a model of the next residue
            must (``objective: causal`` sets it, and nothing else). A short convolution then reads only the earlier of
            its neighbours.
        mixed: Trained as a causal model too (only ``objective: mixed`` sets it): it sees both sides, unless
            ``as_causal``.
        value_residual: Mix the values of the first block into those of each later one, by a learned weight that starts
            at one half (Zhou et al. 2024, "Value Residual Learning").
        embedding_residual: Begin each block with a learned mixture of the residual stream and the embedding, which
            starts as the stream alone (modded-nanogpt, Jordan et al. 2024).

    Raises:
        UserError: If a value has the wrong type or is impossible.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    qkv_bias: bool = True
    intermediate_bias: bool = True
    token_dropout: bool = True
    token_dropout_mask_rate: float = ESM2_MASK_RATE
    tie_word_embeddings: bool = True
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    contact_head: bool = True
    feed_forward: str = "gelu"
    position_embedding_type: str = "rotary"
    normalization: str = "layernorm"
    qk_norm: bool = False
    short_convolution: int = 0
    output_bias: bool = True
    norm_bias: bool = True
    attention_head_size: int | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    rotary_frequencies: tuple[float, ...] | None = None
    initializer_residual_scaling: bool = False
    layer_drop: float = 0.0
    z_loss: float = 0.0
    causal: bool = False
    mixed: bool = False
    value_residual: bool = False
    embedding_residual: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.rotary_frequencies, list):  # from YAML or JSON
            object.__setattr__(self, "rotary_frequencies", tuple(self.rotary_frequencies))
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), str(field.type))
        for name in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}: {getattr(self, name)} must be at least 1")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"model.{name}: there is no {getattr(self, name)!r}; choose from {', '.join(choices)}")
        self._check_head_size()
        if self.short_convolution < 0 or (self.short_convolution > 0 and self.short_convolution % 2 == 0):
            raise UserError(
                f"model.short_convolution: {self.short_convolution} must be an odd number, so that both"
                " sides have equally many neighbours; 0 for none"
            )
        for name in ("token_dropout_mask_rate", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name}: {getattr(self, name)} must be at least 0 and below 1")
        if self.value_residual and self.layer_drop:
            raise UserError(
                "model.layer_drop: with value_residual no protein may skip a block, since later blocks need the values"
                " of the first; set one of them to 0 or false"
            )
        if not 0 <= self.z_loss < math.inf:
            raise UserError(f"model.z_loss: {self.z_loss} must be at least 0, and finite")
        for name in ("layer_norm_eps", "initializer_range", "embedding_scale", "residual_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"model.{name}: {getattr(self, name)} must be above 0, and finite")
        self._check_frequencies()

    def _check_frequencies(self) -> None:
        if self.rotary_frequencies is None:
            return
        if self.position_embedding_type != "rotary":
            raise UserError("model.rotary_frequencies: only a model with rotary positions uses them; leave them out")
        if len(self.rotary_frequencies) != self.head_size // 2:
            raise UserError(
                f"model.rotary_frequencies: {len(self.rotary_frequencies)} numbers; a head width of {self.head_size}"
                f" needs {self.head_size // 2}"
            )
        for value in self.rotary_frequencies:
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(f"model.rotary_frequencies: {value!r} must be a finite number")

    def _check_head_size(self) -> None:
        # Rotary positions rotate pairs of channels.
        rotary = self.position_embedding_type == "rotary"
        least, kind = (2, "even ") if rotary else (1, "")
        if self.attention_head_size is not None:
            if self.attention_head_size < 1 or self.attention_head_size % least:
                wanted = "at least 2, and even for rotary positions" if rotary else "at least 1"
                raise UserError(f"model.attention_head_size: {self.attention_head_size} must be {wanted}")
        elif self.hidden_size % (least * self.num_attention_heads):
            raise UserError(
                f"model.hidden_size: {self.hidden_size} over {self.num_attention_heads} heads gives no {kind}head"
                f" width; make it a multiple of {least * self.num_attention_heads}, or set attention_head_size"
            )

    @property
    def predicts_next(self) -> bool:
        """Whether the model has learnt to predict the next residue, so that it gives likelihoods and can be sampled."""
        return self.causal or self.mixed

    @property
    def loss_name(self) -> str:
        """Name of the metric that is the loss of the pinned evaluation."""
        return CAUSAL_LOSS if self.causal else MASKED_LOSS

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Width of all attention heads together."""
        return self.num_attention_heads * self.head_size

    @property
    def up_size(self) -> int:
        """Output width of the feed-forward's first linear layer: twice ``intermediate_size`` with a gate."""
        return self.intermediate_size * (2 if self.feed_forward == "swiglu" else 1)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str = "model") -> ESM2Config:
        """Builds a config from a mapping, such as a YAML section or ``to_mapping``'s result.

        Args:
            values: Values by field name.
            source: Name of the mapping in error messages.

        Raises:
            UserError: If a key is unknown or missing, or a value impossible.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"the keys are {', '.join(fields)}"
                raise UserError(f"{source}: unknown key '{key}'; {hint}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise UserError(f"{source}: key '{name}' is missing")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """All fields as plain values, for JSON, YAML and ``from_mapping``."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


_CHOICES: dict[str, tuple[str, ...]] = {
    "feed_forward": ("gelu", "swiglu"),
    "position_embedding_type": ("rotary", "alibi"),
    "normalization": ("layernorm", "rmsnorm"),
}
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "tuple[float, ...] | None": (tuple, type(None)),
}
_TYPE_NAMES = {"int | None": "of type int or null", "tuple[float, ...] | None": "a list of numbers or null"}


def _check_type(name: str, value: object, type_name: str) -> None:
    if not isinstance(value, _TYPES[type_name]) or (isinstance(value, bool) and type_name != "bool"):
        raise UserError(f"model.{name}: {value!r} must be {_TYPE_NAMES.get(type_name, f'of type {type_name}')}")


PRESETS: dict[str, ESM2Config] = {
    "esm2_8m": ESM2Config(6, 320, 20, 1280),
    "esm2_35m": ESM2Config(12, 480, 20, 1920),
    "esm2_150m": ESM2Config(30, 640, 20, 2560),
    "esm2_650m": ESM2Config(33, 1280, 20, 5120),
    "esm2_3b": ESM2Config(36, 2560, 40, 10240),
    "cramming_67m": ESM2Config(12, 768, 12, 2048, qkv_bias=False, intermediate_bias=False),
}
"""The published ESM2 sizes (Lin et al. 2023) and the model of "Cramming Protein Language Model Training"
(Frey, Joren et al. 2024)."""
