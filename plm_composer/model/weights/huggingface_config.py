"""Converts our config to Hugging Face's ``config.json`` and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.rotary import ROTARY_BASE, inverse_frequencies
from plm_composer.model.weights.naming import embedding_factor, inexpressible
from plm_composer.tokenizer import CLS_ID, EOS_ID, MASK_ID, PAD_ID, UNK_ID, VOCABULARY

SECTION = "plm_composer"
"""Key of our own config inside ``config.json``; it distinguishes a variant from the ESM2 that it is exported as."""
OWN_TYPE = "plm_composer"
"""The ``model_type`` of a variant that ``EsmForMaskedLM`` cannot compute."""
_CONFIGURATION, _MODELING = "configuration_plm_composer", "modeling_plm_composer"
CODE_FILES = (f"{_CONFIGURATION}.py", f"{_MODELING}.py")
"""Files of ``remote_code`` that the folder of a variant carries."""
_AUTO_MAP = {
    "AutoConfig": f"{_CONFIGURATION}.PlmComposerConfig",
    "AutoModel": f"{_MODELING}.PlmComposerModel",
    "AutoModelForSequenceClassification": f"{_MODELING}.PlmComposerForSequenceClassification",
    "AutoModelForTokenClassification": f"{_MODELING}.PlmComposerForTokenClassification",
}
_OTHER_MODELS = (
    "emb_layer_norm_before", "is_folding_model", "is_decoder", "add_cross_attention", "auto_map", "quantization_config",
    "pruned_heads", "rope_scaling", "rope_parameters",
)  # fmt: skip
"""Keys of ``config.json`` that, if set, describe a model that computes something else."""
_NO_T5 = {"feed_forward_proj": "not-a-t5"}
"""T5, which some programs try last, needs no sizes: a value that it refuses saves them from random weights."""
SPECIAL_TOKENS = {"cls": CLS_ID, "pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID, "mask": MASK_ID}


def config_to_huggingface(config: ESM2Config, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The content of ``config.json``, with our own config in the section ``plm_composer``.

    Args:
        config: Our config.
        dtype: Data type of the stored weights.
    """
    stored_dtype = str(dtype).removeprefix("torch.")
    if inexpressible(config):
        task = "CausalLM" if config.causal else "MaskedLM"
        # No sizes: with them EsmForMaskedLM would make an ESM2 with random weights, and only warn.
        return {
            **_NO_T5,
            "architectures": [f"PlmComposerFor{task}"],
            "model_type": OWN_TYPE,
            "auto_map": {**_AUTO_MAP, f"AutoModelFor{task}": f"{_MODELING}.PlmComposerFor{task}"},
            "torch_dtype": stored_dtype,
            SECTION: config.to_mapping(),
        }
    return {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "token_dropout": config.token_dropout,
        "tie_word_embeddings": config.tie_word_embeddings and embedding_factor(config) == 1,
        "position_embedding_type": "rotary",
        "emb_layer_norm_before": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": config.initializer_range,
        "max_position_embeddings": 1026,
        "vocab_size": len(VOCABULARY),
        **{f"{name}_token_id": token_id for name, token_id in SPECIAL_TOKENS.items() if name in ("pad", "mask")},
        "is_folding_model": False,
        "use_cache": True,
        "torch_dtype": stored_dtype,
        SECTION: config.to_mapping(),
    }


def config_from_huggingface(values: Mapping[str, Any], source: str = "config.json") -> ESM2Config:
    """Makes our config from the content of ``config.json``.

    Args:
        values: The content.
        source: Name of the file, for errors.

    Raises:
        UserError: The model is not an ESM2.
    """
    if values.get("model_type") == OWN_TYPE:
        if not isinstance(values.get(SECTION), Mapping):
            raise UserError(f"{source}: section '{SECTION}' is missing, which describes the model")
        return ESM2Config.from_mapping(values[SECTION], f"{source}: {SECTION}")
    required = {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "vocab_size": len(VOCABULARY),
        "mask_token_id": MASK_ID,
        "pad_token_id": PAD_ID,
    }
    for key, value in required.items():
        if values.get(key) != value:
            raise UserError(f"{source}: {key} is {values.get(key)!r}, an ESM2 has {value!r}; only ESM2 models fit")
    for key in _OTHER_MODELS:
        if values.get(key):
            raise UserError(f"{source}: {key} is {values[key]!r}; only plain ESM2 models fit")
    if SECTION in values:
        config = ESM2Config.from_mapping(values[SECTION], f"{source}: {SECTION}")
        if fields := inexpressible(config):
            raise UserError(f"{source}: model_type is 'esm', but {SECTION}.{fields[0]} says that it is not an ESM2")
        return config
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    for name in names:
        if name not in values:
            raise UserError(f"{source}: key '{name}' is missing")
    config = ESM2Config(
        **{name: values[name] for name in names},
        # transformers' own defaults for keys that config.json leaves out.
        token_dropout=values.get("token_dropout", False),
        token_dropout_mask_rate=ESM2_MASK_RATE,
        tie_word_embeddings=values.get("tie_word_embeddings", True),
        initializer_range=values.get("initializer_range", 0.02),
    )
    base = values.get("rope_theta", ROTARY_BASE)  # only transformers 5 has this key
    if base == ROTARY_BASE:
        return config
    if not isinstance(base, int | float) or not base > 0:
        raise UserError(f"{source}: rope_theta is {base!r}; it must be a number above 0")
    return dataclasses.replace(config, rotary_frequencies=tuple(inverse_frequencies(config.head_size, base).tolist()))
