"""Models by name: the published sizes, and those that users register."""

from __future__ import annotations

from plm_composer.config.registry import Registry
from plm_composer.errors import UserError
from plm_composer.model.config import PRESETS, ESM2Config
from plm_composer.model.esm2 import ESM2

MODELS = Registry("models", PRESETS, base=(ESM2Config, ESM2))
"""By name, an ``ESM2Config``, or a subclass of ``ESM2`` whose ``preset`` is one."""


def preset_of(name: str) -> ESM2Config:
    """Finds the config of a named model.

    Args:
        name: A key of ``MODELS``.

    Raises:
        UserError: The model is a class without a ``preset``.
    """
    entry = MODELS[name]
    if isinstance(entry, ESM2Config):
        return entry
    preset = getattr(entry, "preset", None)
    if not isinstance(preset, ESM2Config):
        raise UserError(f"models.{name}: {entry.__name__} needs `preset`, an ESM2Config, for values that a YAML omits")
    return preset


def class_of(name: str | None) -> type[ESM2]:
    """Finds the class of a named model; ``ESM2`` for the name of a config, and for None."""
    entry = MODELS.get(name) if name is not None else None
    return entry if isinstance(entry, type) else ESM2
