"""ESM2 weights as Hugging Face folders: ``transformers.EsmForMaskedLM`` and ``AutoTokenizer`` load what we write.

A variant that ``EsmForMaskedLM`` cannot compute is written in the same files, with our own names for the weights and
``plm_composer`` for a model type: only ``load_huggingface`` reads it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.files.safetensors import write_safetensors
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.layout import ROTARY_BASE, inverse_frequencies, rotary_frequencies
from plm_composer.model.naming import (
    Naming,
    StateDict,
    embedding_factor,
    from_foreign,
    from_own,
    inexpressible,
    require_frequencies,
    to_foreign,
    with_stored_frequencies,
)
from plm_composer.model.weight_files import read_json, read_shapes, read_weights
from plm_composer.tokenizer import CLS_ID, EOS_ID, MASK_ID, PAD_ID, UNK_ID, VOCABULARY

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
SECTION = "plm_composer"
"""Key of our own config inside ``config.json``: what tells a variant from the ESM2 that it is exported as."""
OWN_TYPE = "plm_composer"
"""The ``model_type`` of a folder that ``EsmForMaskedLM`` cannot load."""
_TABLE, _DECODER = "esm.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
_FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
_ANY_FREQUENCIES = ".rotary_embeddings.inv_freq"
"""The end of that name in files of any version: transformers 5 keeps one for all layers."""
_UNUSED = ("esm.embeddings.position_ids", "esm.embeddings.position_embeddings.weight")
"""Published checkpoints carry these; a model with rotary positions does not use them."""
_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}
"""TensorFlow's names of a norm's parameters: transformers 5 writes them for ESM2, and every version reads them."""
_BASE, _HEAD = "esm.", "lm_head."
_OTHER_HEADS = ("esm.pooler.", "classifier.")
"""Parts of an ``EsmModel`` and of a classifier that say nothing of residues."""
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_OTHER_MODELS = (
    "emb_layer_norm_before", "is_folding_model", "is_decoder", "add_cross_attention", "auto_map", "quantization_config",
    "pruned_heads", "rope_scaling", "rope_parameters",
)  # fmt: skip
"""Keys of ``config.json`` that, where they say anything, describe a model that computes something else."""
_SPECIAL_TOKENS = {"cls": CLS_ID, "pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID, "mask": MASK_ID}


def to_huggingface(state_dict: StateDict, config: ESM2Config) -> StateDict:
    """Our state dict as ``EsmForMaskedLM`` takes it.

    ``EsmForMaskedLM`` hard-codes a mask rate of 0.12 in its token dropout. A model with another rate is written with
    two tables: the embeddings scaled by (1 - rate) / (1 - 0.12), the decoder as it is. That is the same function of
    every input. So it is with ``embedding_scale``, and with ``residual_scale`` in the layers that it follows.

    Args:
        state_dict: Ours.
        config: Ours.
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
    """An ``EsmForMaskedLM`` state dict as ours.

    Args:
        state_dict: Theirs, by the names of any version; rotary buffers and a tied decoder may be there or not.
        config: What the model is, its rotary frequencies included.
        source: The file, for errors.

    Raises:
        UserError: If a weight is missing, unexpected or of the wrong shape, or contradicts the config.
    """
    require_frequencies(config, _frequencies(state_dict), source)
    plain = {
        name: value
        for name, value in _todays_names(state_dict).items()
        if name not in _UNUSED and not _is_frequencies(name)
    }
    factor = embedding_factor(config)
    if factor != 1 and _TABLE in plain:
        unscaled = plain[_TABLE] / factor
        if config.tie_word_embeddings:
            # The decoder holds the table to the last bit; the scaled one has lost that.
            table = plain.get(_DECODER, unscaled)
            if table.shape != unscaled.shape or not (
                table.is_meta or torch.allclose(table, unscaled, rtol=1e-2, atol=1e-6)
            ):
                raise UserError(
                    f"{source}: '{_DECODER}' and '{_TABLE}' no longer are one table; if the model was trained"
                    f" elsewhere since its export, delete the section '{SECTION}' of config.json"
                )
            unscaled = table
        plain[_TABLE] = unscaled
    if config.tie_word_embeddings:
        plain.pop(_DECODER, None)
    return from_foreign(plain, config, NAMING, source)


