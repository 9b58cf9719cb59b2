"""Converts weights between the names of ``transformers`` and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.rotary import rotary_frequencies
from plm_composer.model.weights.huggingface_config import SECTION
from plm_composer.model.weights.naming import (
    CLASSIFIER,
    HEAD,
    Naming,
    StateDict,
    check_headless,
    embedding_factor,
    from_foreign,
    require_frequencies,
    to_foreign,
)

NAMING = Naming(
    modules={
        "embedding": "esm.embeddings.word_embeddings",
        "blocks.{}.attention_norm": "esm.encoder.layer.{}.attention.LayerNorm",
        "blocks.{}.attention.out": "esm.encoder.layer.{}.attention.output.dense",
        "blocks.{}.feed_forward_norm": "esm.encoder.layer.{}.LayerNorm",
        "blocks.{}.feed_forward.up": "esm.encoder.layer.{}.intermediate.dense",
        "blocks.{}.feed_forward.down": "esm.encoder.layer.{}.output.dense",
        "final_norm": "esm.encoder.emb_layer_norm_after",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "decoder": "lm_head.decoder",
        "contact_head.regression": "esm.contact_head.regression",
    },
    qkv=tuple(f"esm.encoder.layer.{{}}.attention.self.{part}" for part in ("query", "key", "value")),  # type: ignore
)
_TABLE, _DECODER = "esm.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
_FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
_ANY_FREQUENCIES = ".rotary_embeddings.inv_freq"
"""The end of that name in files of any version: transformers 5 has one for all layers."""
_UNUSED = ("esm.embeddings.position_ids", "esm.embeddings.position_embeddings.weight")
"""Published checkpoints carry these; a model with rotary positions does not use them."""
_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
"""TensorFlow's names of a norm's parameters: transformers 5 writes them for ESM2, and every version reads them."""
_BASE = "esm."
_OTHER_HEADS = ("esm.pooler.", CLASSIFIER)
"""Parts of an ``EsmModel`` and of a classifier that have no counterpart in our model."""


def to_huggingface(state_dict: StateDict, config: ESM2Config) -> StateDict:
    """Converts our state dict to one for ``EsmForMaskedLM``.

    ``EsmForMaskedLM`` hard-codes a mask rate of 0.12 in its token dropout. A model with another rate is written with
    two tables: the embeddings scaled by (1 - rate) / (1 - 0.12), and the decoder as it is. Its outputs stay the same.
    ``embedding_scale`` also goes into the embeddings, and ``residual_scale`` into the layers whose output it scales.

    Args:
        state_dict: Our state dict.
        config: Our config.
    """
    foreign = to_foreign(state_dict, config, NAMING)
    factor = embedding_factor(config)
    if factor != 1:
        foreign.setdefault(_DECODER, foreign[_TABLE])
        foreign[_TABLE] = foreign[_TABLE] * factor
    for layer in range(config.num_hidden_layers):
        foreign[_FREQUENCIES.format(layer)] = rotary_frequencies(config)
    return foreign


def from_huggingface(state_dict: Mapping[str, Tensor], config: ESM2Config, source: str = "state dict") -> StateDict:
    """Converts an ``EsmForMaskedLM`` state dict to ours.

    Args:
        state_dict: State dict in the names of any version; rotary buffers and a tied decoder are optional.
        config: Our config of the model, with its rotary frequencies.
        source: Name of the file, for errors.

    Raises:
        UserError: A weight is missing, unexpected or of the wrong shape, or contradicts the config.
    """
    require_frequencies(config, frequencies_in(state_dict), source)
    plain = {
        name: value
        for name, value in _todays_names(state_dict).items()
        if name not in _UNUSED and not is_frequencies(name)
    }
    factor = embedding_factor(config)
    if factor != 1 and _TABLE in plain:
        unscaled = plain[_TABLE] / factor
        if config.tie_word_embeddings:
            # The decoder holds the exact table; the scaled embeddings were rounded.
            table = plain.get(_DECODER, unscaled)
            if table.shape != unscaled.shape or not (
                table.is_meta or torch.allclose(table, unscaled, rtol=1e-2, atol=1e-6)
            ):
                raise UserError(
                    f"{source}: '{_DECODER}' and '{_TABLE}' are no longer one table; if the model was trained"
                    f" elsewhere since its export, delete the section '{SECTION}' of config.json"
                )
            unscaled = table
        plain[_TABLE] = unscaled
    if config.tie_word_embeddings:
        plain.pop(_DECODER, None)
    return from_foreign(plain, config, NAMING, source)


def translate(weights: StateDict, config: ESM2Config, head_required: bool, source: str) -> tuple[ESM2Config, StateDict]:
    """Converts the weights of any ESM model of ``transformers`` to ours.

    Args:
        weights: State dict of the model; on the ``meta`` device, only names and shapes are checked.
        config: Our config of the model, with its rotary frequencies.
        head_required: Whether to refuse an ``EsmModel`` or a classifier, which has no language-model head.
        source: Name of the file, for errors.

    Returns:
        Our config and state dict; without a head, the state dict has no ``lm_head``.

    Raises:
        UserError: As for ``from_huggingface``, or the head is missing.
    """
    theirs = _todays_names(weights)
    if any(name.startswith(HEAD) for name in theirs):
        return config, from_huggingface(theirs, config, source)
    check_headless(head_required, source)
    theirs = {name: value for name, value in theirs.items() if not name.startswith(_OTHER_HEADS)}
    # Adds a head of zeros for the checks and removes it again. Without a decoder, the tables count as tied.
    config = dataclasses.replace(config, tie_word_embeddings=True)
    with torch.device("meta"):
        whole = to_huggingface(ESM2(config).state_dict(), config)
    head = {name: torch.zeros(value.shape) for name, value in whole.items() if name.startswith(HEAD)}
    head.pop(_DECODER, None)
    ours = from_huggingface({**theirs, **head}, config, source)
    return config, {name: value for name, value in ours.items() if not name.startswith(HEAD)}


def _todays_names(weights: Mapping[str, Tensor]) -> StateDict:
    """Renames the weights of any version, and of any ESM model, as in ``EsmForMaskedLM`` of transformers 4."""
    names = list(weights)
    prefix = "" if any(name.startswith(_BASE) for name in names) else _BASE
    renamed = {}
    for name, value in weights.items():
        for old, new in _OLD_ENDINGS.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        renamed[name if name.startswith((HEAD, CLASSIFIER)) else prefix + name] = value
    return renamed


def frequencies_in(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The rotary frequencies among weights of any version of ``transformers``."""
    return [value for name, value in weights.items() if is_frequencies(name)]


def is_frequencies(name: str) -> bool:
    """Whether a name is that of the rotary frequencies of a layer, or of all layers."""
    return name.endswith(_ANY_FREQUENCIES)
