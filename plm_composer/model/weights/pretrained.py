"""Loads the model that ``model.pretrained`` names, as it is or stacked to ``model.stack_to`` layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from plm_composer.errors import UserError
from plm_composer.model.config import ESM2Config
from plm_composer.model.weights.huggingface_folder import check_huggingface, load_huggingface, read_config
from plm_composer.model.weights.stacking import stack, stacked_config


def check_pretrained(section: Mapping[str, Any], trust: bool = False) -> None:
    """Checks a ``model`` section with ``pretrained``, and the names and shapes of the weights.

    Args:
        section: The section.
        trust: Whether to unpickle anything in PyTorch weights, code included; otherwise that is refused.

    Raises:
        UserError: The section has other keys, the model is missing or incomplete, or ``stack_to`` is not deeper.
    """
    if set(section) - {"pretrained", "stack_to"}:
        raise UserError("model.pretrained brings its own config; leave out the other keys of model (but stack_to)")
    folder = _folder(section)
    if not (folder / "config.json").is_file():
        raise UserError(f"model.pretrained: {folder} is not a Hugging Face folder: it has no config.json")
    check_huggingface(folder, trust)
    if section.get("stack_to") is not None:
        pretrained_config(section, trust)


def pretrained_config(section: Mapping[str, Any], trust: bool = False) -> ESM2Config:
    """The config of the model, without reading weights.

    Args:
        section: The ``model`` section. Its ``pretrained`` is a Hugging Face folder, or a run folder with an export.
        trust: Whether to unpickle anything in PyTorch weights, code included; otherwise that is refused.

    Raises:
        UserError: The config is missing or not an ESM2's, or ``stack_to`` is not deeper.
    """
    config = read_config(_folder(section), trust)
    depth = section.get("stack_to")
    return config if depth is None else stacked_config(config, depth)


def load_pretrained(section: Mapping[str, Any], trust: bool = False) -> tuple[ESM2Config, Mapping[str, Tensor]]:
    """The config and the weights of the model.

    Args:
        section: As for ``pretrained_config``.
        trust: Whether to unpickle anything in PyTorch weights, code included; otherwise that is refused.

    Raises:
        UserError: The model is missing, incomplete or not an ESM2, or ``stack_to`` is not deeper.
    """
    config, weights = load_huggingface(_folder(section), trust)
    depth = section.get("stack_to")
    if depth is None:
        return config, weights
    return stacked_config(config, depth), stack(weights, config, depth)


def _folder(section: Mapping[str, Any]) -> Path:
    folder = Path(str(section["pretrained"]))
    exported = folder / "export"
    return exported if not (folder / "config.json").is_file() and (exported / "config.json").is_file() else folder