def config_to_huggingface(config: ESM2Config, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The content of ``config.json``, with our own config in the section ``plm_composer``.

    Args:
        config: Ours.
        dtype: What the weights are stored in.
    """
    if inexpressible(config):
        # Nothing else: a size would have transformers make an ESM2 of it, with a warning and random weights.
        return {"model_type": OWN_TYPE, SECTION: config.to_mapping()}
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
        **{f"{name}_token_id": token_id for name, token_id in _SPECIAL_TOKENS.items() if name in ("pad", "mask")},
        "is_folding_model": False,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
        SECTION: config.to_mapping(),
    }


def config_from_huggingface(values: Mapping[str, Any], source: str = "config.json") -> ESM2Config:
    """Our config from the content of ``config.json``.

    Args:
        values: The content.
        source: The file, for errors.

    Raises:
        UserError: If it describes anything but an ESM2.
    """
    if values.get("model_type") == OWN_TYPE:
        if not isinstance(values.get(SECTION), Mapping):
            raise UserError(f"{source}: section '{SECTION}' is missing, which says what the model is")
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
        for name in inexpressible(config):
            raise UserError(f"{source}: model_type is 'esm', but {SECTION}.{name} says that it is no ESM2")
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
    base = values.get("rope_theta", ROTARY_BASE)  # transformers 5 alone has this key
    if base == ROTARY_BASE:
        return config
    if not isinstance(base, int | float) or not base > 0:
        raise UserError(f"{source}: rope_theta is {base!r}; it must be a number above 0")
    return dataclasses.replace(config, rotary_frequencies=tuple(inverse_frequencies(config.head_size, base).tolist()))


def read_config(folder: str | Path, trust: bool = False) -> ESM2Config:
    """Reads what the model in a folder is, without its weights (but for rotary frequencies, which lie among them).

    Args:
        folder: Holds ``config.json``.
        trust: As for ``load_huggingface``.

    Raises:
        UserError: If a file is missing or unreadable, or describes anything but an ESM2.
    """
    folder = Path(folder)
    config = _config_in(folder)
    path = _weights_in(folder)
    return with_stored_frequencies(config, _frequencies(read_weights(path, trust, _is_frequencies)), str(path))


def check_huggingface(folder: str | Path, trust: bool = False) -> None:
    """Checks that ``load_huggingface`` will find a whole model, from the names and shapes of its weights.

    Args:
        folder: Holds ``config.json``.
        trust: As for ``load_huggingface``.

    Raises:
        UserError: As for ``load_huggingface``, but for values that contradict the config.
    """
    folder = Path(folder)
    path = _weights_in(folder)
    _translate(read_shapes(path, trust), read_config(folder, trust), _own_names(folder), True, str(path))


def loader(config: ESM2Config) -> str:
    """Full name of the function that loads a model of this config from the folder that ``save_huggingface`` writes."""
    return "plm_composer.loading.load_model" if inexpressible(config) else "transformers.EsmForMaskedLM.from_pretrained"


def load_huggingface(
    folder: str | Path, trust: bool = False, head_required: bool = True
) -> tuple[ESM2Config, StateDict]:
    """Reads a folder of an ``EsmForMaskedLM``: published, fine-tuned, or one of our exports; or a variant of ours.

    Args:
        folder: Holds ``config.json`` and safetensors or PyTorch weights, whole or in parts.
        trust: Unpickle whatever PyTorch weights hold, code included; otherwise that is refused.
        head_required: Refuse an ``EsmModel`` or a classifier, which has no language-model head.

    Returns:
        Our config and state dict; without a head, the state dict has no ``lm_head``.

    Raises:
        UserError: If a file is missing or unreadable, or describes anything but an ESM2.
    """
    folder = Path(folder)
    config = _config_in(folder)
    vocabulary = folder / "vocab.txt"
    if vocabulary.exists() and tuple(vocabulary.read_text().split()) != VOCABULARY:
        raise UserError(f"{vocabulary}: not the 33 tokens of ESM2 in their order")
    path = _weights_in(folder)
    weights = read_weights(path, trust)
    config = with_stored_frequencies(config, _frequencies(weights), str(path))
    return _translate(weights, config, _own_names(folder), head_required, str(path))


def _config_in(folder: Path) -> ESM2Config:
    path = folder / "config.json"
    config = config_from_huggingface(read_json(path), str(path))
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}/adapter_config.json: an adapter belongs to the model; merge it into the weights first"
        )
    return config


def _own_names(folder: Path) -> bool:
    return read_json(folder / "config.json").get("model_type") == OWN_TYPE


def _weights_in(folder: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    raise UserError(f"{folder}: holds no weights; one of {', '.join(_WEIGHT_FILES)} is needed")


def _translate(
    weights: StateDict, config: ESM2Config, own_names: bool, head_required: bool, source: str
) -> tuple[ESM2Config, StateDict]:
    if own_names:
        return config, from_own(weights, config, source)
    theirs = _todays_names(weights)
    if any(name.startswith(_HEAD) for name in theirs):
        return config, from_huggingface(theirs, config, source)
    if head_required:
        raise UserError(
            f"{source}: holds no language-model head (it is an EsmModel or a classifier): enough for plm embed, "
            "and for nothing else"
        )
    theirs = {name: value for name, value in theirs.items() if not name.startswith(_OTHER_HEADS)}
    # With a head that is taken away again: what is checked is checked once. What has no decoder has none of its own.
    config = dataclasses.replace(config, tie_word_embeddings=True)
    with torch.device("meta"):
        whole = to_huggingface(ESM2(config).state_dict(), config)
    head = {name: torch.zeros(value.shape) for name, value in whole.items() if name.startswith(_HEAD)}
    head.pop(_DECODER, None)
    ours = from_huggingface({**theirs, **head}, config, source)
    return config, {name: value for name, value in ours.items() if not name.startswith(_HEAD)}


def _todays_names(weights: Mapping[str, Tensor]) -> StateDict:
    """The names that ``EsmForMaskedLM`` of transformers 4 has for the weights of any version and any of its models."""
    names = list(weights)
    prefix = "" if any(name.startswith(_BASE) for name in names) else _BASE
    renamed = {}
    for name, value in weights.items():
        for old, new in _OLD_ENDINGS.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        renamed[name if name.startswith((_HEAD, "classifier.")) else prefix + name] = value
    return renamed


def _frequencies(weights: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for name, value in weights.items() if _is_frequencies(name)]


def _is_frequencies(name: str) -> bool:
    return name.endswith(_ANY_FREQUENCIES)


def save_huggingface(model: ESM2, folder: str | Path) -> None:
    """Writes a model as a folder for ``transformers``: config, weights, tokenizer. Logits and contacts are the same.

    What ``EsmForMaskedLM`` cannot compute gets a folder that only ``load_huggingface`` reads.

    Args:
        model: The model, not sharded.
        folder: Made if it is not there; files of the same names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    if not inexpressible(model.config):
        weights = to_huggingface(weights, model.config)
    weights = {name: value.cpu().contiguous() for name, value in weights.items()}
    write_safetensors(folder / "model.safetensors", weights)
    special = {f"{name}_token": VOCABULARY[token_id] for name, token_id in _SPECIAL_TOKENS.items()}
    tokenizer = {"tokenizer_class": "EsmTokenizer", "clean_up_tokenization_spaces": False, **special}
    contents = {
        "config.json": config_to_huggingface(model.config, model.embedding.weight.dtype),
        "tokenizer_config.json": tokenizer,
        "special_tokens_map.json": special,
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
