"""Our parameter names against those of other ESM2 implementations, and the one routine that translates both ways.

Ours keeps queries, keys and values in one matrix, the others in three; they always have every bias and a contact
head, ours may lack them. A missing bias is written as zeros, which is the same model, and has to be zero on reading.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2_MASK_RATE, ESM2Config
from plm_composer.model.esm2 import ESM2

StateDict = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Naming:
    """Another implementation's names for our modules.

    Args:
        modules: Our module name to theirs; ``{}`` is the number of the block.
        qkv: Their three modules for our ``blocks.{}.attention.qkv``.
    """

    modules: dict[str, str]
    qkv: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class _Entry:
    ours: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    absent: bool


def to_foreign(state_dict: StateDict, config: ESM2Config, naming: Naming) -> StateDict:
    """Translates our state dict to another implementation's names.

    Args:
        state_dict: Ours, complete.
        config: Our model's config.
        naming: Their names.

    Returns:
        Their state dict; what our variant lacks (biases, contact head) is zero. Tied tables are written once.
    """
    dtype, device = state_dict["embedding.weight"].dtype, state_dict["embedding.weight"].device
    foreign: StateDict = {}
    for entry in _entries(config, naming):
        ours = torch.zeros(entry.shape, dtype=dtype, device=device) if entry.absent else state_dict[entry.ours]
        pieces = ours.detach().chunk(len(entry.theirs))
        foreign.update((name, piece.clone()) for name, piece in zip(entry.theirs, pieces, strict=True))
    return foreign


def from_foreign(state_dict: StateDict, config: ESM2Config, naming: Naming, source: str) -> StateDict:
    """Translates another implementation's state dict to our names.

    Args:
        state_dict: Theirs, without buffers and tied copies.
        config: The config of the model to be filled.
        naming: Their names.
        source: The file, for errors.

    Returns:
        Ours, as ``ESM2(config).load_state_dict`` takes it.

    Raises:
        UserError: If a key is missing, unexpected or of the wrong shape, or if a parameter that this variant lacks is
            not zero.
    """
    rest = dict(state_dict)
    ours: StateDict = {}
    for entry in _entries(config, naming):
        shape = (entry.shape[0] // len(entry.theirs), *entry.shape[1:])
        pieces = []
        for name in entry.theirs:
            if name not in rest:
                if entry.absent:
                    continue
                raise UserError(f"{source}: weight '{name}' is missing; the file is no complete ESM2")
            pieces.append(rest.pop(name))
            if tuple(pieces[-1].shape) != shape:
                raise UserError(
                    f"{source}: weight '{name}' has shape {tuple(pieces[-1].shape)}, but the config says {shape}"
                )
        if not entry.absent:
            ours[entry.ours] = torch.cat(pieces) if len(pieces) > 1 else pieces[0].clone()
        elif any(bool(piece.any()) for piece in pieces):
            raise UserError(
                f"{source}: '{entry.theirs[0]}' is not zero, but the config says that the model lacks it;"
                " if it was trained elsewhere since, delete the section 'plm_composer' of config.json"
            )
    if rest:
        raise UserError(f"{source}: unexpected weight '{min(rest)}'; only plain ESM2 models with a masked-LM head fit")
    return ours


def mask_rate_factor(config: ESM2Config) -> float:
    """What embeddings must be multiplied with so that a hard-coded mask rate of 0.12 has the effect of the config's."""
    if not config.token_dropout or config.token_dropout_mask_rate == ESM2_MASK_RATE:
        return 1.0
    return (1 - config.token_dropout_mask_rate) / (1 - ESM2_MASK_RATE)


def _entries(config: ESM2Config, naming: Naming) -> Iterator[_Entry]:
    # The full model on the meta device knows every shape; the variant's own keys tell what it lacks.
    full = dataclasses.replace(config, qkv_bias=True, intermediate_bias=True, contact_head=True)
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
        yield _Entry(name, theirs, shape, name not in present)
