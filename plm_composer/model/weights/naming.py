"""Translates between our parameter names and those of other ESM2 implementations.

Our model keeps queries, keys and values in one matrix, the others in three; they always have every bias and a contact
head, which ours may lack. A missing bias is written as zeros, which is the same model, and must be zero on reading.
Factors that they lack go into the weights. They cannot represent other variants: ``inexpressible`` names the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.esm2 import ESM2
from plm_composer.model.rotary import inverse_frequencies

StateDict = dict[str, Tensor]
HEAD, CLASSIFIER = "lm_head.", "classifier."
"""Prefixes of the parameters of the language-model head, ours and theirs, and of theirs of a classifier."""


@dataclasses.dataclass(frozen=True)
class Naming:
    """Another implementation's names for our modules.

    Args:
        modules: Their module names by ours; ``{}`` is the number of the block.
        qkv: Names of their three modules for our ``blocks.{}.attention.qkv``.
    """

    modules: dict[str, str]
    qkv: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class _Entry:
    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    absent: bool
    factor: float


_PLAIN = {
    "feed_forward": "gelu",
    "position_embedding_type": "rotary",
    "normalization": "layernorm",
    "qk_norm": False,
    "short_convolution": 0,
    "causal": False,
    "value_residual": False,
    "embedding_residual": False,
}
"""ESM2's values of fields whose other values no other implementation can represent."""
_SCALED = ("blocks.{}.attention.out", "blocks.{}.feed_forward.down")


def inexpressible(config: ESM2Config) -> list[str]:
    """Config fields that Hugging Face and fair-esm cannot represent; empty for a standard ESM2."""
    names = [name for name, value in _PLAIN.items() if getattr(config, name) != value]
    if config.attention_size != config.hidden_size:
        names.append("attention_head_size")
    return names


def to_foreign(state_dict: StateDict, config: ESM2Config, naming: Naming) -> StateDict:
    """Translates our state dict to another implementation's names.

    Args:
        state_dict: Our complete state dict.
        config: Our config.
        naming: The other implementation's names.

    Returns:
        Their state dict; biases and a contact head that our variant lacks are zero. Tied tables are written once.
    """
    dtype, device = state_dict["embedding.weight"].dtype, state_dict["embedding.weight"].device
    foreign: StateDict = {}
    for entry in _entries(config, naming):
        ours = torch.zeros(entry.shape, dtype=dtype, device=device) if entry.absent else state_dict[entry.ours]
        pieces = (ours.detach() * entry.factor).chunk(len(entry.theirs))
        foreign.update((name, piece.clone()) for name, piece in zip(entry.theirs, pieces, strict=True))
    return foreign


