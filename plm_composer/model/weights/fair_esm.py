"""ESM2 weights in the format of the ``fair-esm`` package and of the published ``esm2_*.pt`` files."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.rotary import rotary_frequencies
from plm_composer.model.weights.files import read_torch_file, write_torch_file
from plm_composer.model.weights.naming import (
    Naming,
    StateDict,
    embedding_factor,
    from_foreign,
    inexpressible,
    require_frequencies,
    to_foreign,
    with_stored_frequencies,
)

NAMING = Naming(
    modules={
        "embedding": "embed_tokens",
        "blocks.{}.attention_norm": "layers.{}.self_attn_layer_norm",
        "blocks.{}.attention.out": "layers.{}.self_attn.out_proj",
        "blocks.{}.feed_forward_norm": "layers.{}.final_layer_norm",
        "blocks.{}.feed_forward.up": "layers.{}.fc1",
        "blocks.{}.feed_forward.down": "layers.{}.fc2",
        "final_norm": "emb_layer_norm_after",
        "lm_head": "lm_head",
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "contact_head.regression": "contact_head.regression",
    },
    qkv=("layers.{}.self_attn.q_proj", "layers.{}.self_attn.k_proj", "layers.{}.self_attn.v_proj"),
)
_PREFIX = re.compile(r"^encoder\.(sentence_encoder\.)?")
_FREQUENCIES = "layers.{}.self_attn.rot_emb.inv_freq"
_ANY_FREQUENCIES = re.compile(r"(.*\.)?layers\.\d+\.self_attn\.rot_emb\.inv_freq")
CONTACT_SUFFIX = "-contact-regression.pt"
"""End of the name of the second file, which holds the contact head."""


def fold_embedding_factor(state_dict: StateDict, config: ESM2Config) -> tuple[StateDict, ESM2Config]:
    """Rewrites a model for the mask rate of 0.12 that other implementations hard-code; its outputs stay the same.

    The embeddings are multiplied by (1 - rate) / (1 - 0.12) and by ``embedding_scale``. A tied decoder uses the same
    table, so the norm before it is divided by that factor.

    Args:
        state_dict: Our state dict.
        config: Our config.

    Returns:
        State dict and config with ``token_dropout_mask_rate`` 0.12 and ``embedding_scale`` 1.
    """
    factor = embedding_factor(config)
    folded = dict(state_dict)
    if factor != 1:
        folded["embedding.weight"] = state_dict["embedding.weight"] * factor
        if config.tie_word_embeddings:
            for name in ("lm_head.norm.weight", "lm_head.norm.bias"):
                folded[name] = state_dict[name] / factor
    return folded, dataclasses.replace(config, token_dropout_mask_rate=ESM2_MASK_RATE, embedding_scale=1.0)


def check_fair_esm(config: ESM2Config) -> None:
    """Checks that fair-esm can represent a model.

    Raises:
        UserError: It cannot.
    """
    if fields := inexpressible(config):
        raise UserError(f"model.{fields[0]}: fair-esm supports only ESM2's own value; export to Hugging Face instead")
    if config.intermediate_size != 4 * config.hidden_size:
        raise UserError(
            f"model.intermediate_size: fair-esm supports only 4 x hidden_size, not {config.intermediate_size}"
        )
    if not config.tie_word_embeddings:
        raise UserError("model.tie_word_embeddings: fair-esm supports only tied tables; export to Hugging Face instead")
    if config.layer_norm_eps != 1e-5:
        raise UserError(f"model.layer_norm_eps: fair-esm supports only 1e-5, not {config.layer_norm_eps}")


def to_fair_esm(state_dict: StateDict, config: ESM2Config) -> StateDict:
    """Converts our state dict to one for ``esm.model.esm2.ESM2.load_state_dict``.

    Args:
        state_dict: Our state dict.
        config: Our config.

    Raises:
        UserError: fair-esm cannot represent the model.
    """
    check_fair_esm(config)
    foreign = to_foreign(*fold_embedding_factor(state_dict, config), NAMING)
    foreign["lm_head.weight"] = foreign["embed_tokens.weight"]
    for layer in range(config.num_hidden_layers):
        foreign[_FREQUENCIES.format(layer)] = rotary_frequencies(config)
    return foreign


def from_fair_esm(state_dict: Mapping[str, Tensor], config: ESM2Config, source: str = "state dict") -> StateDict:
    """Converts a fair-esm state dict to ours; prefixes of the published files and rotary buffers are optional.

    Args:
        state_dict: fair-esm's state dict.
        config: Our config of the model, with its rotary frequencies.
        source: Name of the file, for errors.

    Raises:
        UserError: A weight is missing, unexpected or of the wrong shape.
    """
    require_frequencies(config, _frequencies(state_dict), source)
    plain = {_PREFIX.sub("", name): value for name, value in state_dict.items() if not _is_frequencies(name)}
    plain.pop("lm_head.weight", None)
    return from_foreign(plain, config, NAMING, source)


def _frequencies(state_dict: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for name, value in state_dict.items() if _is_frequencies(name)]


def _is_frequencies(name: str) -> bool:
    return _ANY_FREQUENCIES.fullmatch(name) is not None


def load_fair_esm(path: str | Path, trust: bool = False) -> tuple[ESM2Config, StateDict]:
    """Reads a published ``esm2_*.pt`` file, or one that ``save_fair_esm`` wrote.

    The contact regression lies beside it (``*-contact-regression.pt``) or in the file; a model with neither gets a
    config without a contact head.

    Args:
        path: The file.
        trust: Whether to unpickle anything, code included; otherwise that is refused.

    Returns:
        Our config and state dict.

    Raises:
        UserError: The file is missing, unreadable or not an ESM2.
    """
    path = Path(path)
    content = read_torch_file(path, trust)
    state_dict = dict(content.get("model", {}))
    regression = path.with_name(path.stem + CONTACT_SUFFIX)
    if regression.exists():
        state_dict.update(read_torch_file(regression, trust).get("model", {}))
    try:
        model = content["cfg"]["model"]
        config = ESM2Config(
            num_hidden_layers=model.encoder_layers,
            hidden_size=model.encoder_embed_dim,
            num_attention_heads=model.encoder_attention_heads,
            intermediate_size=4 * model.encoder_embed_dim,
            token_dropout=model.token_dropout,
            contact_head="contact_head.regression.weight" in state_dict,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an ESM2 file of fair-esm (its 'cfg' lacks {error}); give an esm2_*.pt") from None
    config = with_stored_frequencies(config, _frequencies(state_dict), str(path))
    return config, from_fair_esm(state_dict, config, str(path))


def save_fair_esm(state_dict: StateDict, config: ESM2Config, path: str | Path) -> None:
    """Writes ``path`` and its contact regression, as ``esm.pretrained.load_model_and_alphabet_local`` reads them.

    Args:
        state_dict: Our state dict.
        config: Our config.
        path: The file; fair-esm requires a name that begins with ``esm2``.

    Raises:
        UserError: fair-esm cannot represent the model or would not recognise the name.
    """
    path = Path(path)
    if not path.name.startswith("esm2") or path.suffix != ".pt":
        raise UserError(f"{path}: fair-esm recognises its models by name; call the file esm2_something.pt")
    foreign = to_fair_esm(state_dict, config)
    contact = {name: foreign.pop(name) for name in list(foreign) if name.startswith("contact_head.")}
    model = argparse.Namespace(
        encoder_layers=config.num_hidden_layers,
        encoder_embed_dim=config.hidden_size,
        encoder_attention_heads=config.num_attention_heads,
        token_dropout=config.token_dropout,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_torch_file(path, {"cfg": {"model": model}, "model": foreign})
    write_torch_file(path.with_name(path.stem + CONTACT_SUFFIX), {"model": contact})
