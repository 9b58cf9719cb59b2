"""Loads a run's config from a YAML, recipes and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from plm_composer.config.merge import merge_config
from plm_composer.config.schema import TrainConfig


def load_config(path: str | Path, arguments: Sequence[str] = ()) -> TrainConfig:
    """Merges a YAML, recipes and overrides, and checks every key and type.

    Args:
        path: The run's YAML.
        arguments: ``key=value`` overrides, with dots for nesting; ``recipe=a,b`` names recipes.

    Returns:
        The config, with interpolations resolved and ``run_name`` set.

    Raises:
        UserError: A file cannot be read, a key is unknown, a value has the wrong type or is a secret.
    """
    return merge_config(path, arguments, _hint_of)


def _hint_of(config: DictConfig, path: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    # Imported here, because these imports take seconds: a mistyped key is reported before them.
    from plm_composer.run.named_parts import hint_of

    return hint_of(config, path)