def from_foreign(state_dict: StateDict, config: ESM2Config, naming: Naming, source: str) -> StateDict:
    """Translates another implementation's state dict to our names.

    Args:
        state_dict: Their state dict, without buffers and tied copies.
        config: Our config of the model.
        naming: The other implementation's names.
        source: Name of the file, for errors.

    Returns:
        Our state dict, for ``ESM2(config).load_state_dict``.

    Raises:
        UserError: A key is missing, unexpected or of the wrong shape, or a parameter that this variant lacks is not
            zero.
    """
    rest = dict(state_dict)
    ours: StateDict = {}
    for entry in _entries(config, naming):
        shape = (entry.shape[0] // len(entry.theirs), *entry.shape[1:])
        pieces = []
        for name in entry.theirs:
            if name not in rest and entry.absent:
                continue
            pieces.append(_take(rest, name, shape, source))
        if not entry.absent:
            ours[entry.ours] = torch.cat(pieces) / entry.factor
        elif any(not piece.is_meta and bool(piece.any()) for piece in pieces):
            raise UserError(
                f"{source}: '{entry.theirs[0]}' is not zero, but the config says that the model lacks it;"
                " if it was trained elsewhere since, delete the section 'plm_composer' of config.json"
            )
    if rest:
        raise UserError(f"{source}: unexpected weight '{min(rest)}'; only plain ESM2 models with a masked-LM head fit")
    return ours


def with_stored_frequencies(config: ESM2Config, stored: Sequence[Tensor], source: str) -> ESM2Config:
    """Returns the config with the rotary frequencies that a file holds, as fair-esm and transformers load them.

    Args:
        config: The config without them.
        stored: The frequencies of each layer that has some, shape (head_size / 2,) each, in any precision.
        source: Name of the file, for errors.

    Raises:
        UserError: Layers differ, or the number of frequencies does not fit the head width.
    """
    if not stored:
        return config
    first = stored[0].float()
    if any(not torch.equal(first, other.float()) for other in stored):
        raise UserError(
            f"{source}: the layers have different rotary frequencies; only ESM2 models fit, which share them"
        )
    if torch.equal(first, inverse_frequencies(config.head_size)):
        return dataclasses.replace(config, rotary_frequencies=None)
    return dataclasses.replace(config, rotary_frequencies=tuple(first.tolist()))


def require_frequencies(config: ESM2Config, stored: Sequence[Tensor], source: str) -> None:
    """Checks that a file's rotary frequencies are the config's; arguments as for ``with_stored_frequencies``.

    Raises:
        UserError: They differ.
    """
    readable = [values for values in stored if not values.is_meta]
    if readable and with_stored_frequencies(config, readable, source) != config:
        raise UserError(f"{source}: the rotary frequencies are not those of the config")


def from_own(
    state_dict: Mapping[str, Tensor], config: ESM2Config, head_required: bool, source: str
) -> tuple[ESM2Config, StateDict]:
    """Checks that a state dict in our own names fits a config.

    Args:
        state_dict: Our state dict, or that of a model of ``remote_code``, which has the same names.
        config: Our config of the model.
        head_required: Whether to refuse a classifier, or a model without any head.
        source: Name of the file, for errors.

    Returns:
        Our config and state dict; without a head, the state dict has no ``lm_head``.

    Raises:
        UserError: A key is missing, unexpected or of the wrong shape, or the head is missing.
    """
    rest = dict(state_dict)
    has_head = any(name.startswith(HEAD) for name in rest)
    if not has_head:
        check_headless(head_required, source)
        rest = {name: value for name, value in rest.items() if not name.startswith(CLASSIFIER)}
        config = dataclasses.replace(config, tie_word_embeddings=True)  # there is no decoder either
    with torch.device("meta"):
        expected = {name: value for name, value in ESM2(config).state_dict().items() if has_head or HEAD not in name}
    ours = {name: _take(rest, name, tuple(value.shape), source) for name, value in expected.items()}
    if rest:
        raise UserError(f"{source}: unexpected weight '{min(rest)}'; the config describes no such weight")
    return config, ours


def check_headless(head_required: bool, source: str) -> None:
    """Refuses weights without a language-model head where one is required.

    Raises:
        UserError: It is required.
    """
    if head_required:
        raise UserError(
            f"{source}: holds no language-model head (it is a model without one, or a classifier), which everything "
            "but plm embed needs"
        )


def _take(rest: StateDict, name: str, shape: tuple[int, ...], source: str) -> Tensor:
    if name not in rest:
        raise UserError(f"{source}: weight '{name}' is missing; the file is not a complete ESM2")
    value = rest.pop(name)
    if tuple(value.shape) != shape:
        raise UserError(f"{source}: weight '{name}' has shape {tuple(value.shape)}, but the config says {shape}")
    return value


def embedding_factor(config: ESM2Config) -> float:
    """Factor for the embeddings in implementations without ``embedding_scale`` and with a mask rate of 0.12."""
    if not config.token_dropout or config.token_dropout_mask_rate == ESM2_MASK_RATE:
        return config.embedding_scale
    return config.embedding_scale * (1 - config.token_dropout_mask_rate) / (1 - ESM2_MASK_RATE)


def _entries(config: ESM2Config, naming: Naming) -> Iterator[_Entry]:
    # The full model on the meta device gives every shape; the variant's own keys show what it lacks.
    full = dataclasses.replace(
        config, qkv_bias=True, intermediate_bias=True, output_bias=True, norm_bias=True, contact_head=True
    )
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ESM2(full).state_dict().items()}
        present = ESM2(config).state_dict().keys()
    for name, shape in shapes.items():
        module, _, parameter = name.rpartition(".")
        parts = module.split(".")
        block = parts[1] if parts[0] == "blocks" else ""
        pattern = ".".join(["blocks", "{}", *parts[2:]]) if block else module
        modules = naming.qkv if pattern == "blocks.{}.attention.qkv" else (naming.modules[pattern],)
        theirs = tuple(f"{foreign.format(block)}.{parameter}" for foreign in modules)
        factor = config.residual_scale if pattern in _SCALED else 1.0
        yield _Entry(name, theirs, shape, name not in present, factor)
