"""Models by name: the published sizes, and those that users add."""

from __future__ import annotations

from plm_composer.config.registry import Registry
from plm_composer.errors import UserError
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.esm2 import ESM2

MODELS = Registry("models", PRESETS, base=(ESM2Config, ESM2))
"""An ``ESM2Config`` by name; or a subclass of ``ESM2`` that holds its own as ``preset``."""


def preset_of(name: str) -> ESM2Config:
    """Finds the config of a model that has a name.

    Args:
        name: A key of ``MODELS``.

    Raises:
        UserError: It is a class without a config.
    """
    entry = MODELS[name]
    if isinstance(entry, ESM2Config):
        return entry
    preset = getattr(entry, "preset", None)
    if not isinstance(preset, ESM2Config):
        raise UserError(f"models.{name}: {entry.__name__} needs `preset`, an ESM2Config, for what a YAML leaves out")
    return preset


def class_of(name: str | None) -> type[ESM2]:
    """Finds the class of a model that has a name; ``ESM2`` for a config's name, and for None."""
    entry = MODELS.get(name) if name is not None else None
    return entry if isinstance(entry, type) else ESM2
