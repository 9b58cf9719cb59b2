"""ESM2 weights as Hugging Face folders: ``transformers.EsmForMaskedLM`` and ``AutoTokenizer`` load what we write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.layout import inverse_frequencies
from plm_composer.model.naming import Naming, StateDict, from_foreign, mask_rate_factor, to_foreign
from plm_composer.model.weight_files import read_torch_file
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
_TABLE, _DECODER = "esm.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
_FREQUENCIES = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
_UNUSED = ("esm.embeddings.position_ids", "esm.embeddings.position_embeddings.weight")
"""Published checkpoints carry these; a model with rotary positions does not use them."""
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SPECIAL_TOKENS = {"cls": CLS_ID, "pad": PAD_ID, "eos": EOS_ID, "unk": UNK_ID, "mask": MASK_ID}


def to_huggingface(state_dict: StateDict, config: ESM2Config) -> StateDict:
    """Our state dict as ``EsmForMaskedLM`` takes it.

    ``EsmForMaskedLM`` hard-codes a mask rate of 0.12 in its token dropout. A model with another rate is written with
    two tables: the embeddings scaled by (1 - rate) / (1 - 0.12), the decoder as it is. That is the same function of
    every input.

    Args:
        state_dict: Ours.
        config: Ours.
    """
    foreign = to_foreign(state_dict, config, NAMING)
    factor = mask_rate_factor(config)
    if factor != 1:
        foreign.setdefault(_DECODER, foreign[_TABLE])
        foreign[_TABLE] = foreign[_TABLE] * factor
    for layer in range(config.num_hidden_layers):
        foreign[_FREQUENCIES.format(layer)] = inverse_frequencies(config.head_size)
    return foreign


def from_huggingface(state_dict: Mapping[str, Tensor], config: ESM2Config, source: str = "state dict") -> StateDict:
    """An ``EsmForMaskedLM`` state dict as ours.

    Args:
        state_dict: Theirs; rotary buffers and a tied decoder may be there or not.
        config: What the model is.
        source: The file, for errors.

    Raises:
        UserError: If a weight is missing, unexpected or of the wrong shape, or contradicts the config.
    """
    plain = {name: value for name, value in state_dict.items() if name not in _UNUSED}
    for layer in range(config.num_hidden_layers):
        plain.pop(_FREQUENCIES.format(layer), None)
    factor = mask_rate_factor(config)
    if factor != 1 and _TABLE in plain:
        unscaled = plain[_TABLE] / factor
        if config.tie_word_embeddings:
            # The decoder holds the table to the last bit; the scaled one has lost that.
            table = plain.get(_DECODER, unscaled)
            if table.shape != unscaled.shape or not torch.allclose(table, unscaled, rtol=1e-2, atol=1e-6):
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
    return {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "token_dropout": config.token_dropout,
        "tie_word_embeddings": config.tie_word_embeddings and mask_rate_factor(config) == 1,
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
    for key in ("emb_layer_norm_before", "is_folding_model", "is_decoder", "add_cross_attention"):
        if values.get(key):
            raise UserError(f"{source}: {key} is {values[key]!r}; only plain ESM2 models fit")
    if SECTION in values:
        return ESM2Config.from_mapping(values[SECTION], f"{source}: {SECTION}")
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "layer_norm_eps")
    for name in names:
        if name not in values:
            raise UserError(f"{source}: key '{name}' is missing")
    return ESM2Config(
        **{name: values[name] for name in names},
        # transformers' own defaults for keys that config.json leaves out.
        token_dropout=values.get("token_dropout", False),
        token_dropout_mask_rate=ESM2_MASK_RATE,
        tie_word_embeddings=values.get("tie_word_embeddings", True),
        initializer_range=values.get("initializer_range", 0.02),
    )


def read_config(folder: str | Path) -> ESM2Config:
    """Reads what the model in a folder is, without its weights.

    Args:
        folder: Holds ``config.json``.

    Raises:
        UserError: If the file is missing or unreadable, or describes anything but an ESM2.
    """
    path = Path(folder, "config.json")
    return config_from_huggingface(_read_json(path), str(path))


def load_huggingface(folder: str | Path, trust: bool = False) -> tuple[ESM2Config, StateDict]:
    """Reads a folder of an ``EsmForMaskedLM``: published, fine-tuned, or one of our exports.

    Args:
        folder: Holds ``config.json`` and safetensors or PyTorch weights, whole or in parts.
        trust: Unpickle whatever PyTorch weights hold, code included; otherwise that is refused.

    Returns:
        Our config and state dict.

    Raises:
        UserError: If a file is missing or unreadable, or describes anything but an ESM2.
    """
    folder = Path(folder)
    config = read_config(folder)
    vocabulary = folder / "vocab.txt"
    if vocabulary.exists() and tuple(vocabulary.read_text().split()) != VOCABULARY:
        raise UserError(f"{vocabulary}: not the 33 tokens of ESM2 in their order")
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return config, from_huggingface(_read_weights(folder / name, trust), config, str(folder / name))
    raise UserError(f"{folder}: holds no weights; one of {', '.join(_WEIGHT_FILES)} is needed")


def save_huggingface(model: ESM2, folder: str | Path) -> None:
    """Writes a model as a folder for ``transformers``: config, weights, tokenizer. Logits and contacts are the same.

    Args:
        model: The model, not sharded.
        folder: Made if it is not there; files of the same names are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.cpu().contiguous() for name, value in to_huggingface(model.state_dict(), model.config).items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the folder of a saved EsmForMaskedLM") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


def _read_weights(path: Path, trust: bool) -> StateDict:
    if path.suffix == ".json":
        weights: StateDict = {}
        for part in sorted(set(_read_json(path).get("weight_map", {}).values())):
            weights |= _read_weights(path.with_name(part), trust)
        return weights
    if path.suffix != ".safetensors":
        return read_torch_file(path, trust)
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, though its index names it") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error})") from None
